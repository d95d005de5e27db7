"""The product beside its peers in one run: the same clips, from samples in memory to an answer, one thread and two.

Run with ``make bench-full BUNDLE=folder``. Each peer hears its own rate, for which clips were resampled before;
what that takes stands apart. ``extra_info`` has the rate, multiply-accumulates or accuracy where they are known.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soxr
import torch
from conftest import BUNDLE, PEERS
from evidence.single_cnn import SingleCNN
from numpy.typing import NDArray
from peers import mobilenet, yamnet
from torch import nn

from xaimoe_audio.architecture import macs_of
from xaimoe_runtime import Runtime
from xaimoe_runtime.schema import Routing

Floats = NDArray[np.float32]
Benchmark = Any
THREADS = (1, 2)
NATIVE = 44_100
"""Rate of ESC-10's recordings."""
WIDTH = 10
"""Of the single network: on ESC-10 a quarter of the accuracy budget's pairs cost as much, half of the latency's."""


def group(threads: int) -> str:
    return f"peers, {threads} thread(s)"


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("routing", ["routed", "dense", "glance"])
def bench_product(runtime: Runtime, clips: Floats, benchmark: Benchmark, routing: Routing, threads: int) -> None:
    benchmark.group = group(threads)
    own = Runtime.load(BUNDLE, provider="cpu", threads=threads)
    turn = cycle(clips)
    metrics = runtime.manifest.provenance.metrics
    benchmark.extra_info |= {"rate": own.audio.sample_rate} | ({"metrics": metrics} if routing == "routed" else {})
    benchmark(lambda: own.infer(next(turn), routing=routing))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("part", ["pipeline", "network"])
def bench_yamnet(runtime: Runtime, clips: Floats, benchmark: Benchmark, part: str, threads: int) -> None:
    """YAMNet INT8, pre-trained on AudioSet, with a linear classifier's accuracy."""
    model = PEERS / "yamnet_spectra_in.onnx"
    if not model.is_file():
        pytest.skip(f"{model} is not there; set XAIMOE_PEERS")
    benchmark.group = group(threads)
    benchmark.extra_info |= {"rate": yamnet.RATE, "accuracy": yamnet.ACCURACY, "reference": True}
    peer = yamnet.YAMNet(model, threads)
    heard = [soxr.resample(clip, runtime.audio.sample_rate, yamnet.RATE) for clip in clips]
    if part == "pipeline":
        turn = cycle(heard)
        benchmark(lambda: peer(next(turn)))
        return
    patches = cycle([peer.patches(samples) for samples in heard])
    benchmark(lambda: peer.network(next(patches)))


def session_of(network: nn.Module, shape: tuple[int, ...], folder: Path, threads: int) -> onnxruntime.InferenceSession:
    """A network as one ONNX graph, spectrogram in, answer out."""
    path = folder / "network.onnx"
    torch.onnx.export(network, (torch.zeros(shape),), path, dynamo=True, opset_version=18, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("threads", THREADS)
def bench_mobilenet_network(benchmark: Benchmark, tmp_path: Path, threads: int) -> None:
    """EfficientAT mn04's shape, our own, random weights: the network alone."""
    benchmark.group = group(threads)
    network, shape = mobilenet.network(10), (1, 1, mobilenet.BANDS, mobilenet.FRAMES)
    macs = macs_of(lambda: network(torch.zeros(shape)))
    benchmark.extra_info |= {"macs": macs, "rate": mobilenet.RATE, "reference": True}
    session = session_of(network, shape, tmp_path, threads)
    spectrogram = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    name = session.get_inputs()[0].name
    benchmark(lambda: session.run(None, {name: spectrogram}))


@pytest.mark.parametrize("threads", THREADS)
def bench_single_cnn(runtime: Runtime, clips: Floats, benchmark: Benchmark, tmp_path: Path, threads: int) -> None:
    """One network over the whole spectrogram, behind the bundle's frontend; random weights (benchmarks/RESULTS.md has
    its accuracy)."""
    benchmark.group = group(threads)
    own = Runtime.load(BUNDLE, provider="cpu", threads=threads)
    grid = own.manifest.patches.grid
    shape = (1, 1, grid.rows, grid.columns)
    torch.manual_seed(0)
    network = SingleCNN(WIDTH, len(own.labels)).eval()
    benchmark.extra_info |= {"macs": macs_of(lambda: network(torch.zeros(shape))), "rate": own.audio.sample_rate}
    session = session_of(network, shape, tmp_path, threads)
    name, source = session.get_inputs()[0].name, np.float32([[own.audio.sample_rate, 0]])
    turn = cycle(clips)

    def classify() -> Any:
        heard = own.dispatcher.frontend(waveform=next(turn)[None], source=source)
        return session.run(None, {name: heard["spectrogram"]})

    benchmark(classify)


@pytest.mark.benchmark(group=f"resampling 5 s from {NATIVE} Hz")
@pytest.mark.parametrize("rate", [16_000, 32_000])
def bench_resampling(benchmark: Benchmark, rate: int) -> None:
    benchmark.extra_info["reference"] = True
    samples = np.random.default_rng(0).normal(0, 0.1, 5 * NATIVE).astype(np.float32)
    benchmark(lambda: soxr.resample(samples, NATIVE, rate))
