// Lines over numbers, with the values at the pointer or, by arrow keys, at the chosen place.
"use strict";

const LINES = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];

/** Round steps that cut a range into about `count` parts. */
function ticks(low, high, count = 4) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(+value.toPrecision(10));
  return found;
}

/** The ticks of an axis as text, all with as many digits after the point as their step has. */
function named(values) {
  const step = values.length > 1 ? values[1] - values[0] : values[0] || 1;
  const digits = Math.min(Math.max(-Math.floor(Math.log10(Math.abs(step)) + 1e-9), 0), 6);
  return values.map((value) => [value, value.toFixed(digits)]);
}

/**
 * A chart of lines.
 *
 * @param title what it shows
 * @param lines [{name, points: [[x, y], …], dashed}]
 * @param x,y names of the axes
 */
function lineChart(title, lines, x, y, { zero = false } = {}) {
  const shown = lines.filter((line) => line.points.length);
  if (!shown.length) return null;
  const [W, H, left, bottom, top, right] = [420, 240, y ? 64 : 50, 34, 8, 14];
  const all = shown.flatMap((line) => line.points);
  const range = (i) => [Math.min(...all.map((p) => p[i])), Math.max(...all.map((p) => p[i]))];
  let [[x0, x1], [y0, y1]] = [range(0), range(1)];
  if (zero) y0 = Math.min(y0, 0);
  if (x1 === x0) x1 = x0 + 1;
  if (y1 === y0) [y0, y1] = [y0 - 0.5, y1 + 0.5];
  const across = (value) => left + (value - x0) / (x1 - x0) * (W - left - right);
  const up = (value) => H - bottom - (value - y0) / (y1 - y0) * (H - bottom - top);
  const marker = svg("line", { y1: top, y2: H - bottom, stroke: "currentColor", "stroke-dasharray": "3 3", visibility: "hidden" });
  const told = el("figcaption", { "aria-live": "polite", text: "\u00a0" });
  const places = [...new Set(all.map((p) => p[0]))].sort((a, b) => a - b);
  let at = -1;
  const tell = (index) => {
    at = Math.min(Math.max(index, 0), places.length - 1);
    const place = places[at];
    marker.setAttribute("x1", across(place));
    marker.setAttribute("x2", across(place));
    marker.setAttribute("visibility", "visible");
    const values = shown.map((line) => {
      const point = line.points.findLast((p) => p[0] <= place) ?? line.points[0];
      return `${line.name} ${short(point[1])}`;
    });
    told.textContent = `${x} ${short(place)}: ${values.join(", ")}`;
  };
  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    const value = x0 + ((event.clientX - box.left) / box.width * W - left) / (W - left - right) * (x1 - x0);
    tell(places.reduce((best, place, i) => (Math.abs(place - value) < Math.abs(places[best] - value) ? i : best), 0));
  };
  const chart = svg("svg", {
    class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0, "aria-label": `${title}; arrow keys tell the values`,
    onpointermove: nearest, onpointerdown: nearest,
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
      if (step) { event.preventDefault(); tell(at + step); }
    },
  },
  named(ticks(y0, y1, 5)).map(([value, text]) => [
    svg("line", { class: "grid-line", x1: left, x2: W - right, y1: up(value), y2: up(value) }),
    svg("text", { x: left - 6, y: up(value) + 4, "text-anchor": "end", text })]),
  named(ticks(x0, x1, 5)).map(([value, text]) => svg("text", { x: across(value), y: H - bottom + 16, "text-anchor": "middle", text })),
  svg("text", { x: (W + left) / 2, y: H - 3, "text-anchor": "middle", text: x }),
  y ? svg("text", { x: 11, y: (H - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(H - bottom) / 2})`, text: y }) : null,
  shown.map((line, i) => svg("polyline", {
    points: line.points.map(([a, b]) => `${across(a).toFixed(1)},${up(b).toFixed(1)}`).join(" "),
    fill: "none", stroke: line.colour ?? LINES[i % LINES.length], "stroke-width": 2, "stroke-dasharray": line.dashed ? "6 4" : null,
  })),
  marker);
  const legend = el("div", { class: "legend" }, shown.map((line, i) => {
    const mark = el("i", { class: line.dashed ? "dashed" : null });
    mark.style.borderColor = line.colour ?? LINES[i % LINES.length];
    return el("span", {}, mark, line.name);
  }));
  return el("figure", {}, el("h3", { text: title }), chart, shown.length > 1 ? legend : null, told);
}
