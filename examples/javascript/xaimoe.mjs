// Classifying with a bundle's fused graph; the same in Node.js and in a browser.

/** Share of samples at the full scale of 16 bits. */
export function clippingRate(samples) {
  let clipped = 0;
  for (const value of samples) clipped += Math.abs(value) >= 32767 / 32768;
  return clipped / samples.length;
}

/** Clips of `size` samples: one after another, the last one ending with the recording, a short one repeated. */
export function clipsOf(samples, size) {
  if (samples.length < size) return [Float32Array.from({ length: size }, (_, i) => samples[i % samples.length])];
  const clips = [];
  for (let start = 0; start < samples.length; start += size) {
    const from = Math.min(start, samples.length - size);
    clips.push(samples.subarray(from, from + size));
  }
  return clips;
}

/**
 * Scores by label, best first.
 *
 * @param ort the module onnxruntime-web
 * @param session of fused.onnx
 * @param manifest of the bundle
 * @param samples at the model's rate, one channel, full scale at 1
 * @param nativeRate of the recorder, in Hz
 */
export async function classify(ort, session, manifest, samples, nativeRate) {
  const clipping = clippingRate(samples);
  const clips = clipsOf(samples, manifest.audio.clip_samples);
  const labels = manifest.task.labels;
  const total = new Float64Array(labels.length);
  for (const clip of clips) {
    const { scores } = await session.run({
      waveform: new ort.Tensor("float32", clip, [1, clip.length]),
      source: new ort.Tensor("float32", [nativeRate, clipping], [1, 2]),
    });
    scores.data.forEach((score, i) => (total[i] += score / clips.length));
  }
  return Object.fromEntries(labels.map((label, i) => [label, total[i]]).sort((a, b) => b[1] - a[1]));
}
