// node classify.mjs BUNDLE RECORDING.wav: one JSON object with the scores of a recording, best first.

import fs from "node:fs";
import path from "node:path";
import * as ort from "onnxruntime-web";
import { classify } from "./xaimoe.mjs";

/** Samples of all channels' mean and the rate of a WAV file with 16-bit or 32-bit floating-point samples. */
function readWav(file) {
  const bytes = fs.readFileSync(file);
  if (bytes.toString("latin1", 0, 4) !== "RIFF") throw new Error(`${file}: no WAV file`);
  let format;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = bytes.readUInt32LE(at + 4);
    const kind = bytes.toString("latin1", at, at + 4);
    at += 8;
    if (kind === "fmt ") {
      format = { channels: bytes.readUInt16LE(at + 2), rate: bytes.readUInt32LE(at + 4), bits: bytes.readUInt16LE(at + 14) };
    } else if (kind === "data") {
      const width = format.bits / 8;
      if (format.bits !== 16 && format.bits !== 32) throw new Error(`${file}: ${format.bits} bits, expected 16 or 32`);
      const value = (i) => (format.bits === 16 ? bytes.readInt16LE(at + 2 * i) / 32768 : bytes.readFloatLE(at + 4 * i));
      const frames = Math.floor(Math.min(size, bytes.length - at) / width / format.channels);
      const samples = new Float32Array(frames);
      for (let i = 0; i < frames * format.channels; i++) samples[Math.floor(i / format.channels)] += value(i) / format.channels;
      return { samples, rate: format.rate };
    }
    at += size + (size % 2);
  }
  throw new Error(`${file}: no samples`);
}

const [bundle, recording] = process.argv.slice(2);
if (!recording) {
  console.error("usage: node classify.mjs BUNDLE RECORDING.wav");
  process.exit(2);
}
const manifest = JSON.parse(fs.readFileSync(path.join(bundle, "manifest.json"), "utf8"));
const { samples, rate } = readWav(recording);
if (rate !== manifest.audio.sample_rate) {
  console.error(`${recording}: ${rate} Hz, expected the model's ${manifest.audio.sample_rate} Hz; resample it first`);
  process.exit(1);
}
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(fs.readFileSync(path.join(bundle, "fused.onnx")));
console.log(JSON.stringify(await classify(ort, session, manifest, samples, rate)));
