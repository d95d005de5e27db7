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
  const alpha = 0.85 * share;
  node.style.background = `rgba(var(--cell), ${alpha.toFixed(3)})`;
  onTheme(() => {
    const style = getComputedStyle(document.documentElement), over = style.getPropertyValue("--cell").split(",").map(Number);
    const paper = channels(style.getPropertyValue("--paper")), ground = paper.map((value, i) => value + alpha * (over[i] - value));
    const inks = ["--ink", "--paper"].map((name) => [contrast(channels(style.getPropertyValue(name)), ground), name]);
    node.style.color = `var(${inks.sort((a, b) => b[0] - a[0])[0][1]})`;
  });
  return node;
}

/** #rgb or #rrggbb as [r, g, b]. */
function channels(hex) {
  const digits = hex.trim().slice(1), wide = digits.length === 3 ? [...digits].map((digit) => digit + digit).join("") : digits;
  return [0, 2, 4].map((at) => parseInt(wide.slice(at, at + 2), 16));
}

/** Contrast of two colours, 1 to 21, as WCAG 2.1 has it. */
function contrast(one, other) {
  const [low, high] = [one, other].map((colour) => colour.map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0)).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
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
function onTheme(draw) { themes.push(draw); draw(); }

function theme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light page" : "Dark page";
  themes.forEach((draw) => draw());
}
document.getElementById("theme").addEventListener("click", () =>
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
