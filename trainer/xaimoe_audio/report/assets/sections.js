// The sections that a run folder and a bundle fill.
"use strict";

const config = data.config, single = config.task === "single_label";
const headline = single ? "accuracy" : "mAP";
const split = data.metrics ? (data.metrics.test ? "test" : "val") : null;
const figures = split && data.metrics[split];

document.getElementById("name").textContent = data.name;
document.getElementById("about").textContent =
  `${config.labels.length} classes, ${single ? "one" : "any number"} a recording · budget ${config.budget} · up to ${config.epochs} epochs of batches of ${config.batch_size} · seed ${config.seed}`;
document.getElementById("made").textContent =
  `xai-moe-audio ${config.versions["xai-moe-audio"]}, torch ${config.versions.torch}, python ${config.versions.python} · dataset ${config.dataset_sha256.slice(0, 12)} · this page fetches nothing`;

function results() {
  if (!figures) return [];
  const ways = figures.by_routing, cost = figures.macs, spent = { routed: cost.routed, dense: cost.dense, glance: cost.floor };
  const perClass = Object.entries(figures.per_class ?? {});
  return [
    el("p", { class: "muted", text: `${figures.recordings} recordings of the ${split === "test" ? "test" : "validation"} split` }),
    el("div", { class: "tiles" },
      tile(percent(figures[headline]), `${headline}, routed`),
      tile(percent(ways.dense[headline]), `${headline}, all pairs`),
      tile(percent(ways.glance[headline]), `${headline}, glance alone`),
      tile(figures.ece.toFixed(3), "calibration error (ECE)"),
      tile(percent(cost.experts_share), "of the dense experts' compute"),
      tile(macs(cost.routed), "multiply-accumulates a clip")),
    table(["way", headline, "ECE", "multiply-accumulates, without the frontend's " + macs(cost.frontend)],
      Object.entries(ways).map(([way, of]) => [way, percent(of[headline]), of.ece.toFixed(3), macs(spent[way])]), "By routing"),
    perClass.length ? el("h3", { text: single ? "F1 of each class" : "Average precision of each class" }) : null,
    perClass.length ? table(["class", single ? "F1" : "average precision"], perClass.map(([name, value]) => [name, shaded(value.toFixed(3), value)]), "By class") : null,
    figures.confusion ? [el("h3", { text: "Confusion: rows are the truth" }), confusion(figures.confusion)] : null,
  ].flat();
}

function confusion(counts) {
  const rows = counts.map((row, i) => {
    const total = Math.max(row.reduce((a, b) => a + b, 0), 1);
    return [config.labels[i], ...row.map((count, j) =>
      shaded(count || "", count / total, `${config.labels[i]} answered as ${config.labels[j]}: ${count} of ${total}`))];
  });
  return table(["", ...config.labels], rows, "Confusion matrix");
}

function usage() {
  const found = data.usage && data.usage[split];
  if (!found) return [];
  const experts = Object.keys(found.selection_rate), classes = Object.entries(found.per_class ?? {});
  const most = Math.max(...classes.flatMap(([, of]) => Object.values(of.pair_share)), 1e-9);
  return [
    el("p", { text: `A window asks ${found.k_mean.toFixed(1)} experts on average, and runs ${found.pairs_per_window.toFixed(1)} of ${found.pairs_possible} (patch, expert) pairs.` }),
    table(["expert", "asked by", "share of the pairs", "share of the gates"], experts.map((name) =>
      [name, percent(found.selection_rate[name]), percent(found.pair_share[name]), percent(found.gate_share[name])]), "Experts"),
    classes.length ? el("h3", { text: "Share of each class's pairs" }) : null,
    classes.length ? table(["class", "pairs", ...experts], classes.map(([name, of]) =>
      [name, of.pairs_per_window.toFixed(1), ...experts.map((e) => shaded(of.pair_share[e] ? Math.round(100 * of.pair_share[e]) : "", of.pair_share[e] / most, `${e}: ${percent(of.pair_share[e])}`))]), "Experts by class") : null,
    classes.length ? el("p", { class: "muted small", text: "In per cent; the stronger a cell, the more of that class the expert hears." }) : null,
    el("h3", { text: "How many experts a window asks" }),
    table(["experts", ...Object.keys(found.k_histogram)], [["windows", ...Object.values(found.k_histogram)]], "Number of experts"),
  ];
}

function curves() {
  const of = data.curves;
  if (!of) return [];
  const line = (name, label) => ({ name: label, points: of[name] ?? [] });
  return [el("div", { class: "grid" },
    lineChart("Loss", [line("loss", "training"), line("val_loss", "validation")], "epoch"),
    lineChart(single ? "Validation accuracy" : "Validation: share with all labels right, from 0.5", [line("val_score", "routed")], "epoch"),
    lineChart("Saliency", [line("val_rank_correlation", "rank correlation with the teacher"), line("val_deletion", "deletion"), line("val_insertion", "insertion")], "epoch"),
    lineChart("Compute", [line("val_pairs_share", "share of pairs run"), line("val_experts_share", "share of experts used")], "epoch", "", { zero: true }))];
}

function dataset() {
  const of = data.profile;
  if (!of) return [];
  const part = ([name, p]) => [name, p.files, p.hours.toFixed(2), short(p.snr), `${Math.round(p.top)}`];
  const units = { duration_s: "duration [s]", snr: "SNR [dB]", transient_rate: "transients [log10 1/s]", fmax_eff: "band to [Hz]", level: "level [dB re full scale]", quality: "quality, 0 to 1" };
  return [
    el("p", { text: `${of.files} recordings, ${of.hours.toFixed(2)} h; sampling rates ${Object.entries(of.rates).map(([rate, n]) => `${rate} Hz (${n})`).join(", ")}; ${Object.keys(of.encodings).join(", ")}.` }),
    of.warnings.length ? of.warnings.map((warning) => el("p", { class: "warning" }, el("strong", { text: `${warning.kind}: ` }), warning.message)) : el("p", { class: "muted", text: "No warnings: nothing was found that a model could cheat with." }),
    el("div", { class: "grid" },
      el("div", {}, el("h3", { text: "Splits and classes" }), table(["", "files", "hours", "SNR [dB]", "band to [Hz]"], [...Object.entries(of.splits), ...Object.entries(of.classes)].map(part), "Splits and classes")),
      el("div", {}, el("h3", { text: "What they are like" }), table(["", "5 %", "median", "95 %"], Object.entries(of.spread).map(([name, values]) => [units[name] ?? name, ...values.map(short)]), "Attributes"))),
  ].flat();
}

function policy() {
  if (!data.policy) return [];
  const value = (found) => (Array.isArray(found) ? found.join(", ") : found === true ? "in" : found === false ? "out" : `${found}`);
  return [
    el("p", { class: "muted", text: data.policy.auto_config ? "Chosen from the profile by rules." : "Fixed defaults, not chosen from the profile." }),
    table(["choice", "value", "rule", "because"], data.policy.choices.map((c) => [c.choice === c.choice.toLowerCase() ? c.choice.replaceAll("_", " ") : c.choice, value(c.value), c.rule, c.because]), "Policy", true),
    data.architecture ? el("details", {}, el("summary", { text: "Architecture" }), el("pre", { text: data.architecture, tabindex: 0 })) : null,
  ];
}

function faithfulness() {
  const of = data.faithfulness;
  if (!of) return [];
  const colours = Object.fromEntries(Object.keys(of.methods).map((name, i) => [name, LINES[i % LINES.length]]));
  const lines = (curve) => Object.entries(of.methods).map(([name, m]) => ({
    name: m.name, colour: colours[name], dashed: name === "random",
    points: m.curves[curve].map((y, i, all) => [100 * i / (all.length - 1), y]),
  }));
  const told = (value) => (value ? `${value.mean.toFixed(3)} (${value.low.toFixed(3)} … ${value.high.toFixed(3)})` : "–");
  return [
    el("p", { text: `${of.recordings} recordings; in brackets 95 % intervals.` }),
    el("div", { class: "grid" },
      lineChart("Deletion: score as the patches named first are removed", lines("deletion"), "patches removed [%]", "", { zero: true }),
      lineChart("Insertion: score as they are the first to be there", lines("insertion"), "patches there [%]", "", { zero: true })),
    table(["", ...Object.values(of.methods).map((m) => m.name)], Object.entries(of.metrics).map(([metric, meaning]) =>
      [`${metric.replaceAll("_", " ")}: ${meaning}`, ...Object.values(of.methods).map((m) => told(m[metric]))]), "Faithfulness"),
  ];
}

function device() {
  const of = data.bundle;
  if (!of) return [];
  const cost = (name) => of.costs[name];
  const ms = (value) => (value === undefined ? "–" : value.toFixed(3));
  const budgets = (of.budgets ?? []).filter((point) => point.budget_ms !== null);
  return [
    el("p", { text: `Bundle ${of.bundle_id.slice(0, 12)}, ${of.precisions.join(", ")}. ` + (of.conditions ? `Times of a batch of one, calibrated on ${of.conditions}.` : `Times are a quick estimate: ${of.uncalibrated}.`) }),
    table(["graph", "precision", "kB", "p50 [ms]", "p95 [ms]", "p99 [ms]"], of.graphs.map((g) =>
      [g.name, g.precision, Math.round(g.bytes / 1000), ms(cost(g.name)?.p50), ms(cost(g.name)?.p95), ms(cost(g.name)?.p99)]), "Graphs"),
    budgets.length ? el("div", { class: "grid" },
      lineChart("What a budget gives", [{ name: "share of recordings answered right", points: budgets.map((p) => [p.budget_ms, p.right]) }], "budget [ms]"),
      lineChart("What is run within it", [{ name: "pairs run", points: budgets.map((p) => [p.budget_ms, p.pairs]) }], "budget [ms]", "", { zero: true }),
      lineChart("Time", [{ name: "p50", points: budgets.map((p) => [p.budget_ms, p.p50_ms]) }, { name: "p95", points: budgets.map((p) => [p.budget_ms, p.p95_ms]) }], "budget [ms]", "ms", { zero: true }))
      : el("p", { class: "muted small", text: "For accuracy against budget: xaimoe-runtime calibrate BUNDLE --data D --curve curve.json, then report --curve curve.json." }),
  ];
}
