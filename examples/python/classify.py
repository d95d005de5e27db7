"""Classify a recording with nothing of XAI-MoE-Audio: a bundle's fused graph and an engine that runs ONNX.

python classify.py BUNDLE RECORDING [--engine onnxruntime|reference]

Needs numpy, soundfile, and onnxruntime or onnx.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import soundfile


def clips_of(samples: np.ndarray, size: int, hop: int) -> np.ndarray:
    """Clips [N, size, channels] of a recording [n, channels]: the last one ends with it, a short one is repeated."""
    if len(samples) < size:
        return np.resize(samples, (1, size, samples.shape[1]))
    starts = [0]
    while starts[-1] + size < len(samples):
        starts.append(min(starts[-1] + hop, len(samples) - size))
    return np.stack([samples[start : start + size] for start in starts])


SILENCE_POWER, FLOOR_POWER = 1e-9, 1e-13
"""Power of a hop about its mean, up to which it is silent: -90 dB re full scale, and -130 dB in finer encodings."""
FINE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")


def sounding_shares(clips: np.ndarray, hop: int, limit: float) -> np.ndarray:
    """Return the share of hops of each clip [N, size] that are not silent, [N]; a constant offset is silent."""
    hops = clips[:, : clips.shape[1] // hop * hop].reshape(len(clips), -1, hop)
    return (hops.var(axis=2, dtype=np.float64) > limit).mean(axis=1)


def runner(engine: str, path: Path):
    """What runs the graph at ``path``: inputs by name to scores."""
    if engine == "reference":
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        return lambda inputs: evaluator.run(["scores"], inputs)[0]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["scores"], inputs)[0]


def main() -> None:
    """Print the scores of a recording as one JSON object, best first."""
    parser = argparse.ArgumentParser(description="Classify a recording with a bundle's fused graph.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("recording")
    parser.add_argument("--engine", choices=("onnxruntime", "reference"), default="onnxruntime")
    options = parser.parse_args()
    manifest = json.loads((options.bundle / "manifest.json").read_text(encoding="utf-8"))
    samples, rate = soundfile.read(options.recording, dtype="float32", always_2d=True)
    if rate != manifest["audio"]["sample_rate"]:
        sys.exit(f"{options.recording}: {rate} Hz, expected the model's {manifest['audio']['sample_rate']} Hz")
    if not len(samples):
        sys.exit(f"{options.recording}: no samples")
    audio = manifest["audio"]
    clips = clips_of(samples, audio["clip_samples"], audio["window_hop"])
    clipping = (np.abs(clips) >= 32767 / 32768).any(2).mean(1)  # of any channel
    source = np.stack([np.full(len(clips), rate), clipping], axis=1).astype(np.float32)
    fused = [graph["file"] for graph in manifest["graphs"] if graph["role"] == "fused" and "cpu" in graph["providers"]]
    if not fused:
        sys.exit(f"{options.bundle}: no fused graph for a CPU; export it with --fused")
    run = runner(options.engine, options.bundle / fused[0])
    mono = clips.mean(2)
    limit = FLOOR_POWER if soundfile.info(options.recording).subtype in FINE else SILENCE_POWER
    votes = sounding_shares(mono, audio["frame_hop"], limit)  # each clip counts as far as it sounds
    scores = votes @ run({"waveform": mono, "source": source}) / max(votes.sum(), 1e-9)
    found = {label: float(score) for label, score in zip(manifest["task"]["labels"], scores, strict=True)}
    print(json.dumps(dict(sorted(found.items(), key=lambda item: -item[1]))))


if __name__ == "__main__":
    main()
