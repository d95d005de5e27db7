// Classifying with a bundle's fused graph; the same in Node.js and in a browser.

const FULL_SCALE = 32767 / 32768;
const SILENCE_POWER = 1e-9; // -90 dB re full scale

/** The file of the fused graph that is meant for a CPU. */
export function fusedOf(manifest) {
  const found = manifest.graphs.find((graph) => graph.role === "fused" && graph.providers.includes("cpu"));
  if (!found) throw new Error("no fused graph for a CPU in the bundle; export it with --fused");
  return found.file;
}

/** Where clips of `size` begin, every `hop` samples: the last one ends with the recording. */
export function startsOf(length, size, hop) {
  const starts = [];
  for (let start = 0; start === 0 || (start < length && start - hop + size < length); start += hop) {
    starts.push(Math.max(0, Math.min(start, length - size)));
  }
  return starts;
}

/** One clip: the mean of all channels, repeated if the recording is too short, and the share of clipped samples. */
export function clipOf(channels, start, size) {
  const heard = Math.min(size, channels[0].length - start);
  const samples = new Float32Array(size);
  let clipped = 0;
  for (let i = 0; i < heard; i++) {
    let sum = 0;
    let full = false;
    for (const channel of channels) {
      sum += channel[start + i];
      full ||= Math.abs(channel[start + i]) >= FULL_SCALE;
    }
    samples[i] = sum / channels.length;
    clipped += full;
  }
  for (let i = heard; i < size; i++) samples[i] = samples[i - heard];
  return { samples, clipping: clipped / heard };
}

/** The share of hops of a clip whose power about their mean is above that of silence; a constant offset is silent. */
export function soundingShare(samples, hop) {
  let sounding = 0;
  const hops = Math.floor(samples.length / hop);
  for (let i = 0; i < hops; i++) {
    const part = samples.subarray(i * hop, (i + 1) * hop);
    const mean = part.reduce((sum, value) => sum + value, 0) / hop;
    sounding += part.reduce((sum, value) => sum + (value - mean) ** 2, 0) / hop > SILENCE_POWER;
  }
  return sounding / hops;
}

/**
 * Scores by label, best first, averaged over the clips; each counts as far as it sounds, and silence has scores of 0.
 *
 * @param ort the module onnxruntime-web
 * @param session of the fused graph
 * @param manifest of the bundle
 * @param channels arrays of samples at the model's rate, full scale at 1
 * @param nativeRate of the recorder, in Hz
 */
export async function classify(ort, session, manifest, channels, nativeRate) {
  const { clip_samples: size, window_hop: hop, frame_hop: frame } = manifest.audio;
  const labels = manifest.task.labels;
  const total = new Float64Array(labels.length);
  let votes = 0;
  for (const start of startsOf(channels[0].length, size, hop)) {
    const { samples, clipping } = clipOf(channels, start, size);
    const sounding = soundingShare(samples, frame);
    if (!sounding) continue;
    const { scores } = await session.run({
      waveform: new ort.Tensor("float32", samples, [1, size]),
      source: new ort.Tensor("float32", [nativeRate, clipping], [1, 2]),
    });
    scores.data.forEach((score, i) => (total[i] += sounding * score));
    votes += sounding;
  }
  if (votes) total.forEach((sum, i) => (total[i] = sum / votes));
  return Object.fromEntries(labels.map((label, i) => [label, total[i]]).sort((a, b) => b[1] - a[1]));
}
