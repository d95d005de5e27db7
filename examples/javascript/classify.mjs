// node classify.mjs BUNDLE RECORDING.wav: one JSON object with the scores of a recording, best first.

import fs from "node:fs";
import path from "node:path";
import * as ort from "onnxruntime-web";
import { classify, fusedOf } from "./xaimoe.mjs";

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;

/** The channels and the rate of a WAV file with 16-bit integers or 32-bit floating-point numbers. */
function readWav(file) {
  const bytes = fs.readFileSync(file);
  if (bytes.toString("latin1", 0, 4) !== "RIFF") throw new Error(`${file}: no WAV file`);
  let format;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = bytes.readUInt32LE(at + 4);
    const kind = bytes.toString("latin1", at, at + 4);
    at += 8;
    if (kind === "fmt ") {
      const tag = bytes.readUInt16LE(at);
      format = {
        tag: tag === EXTENSIBLE ? bytes.readUInt16LE(at + 24) : tag,
        channels: bytes.readUInt16LE(at + 2),
        rate: bytes.readUInt32LE(at + 4),
        bits: bytes.readUInt16LE(at + 14),
      };
    } else if (kind === "data") {
      if (!format) throw new Error(`${file}: samples before their format`);
      const { tag, channels, rate, bits } = format;
      if (!((tag === PCM && bits === 16) || (tag === FLOAT && bits === 32))) {
        throw new Error(`${file}: format ${tag} of ${bits} bits, expected integers of 16 or floating point of 32`);
      }
      const value = (i) => (tag === PCM ? bytes.readInt16LE(at + 2 * i) / 32768 : bytes.readFloatLE(at + 4 * i));
      const frames = Math.floor(Math.min(size, bytes.length - at) / (bits / 8) / channels);
      if (frames === 0) throw new Error(`${file}: no samples`);
      return { rate, channels: Array.from({ length: channels }, (_, c) => Float32Array.from({ length: frames }, (_, i) => value(i * channels + c))) };
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
const { channels, rate } = readWav(recording);
if (rate !== manifest.audio.sample_rate) {
  console.error(`${recording}: ${rate} Hz, expected the model's ${manifest.audio.sample_rate} Hz; resample it first`);
  process.exit(1);
}
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(fs.readFileSync(path.join(bundle, fusedOf(manifest))));
console.log(JSON.stringify(await classify(ort, session, manifest, channels, rate)));
