// Classifying with a bundle's fused graph; the same in Node.js and in a browser.

const FULL_SCALE = 32767 / 32768;

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

/**
 * Scores by label, best first, averaged over the clips.
 *
 * @param ort the module onnxruntime-web
 * @param session of the fused graph
 * @param manifest of the bundle
 * @param channels arrays of samples at the model's rate, full scale at 1
 * @param nativeRate of the recorder, in Hz
 */
export async function classify(ort, session, manifest, channels, nativeRate) {
  const { clip_samples: size, window_hop: hop } = manifest.audio;
  const labels = manifest.task.labels;
  const total = new Float64Array(labels.length);
  const starts = startsOf(channels[0].length, size, hop);
  for (const start of starts) {
    const { samples, clipping } = clipOf(channels, start, size);
    const { scores } = await session.run({
      waveform: new ort.Tensor("float32", samples, [1, size]),
      source: new ort.Tensor("float32", [nativeRate, clipping], [1, 2]),
    });
    scores.data.forEach((score, i) => (total[i] += score / starts.length));
  }
  return Object.fromEntries(labels.map((label, i) => [label, total[i]]).sort((a, b) => b[1] - a[1]));
}
