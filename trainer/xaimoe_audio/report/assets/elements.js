// Building blocks. Text from the dataset is only ever set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** An element of HTML; `of` holds attributes, `on…` handlers, and `text`. */
function el(name, of = {}, ...children) {
  return fill(document.createElement(name), of, children);
}

/** An element of SVG. */
function svg(name, of = {}, ...children) {
  return fill(document.createElementNS(SVG, name), of, children);
}

function fill(node, of, children) {
  for (const [key, value] of Object.entries(of)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "text") node.textContent = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const short = (value) => (Math.abs(value) >= 100 || Number.isInteger(value) ? Math.round(value).toString() : value.toPrecision(3));
const hertz = (value) => (value >= 1000 ? `${+(value / 1000).toPrecision(3)}k` : `${+value.toPrecision(3)}`);

function macs(value) {
  return value >= 1e6 ? `${(value / 1e6).toFixed(1)} M` : `${Math.round(value / 1e3)} k`;
}

/** A table; cells are text, numbers, or nodes. */
function table(head, rows, caption, wide = false) {
  const cell = (value, i, tag = "td") => {
    if (value instanceof Node) return value.nodeName === "TD" ? value : el(tag, {}, value);
    return el(tag, { text: value ?? "–", class: typeof value === "number" || (i && tag === "th" && head.numbers?.[i]) ? "number" : null });
  };
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption ?? "table" },
    el("table", { class: wide ? "wide" : null },
      el("thead", {}, el("tr", {}, head.map((text) => el("th", { text, scope: "col" })))),
      el("tbody", {}, rows.map(([first, ...rest]) =>
        el("tr", {}, el("th", { text: first, scope: "row" }), rest.map((value, i) => cell(value, i + 1)))))));
}

/** A cell whose ground is the darker the larger its share, 0…1. */
function shaded(text, share, title) {
  const node = el("td", { class: "shade", text, title });
  node.style.background = `rgba(var(--cell), ${(0.85 * share).toFixed(3)})`;
  if (share > 0.55) node.style.color = "var(--on-accent)";
  return node;
}

/** A section of the page with its line in the contents; nothing if there is nothing to show. */
function section(id, title, ...children) {
  const shown = children.flat().filter(Boolean);
  if (!shown.length) return;
  document.getElementById("contents").append(el("li", {}, el("a", { href: `#${id}`, text: title })));
  document.getElementById("main").append(el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title`, text: title }), shown));
}

const tile = (value, name) => el("div", { class: "tile" }, el("b", { text: value }), el("span", { text: name }));

/** The colour of a share 0…1 as [r, g, b]. */
function viridis(share) {
  const steps = data.viridis, place = Math.min(Math.max(share, 0), 1) * (steps.length - 1);
  const low = Math.min(Math.floor(place), steps.length - 2), part = place - low;
  const of = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [of(steps[low]), of(steps[low + 1])];
  return a.map((value, i) => Math.round(value + part * (b[i] - value)));
}

const themes = [];
/** Calls back now and whenever the theme changes. */
function onTheme(draw) { themes.push(draw); }

function theme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light page" : "Dark page";
  themes.forEach((draw) => draw());
}
document.getElementById("theme").addEventListener("click", () =>
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
