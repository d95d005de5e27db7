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
    manifest = json.loads((options.bundle / "manifest.json").read_text())
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
    scores = run({"waveform": clips.mean(2), "source": source}).mean(0)
    found = {label: float(score) for label, score in zip(manifest["task"]["labels"], scores, strict=True)}
    print(json.dumps(dict(sorted(found.items(), key=lambda item: -item[1]))))


if __name__ == "__main__":
    main()
