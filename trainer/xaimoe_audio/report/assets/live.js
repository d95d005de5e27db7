// Classifies what a person drops on the page, or says into the microphone, with the bundle's fused graph. Nothing leaves
// the page.
"use strict";

const FULL_SCALE = 32767 / 32768;
const told = (id) => new Response(new Blob([bytes(document.getElementById(id).textContent)]).stream().pipeThrough(new DecompressionStream("gzip")));

const engine = { load() { return (this.loaded ??= loadEngine()); } };

/** ONNX Runtime, a session of the fused graph, and what it needs to know; made once, when first asked for. */
async function loadEngine() {
  const [script, wasm, graph, about] = await Promise.all([
    told("ort-script").text(), told("ort-wasm").arrayBuffer(), told("fused").arrayBuffer(), told("fused-told").json()]);
  const ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  const session = await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ["wasm"] });
  return { ort, session, about };
}

const DECODED = 48000;

/** The rate that a file says it has (WAV, FLAC, Ogg Vorbis, MP3), else that at which others are decoded. */
function nativeRate(buffer) {
  const view = new DataView(buffer), text = (at, length = 4) => String.fromCharCode(...new Uint8Array(buffer, at, length));
  if (buffer.byteLength < 64) return DECODED;
  const rate = text(0) === "RIFF" && text(8) === "WAVE" ? rateOfWav(view, text)
    : text(0) === "fLaC" ? view.getUint32(18) >>> 12
    : text(0) === "OggS" ? rateOfOgg(view, text)
    : rateOfMp3(view, text);
  return rate >= 3000 && rate <= 768000 ? rate : DECODED; // what browsers decode at
}

function rateOfWav(view, text) {
  for (let at = 12; at + 16 <= view.byteLength; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) & 1)) {
    if (text(at) === "fmt ") return view.getUint32(at + 12, true);
  }
  return 0;
}

/** Of Vorbis's first header, in the first page; Opus is always decoded at 48000 Hz. */
function rateOfOgg(view, text) {
  const at = 27 + view.getUint8(26);
  return at + 16 <= view.byteLength && text(at + 1, 6) === "vorbis" ? view.getUint32(at + 12, true) : 0;
}

/** Of the first frame after the tag. */
function rateOfMp3(view, text) {
  const tagged = text(0, 3) === "ID3", size = [6, 7, 8, 9].reduce((sum, at) => sum * 128 + (view.getUint8(at) & 127), 0);
  const at = tagged ? 10 + size : 0;
  if (at + 4 > view.byteLength || (view.getUint16(at) & 0xffe0) !== 0xffe0 || !(view.getUint8(at + 1) & 6)) return 0; // without a layer it is AAC
  const halvings = { 3: 0, 2: 1, 0: 2 }[view.getUint8(at + 1) >> 3 & 3], rate = [44100, 48000, 32000][view.getUint8(at + 2) >> 2 & 3];
  return halvings === undefined || rate === undefined ? 0 : rate >> halvings;
}

/** A file's samples at the model's rate, its native rate, and the share of clipped samples. */
async function heardIn(buffer, rate) {
  const native = nativeRate(buffer);
  const sound = await new OfflineAudioContext(1, 1, native).decodeAudioData(buffer);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  return prepared(channels, native, rate);
}

async function prepared(channels, native, rate) {
  const length = channels[0].length, mono = new Float32Array(length);
  let clipped = 0;
  for (let i = 0; i < length; i++) {
    let sum = 0, full = false;
    for (const channel of channels) { sum += channel[i]; full ||= Math.abs(channel[i]) >= FULL_SCALE; }
    mono[i] = sum / channels.length;
    clipped += full;
  }
  return { samples: await resampled(mono, native, rate), native, clipping: clipped / length };
}

async function resampled(samples, from, to) {
  if (from === to) return samples;
  const context = new OfflineAudioContext(1, Math.max(Math.ceil(samples.length * to / from), 1), to);
  const buffer = context.createBuffer(1, samples.length, from), source = context.createBufferSource();
  buffer.copyToChannel(samples, 0);
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/** Where clips begin: the last one ends with the recording. */
function startsOf(length, size, hop) {
  const starts = [];
  for (let start = 0; start === 0 || (start < length && start - hop + size < length); start += hop) starts.push(Math.max(0, Math.min(start, length - size)));
  return starts;
}

/** The share of hops of a clip whose power about their mean is above -90 dB re full scale; a constant offset is silent. */
function soundingShare(samples, hop) {
  const hops = Math.floor(samples.length / hop);
  let sounding = 0;
  for (let i = 0; i < hops; i++) {
    const part = samples.subarray(i * hop, (i + 1) * hop), mean = part.reduce((sum, value) => sum + value, 0) / hop;
    sounding += part.reduce((sum, value) => sum + (value - mean) ** 2, 0) / hop > 1e-9;
  }
  return sounding / hops;
}

/** Scores by label over all windows, and the window with the clearest answer as the panel shows a clip. */
async function classify({ samples, native, clipping }) {
  const { ort, session, about } = await engine.load();
  const size = about.clip_samples, starts = startsOf(samples.length, size, about.window_hop);
  const total = new Float64Array(about.labels.length);
  let best = null, votes = 0;
  for (const start of starts) {
    const heard = Math.min(size, samples.length - start);
    const clip = Float32Array.from({ length: size }, (_, i) => samples[start + i % heard]);
    const found = await session.run({
      waveform: new ort.Tensor("float32", clip, [1, size]),
      source: new ort.Tensor("float32", [native, clipping], [1, 2]),
    });
    const sounding = soundingShare(clip, about.frame_hop), scores = found.scores.data; // silence has no vote
    scores.forEach((score, i) => { total[i] += sounding * score; });
    votes += sounding;
    const clearest = sounding ? Math.max(...scores) : 0;
    if (!best || clearest > best.clearest) best = { clearest, start, found };
  }
  if (votes) total.forEach((sum, i) => { total[i] = sum / votes; });
  const order = [...total.keys()].sort((a, b) => total[b] - total[a]);
  const single = about.kind === "single_label";
  return {
    start_s: best.start / about.sample_rate,
    end_s: Math.min(best.start + size, samples.length) / about.sample_rate,
    spectrogram: shades(best.found.spectrogram.data),
    saliency: [...best.found.saliency.data],
    pairs: pairsOf(best.found.gates),
    answer: single ? [votes ? about.labels[order[0]] : "unknown"] : order.filter((i) => votes && total[i] >= about.thresholds[i]).map((i) => about.labels[i]),
    scores: order.slice(0, 5).map((i) => [about.labels[i], total[i]]),
    all: Object.fromEntries(about.labels.map((label, i) => [label, total[i]])),
  };
}

function pairsOf({ data: gates, dims: [, patches, experts] }) {
  const found = [];
  for (let p = 0; p < patches; p++) for (let e = 0; e < experts; e++) if (gates[p * experts + e] > 0) found.push([p, e, gates[p * experts + e]]);
  return found;
}

/** A spectrogram as shades 0 to 255, the quietest and the loudest cells cut off. */
function shades(values) {
  const sorted = Float32Array.from(values).sort(), low = sorted[Math.floor(0.05 * sorted.length)], high = sorted[Math.floor(0.995 * (sorted.length - 1))];
  return Uint8Array.from(values, (value) => 255 * Math.min(Math.max((value - low) / Math.max(high - low, 1e-6), 0), 1));
}

const RECORDER = `registerProcessor("recorder", class extends AudioWorkletProcessor {
  process([[channel]]) { if (channel) this.port.postMessage(channel.slice()); return true; }
});`;

/** So many seconds of the microphone, as `prepared` gives them. */
async function recorded(seconds, rate) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule(`data:text/javascript,${encodeURIComponent(RECORDER)}`); // a page from a file may not load its own blobs here
    const recorder = new AudioWorkletNode(context, "recorder"), parts = [];
    const wanted = Math.ceil(seconds * context.sampleRate);
    let count = 0;
    await new Promise((done) => {
      recorder.port.onmessage = ({ data: part }) => { parts.push(part); count += part.length; if (count >= wanted) done(); };
      context.createMediaStreamSource(stream).connect(recorder);
    });
    const all = new Float32Array(count);
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    return await prepared([all.subarray(0, wanted)], context.sampleRate, rate);
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
  }
}

function live() {
  const shown = panel(), place = el("div", { class: "panel", hidden: true }, shown.node), status = el("p", { class: "muted", "aria-live": "polite", text: "Nothing is sent anywhere: the model runs in this page." });
  const answer = async (what, hint, take) => {
    status.textContent = `${what} …`;
    try {
      const { about } = await engine.load();
      const start = performance.now(), clip = await classify(await take(about));
      place.hidden = false;
      shown.show(clip);
      status.textContent = `${what}: answered in ${Math.round(performance.now() - start)} ms on this machine.`;
      document.body.dataset.scores = JSON.stringify(clip.all);
    } catch (error) {
      status.textContent = `${what}: ${error.message.replace(/\.+$/, "")}. ${hint}`;
      document.body.dataset.failed = error.message;
    }
  };
  const of = (file) => file && answer(file.name, "A recording that the browser can play is expected.", async (about) => heardIn(await file.arrayBuffer(), about.sample_rate));
  const picker = el("input", { type: "file", accept: "audio/*,.wav,.flac,.ogg", id: "own-file", onchange: () => of(picker.files[0]) });
  const drop = el("div", {
    class: "drop",
    ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
    ondragleave: () => drop.classList.remove("over"),
    ondrop: (event) => { event.preventDefault(); drop.classList.remove("over"); of(event.dataTransfer.files[0]); },
  },
  el("p", {}, el("label", { for: "own-file", text: "Drop a recording here, or choose one: " }), picker),
  el("p", {}, el("button", {
    type: "button", text: "Listen to the microphone",
    onclick: () => answer("Microphone", "Allow the page to use it, and see that one is connected.", (about) => recorded(about.clip_samples / about.sample_rate, about.sample_rate)),
  })));
  return [drop, status, place];
}
