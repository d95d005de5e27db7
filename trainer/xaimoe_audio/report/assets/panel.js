// One clip: spectrogram, what lies over it, its patches, and which expert heard which.
"use strict";

const LAYERS = { none: () => "Spectrogram", saliency: () => "Saliency", gradcam: (clip) => `Grad-CAM for ${clip.label}` };

const bytes = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

/** Number of the patch that answers for each cell of the geometry, along one axis. */
function nearest(edges) {
  const found = new Uint16Array(edges.at(-1));
  for (let i = 0; i + 1 < edges.length; i++) found.fill(i, edges[i], edges[i + 1]);
  return found;
}

/** A panel into which clips are put: `show(clip)`, with shades as Uint8Array in `clip.spectrogram` and `clip.gradcam`. */
function panel() {
  const g = data.geometry, rows = nearest(g.row_edges), columns = nearest(g.column_edges);
  const across = g.column_edges.length - 1, seconds = g.frames * g.frame_s;
  const canvas = el("canvas", { width: g.frames, height: g.bands, "aria-hidden": true });
  const over = svg("svg", { class: "over-picture", viewBox: `0 0 ${g.frames} ${g.bands}`, preserveAspectRatio: "none", role: "group", "aria-label": "Patches; arrow keys go from one to the next" });
  const time = el("div", { class: "seconds" }), lanes = el("div", { class: "lanes" });
  const told = el("p", { class: "told", "aria-live": "polite" }), facts = el("div");
  const layers = el("div", { class: "bar", role: "group", "aria-label": "What lies over the spectrogram" });
  let clip = null, layer = "saliency";

  const hz = el("div", { class: "hz" }, roundFrequencies(g.centres_hz).map(([value, place]) => {
    const mark = el("span", { text: hertz(value) });
    mark.style.bottom = `${100 * place}%`;
    return mark;
  }));

  function draw() {
    if (!clip) return;
    const dark = document.documentElement.dataset.theme === "dark";
    const image = new ImageData(g.frames, g.bands), most = Math.max(...clip.saliency, 1e-9), end = endOf(clip);
    for (let f = 0; f < g.bands; f++) {
      for (let t = 0; t < g.frames; t++) {
        const cell = f * g.frames + t, at = 4 * ((g.bands - 1 - f) * g.frames + t);
        const shade = dark ? clip.spectrogram[cell] : 255 - clip.spectrogram[cell];
        let heat = 0;
        if (layer === "saliency") heat = clip.saliency[rows[f] * across + columns[t]] / most;
        else if (layer === "gradcam" && clip.gradcam) heat = clip.gradcam[cell] / 255;
        const alpha = layer === "none" ? 0 : 0.6 * heat, colour = viridis(heat);
        for (let i = 0; i < 3; i++) image.data[at + i] = shade + alpha * (colour[i] - shade);
        image.data[at + 3] = t > end ? 110 : 255; // what is only repeated is pale
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
  onTheme(draw);

  function tell(patch) {
    over.querySelectorAll(".here").forEach((node) => node.classList.remove("here"));
    if (patch === null) { told.textContent = "Point at a patch, or go to one with Tab and the arrow keys."; return; }
    over.children[patch].classList.add("here");
    told.textContent = describe(patch);
  }

  function describe(patch) {
    const row = Math.floor(patch / across), column = patch % across;
    const from = clip.start_s + g.column_edges[column] * g.frame_s, to = clip.start_s + g.column_edges[column + 1] * g.frame_s;
    const low = g.centres_hz[g.row_edges[row]], high = g.centres_hz[g.row_edges[row + 1] - 1];
    const heard = clip.pairs.filter(([p]) => p === patch).sort((a, b) => b[2] - a[2]);
    const experts = heard.map(([, e, gate]) => `${g.experts[e]} (gate ${gate.toFixed(2)})`);
    return `${from.toFixed(2)} to ${to.toFixed(2)} s, ${hertz(low)} to ${hertz(high)} Hz: saliency ${percent(clip.saliency[patch])}; ` +
      (experts.length ? `heard by ${experts.join(", ")}.` : "heard by no expert.");
  }

  function patches() {
    const heard = new Set(clip.pairs.map(([p]) => p)), count = clip.saliency.length;
    over.replaceChildren(...Array.from({ length: count }, (_, patch) => {
      const row = Math.floor(patch / across), column = patch % across;
      const [x, end] = [g.column_edges[column], g.column_edges[column + 1]];
      const [low, high] = [g.row_edges[row], g.row_edges[row + 1]];
      const to = (other) => over.children[Math.min(Math.max(other, 0), count - 1)].focus();
      return svg("rect", {
        class: heard.has(patch) ? "patch heard" : "patch", x, y: g.bands - high, width: end - x, height: high - low,
        tabindex: patch === 0 ? 0 : -1, role: "img", "aria-label": describe(patch),
        onpointerenter: () => tell(patch), onfocus: () => tell(patch), onclick: () => tell(patch),
        onkeydown: (event) => {
          const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: across, ArrowDown: -across }[event.key];
          if (step) { event.preventDefault(); to(patch + step); }
        },
      });
    }));
  }

  function experts() {
    const sums = new Map(), most = Math.max(...clip.pairs.map(([, , gate]) => gate), 1e-9);
    for (const [, e, gate] of clip.pairs) sums.set(e, (sums.get(e) ?? 0) + gate);
    const used = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a)), high = g.row_edges.length - 1;
    lanes.replaceChildren(...(used.length ? used.map((e) => el("div", { class: "lane" },
      el("span", { text: g.experts[e] }),
      svg("svg", { viewBox: `0 0 ${g.frames} ${high}`, preserveAspectRatio: "none", role: "img", "aria-label": `${g.experts[e]}: ${clip.pairs.filter((pair) => pair[1] === e).length} patches` },
        svg("rect", { width: g.frames, height: high, fill: "none", stroke: "currentColor", "stroke-opacity": 0.25, "vector-effect": "non-scaling-stroke" }),
        clip.pairs.filter((pair) => pair[1] === e).map(([patch, , gate]) => {
          const column = patch % across, x = g.column_edges[column];
          return svg("rect", {
            x, y: high - 1 - Math.floor(patch / across), width: g.column_edges[column + 1] - x, height: 1, fill: `rgb(${viridis(gate / most)})`,
            onpointerenter: () => tell(patch),
          }, svg("title", { text: `${g.experts[e]}, gate ${gate.toFixed(2)}` }));
        })))) : [el("p", { class: "muted", text: "No expert was asked: the glance answered." })]));
  }

  function choose() {
    layers.replaceChildren(...Object.entries(LAYERS).filter(([name]) => name !== "gradcam" || clip.gradcam).map(([name, of]) =>
      el("button", { type: "button", text: of(clip), "aria-pressed": `${name === layer}`, onclick: () => { layer = name; choose(); draw(); } })),
      scale());
  }

  function show(next) {
    clip = next;
    if (layer === "gradcam" && !clip.gradcam) layer = "saliency";
    time.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((place) => {
      const mark = el("span", { text: `${(clip.start_s + place * seconds).toFixed(2)}${place === 1 ? " s" : ""}` });
      mark.style.left = `${100 * place}%`;
      return mark;
    }));
    facts.replaceChildren(...told_of(clip).filter(Boolean));
    choose(); patches(); experts(); draw(); tell(null);
  }

  const node = el("div", {}, facts, layers,
    el("div", { class: "plot", onpointerleave: () => tell(null) }, hz, el("div", { class: "picture" }, canvas, over), time, lanes), told);
  return { node, show };
}

function scale() {
  const bar = el("span", { class: "scale" });
  bar.style.background = `linear-gradient(to right, ${data.viridis.join(",")})`;
  return el("span", { class: "small muted" }, "least", bar, "most");
}

/** The frame up to which a clip is the recording's own sound; after it, it is repeated to fill the window. */
const endOf = (clip) => (clip.end_s - clip.start_s) / data.geometry.frame_s;

/** Answer and best scores; where any number of labels is answered, with the score that each has to reach. */
function told_of(clip) {
  const answer = clip.answer.join(", ") || "nothing";
  const right = clip.truth && clip.truth.length === clip.answer.length && clip.truth.every((label) => clip.answer.includes(label));
  return [
    el("p", {}, "answered ", el("strong", { text: answer }), clip.truth ? [" · truth ", el("strong", { text: clip.truth.join(", ") || "nothing" }), " · ", el("span", { class: right ? "right" : "wrong", text: right ? "right" : "wrong" })] : null),
    el("p", { class: "muted small", text: clip.scores.map(([label, score]) => `${label} ${score.toFixed(2)}${reached(label, score)}`).join(" · ") }),
    endOf(clip) < data.geometry.frames - 2 ? el("p", { class: "muted small", text: `The recording ends at ${clip.end_s.toFixed(2)} s; the pale rest is its repetition.` }) : null,
  ];
}

function reached(label, score) {
  const threshold = data.geometry.thresholds[label];
  return threshold === undefined ? "" : score >= threshold ? ` (reaches ${threshold.toFixed(2)})` : ` (under ${threshold.toFixed(2)})`;
}

/** Round frequencies on the axis with their places 0…1, none closer than a tenth. */
function roundFrequencies(centres) {
  const found = [], count = centres.length;
  for (let power = 0; power < 6; power++) {
    for (const digit of [1, 2, 5]) {
      const value = digit * 10 ** power, above = centres.findIndex((hz) => hz >= value);
      if (value < centres[0] || above < 0) continue;
      const part = above ? (value - centres[above - 1]) / (centres[above] - centres[above - 1]) : 0;
      const place = (above ? above - 0.5 + part : 0.5) / count;
      if (!found.length || place - found.at(-1)[1] > 0.1) found.push([value, place]);
    }
  }
  return found;
}
