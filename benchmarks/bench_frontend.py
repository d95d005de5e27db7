"""The spectrogram on its own: our graph beside the usual ways, and our backends beside each other.

Run with ``make bench``; one thread, one clip of 5 s in memory, log-mel of 64 bands with a frame of 64 ms every 20 ms.
All ways see the same frames; before it is timed, each is checked against float64. Compare ratios within a group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import librosa
import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.fft
import torch
import torchaudio
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from xaimoe_audio.config import ATTRIBUTES_VERSION, FrontendConfig
from xaimoe_audio.spectrogram import BACKENDS, LogMel
from xaimoe_audio.spectrogram.backend import POWER_FLOOR
from xaimoe_audio.spectrogram.dft import PowerSpectrumProjection, hann
from xaimoe_audio.spectrogram.framing import frame_lengths
from xaimoe_audio.spectrogram.frontend import Frontend
from xaimoe_export.graphs import EXAMPLE_BATCH, GraphModule, to_onnx

Floats = NDArray[np.float32]
Way = Callable[[Floats], Floats]

RATES = (8_000, 16_000, 32_000, 96_000, 192_000)
CLIP_S, FRAME_S, HOP_S, BINS = 5.0, 0.064, 0.02, 64
OPSET = 18
ROUNDS, CALLS = 10, 20


def config_at(rate: int, spectrogram: str = "logmel") -> FrontendConfig:
    n_fft, win_length, hop = frame_lengths(rate, FRAME_S, HOP_S)
    return FrontendConfig(
        sample_rate=rate,
        clip_samples=round(CLIP_S * rate / hop) * hop,
        spectrogram=spectrogram,
        n_fft=n_fft,
        win_length=win_length,
        hop=hop,
        bins=BINS,
        fmin=50.0,
        fmax=rate / 2,
        attributes_version=ATTRIBUTES_VERSION,
    )


class LogMelAlone(torch.nn.Module):
    """Our log-mel without attributes and normalisation, as the other ways have it: [B, S] -> [B, T, F]."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.spectrum = PowerSpectrumProjection(config.n_fft, config.win_length, config.hop, mel(config))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return 10 * torch.log10(torch.clamp(self.spectrum(waveform), min=POWER_FLOOR)).transpose(1, 2)


def mel(config: FrontendConfig) -> torch.Tensor:
    return LogMel(config).filters().float() / float(np.sum(hann(config.win_length) ** 2))


def session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def ours(config: FrontendConfig) -> Way:
    module = LogMelAlone(config).eval()
    program = torch.onnx.export(
        module,
        (torch.zeros(1, config.clip_samples),),
        input_names=["waveform"],
        dynamo=True,
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    run = session(program.model_proto.SerializeToString()).run
    return lambda clip: run(None, {"waveform": clip[None]})[0][0]


def scipy_rfft(config: FrontendConfig) -> Way:
    window, filters = hann(config.win_length).astype(np.float32), mel(config).numpy()

    def way(clip: Floats) -> Floats:
        frames = np.lib.stride_tricks.sliding_window_view(clip, config.win_length)[:: config.hop]
        spectrum = scipy.fft.rfft(frames * window, config.n_fft)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        found: Floats = 10 * np.log10(np.maximum(power @ filters, POWER_FLOOR))
        return found

    return way


def of_torchaudio(config: FrontendConfig) -> Way:
    transform = torchaudio.transforms.Spectrogram(config.n_fft, config.win_length, config.hop, power=2, center=False)
    filters = mel(config)

    @torch.no_grad()
    def way(clip: Floats) -> Floats:
        power = transform(torch.from_numpy(clip)).T @ filters
        found: Floats = (10 * torch.log10(torch.clamp(power, min=POWER_FLOOR))).numpy()
        return found

    return way


def of_librosa(config: FrontendConfig) -> Way:
    filters = mel(config).numpy()

    def way(clip: Floats) -> Floats:
        spectrum = librosa.stft(clip, n_fft=config.n_fft, hop_length=config.hop, center=False)
        power = (np.abs(spectrum) ** 2).T @ filters
        found: Floats = 10 * np.log10(np.maximum(power, POWER_FLOOR))
        return found

    return way


def graph(config: FrontendConfig, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> Way:
    """A graph from ``waveform`` [1, S] to ``spectrum`` and on to log-mel."""
    constants = constants | {
        "filters": mel(config).numpy(),
        "floor": np.array(POWER_FLOOR, np.float32),
        "scale": np.array(10 / np.log(10), np.float32),
    }
    nodes = [
        *nodes,
        helper.make_node("MatMul", ["power", "filters"], ["mel"]),
        helper.make_node("Max", ["mel", "floor"], ["limited"]),
        helper.make_node("Log", ["limited"], ["log"]),
        helper.make_node("Mul", ["log", "scale"], ["logmel"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "logmel",
            [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, config.clip_samples])],
            [helper.make_tensor_value_info("logmel", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    run = session(model.SerializeToString()).run
    return lambda clip: run(None, {"waveform": clip[None]})[0][0]


def stft_operator(config: FrontendConfig) -> Way:
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "last"], ["signal"]),
        helper.make_node("STFT", ["signal", "hop", "window", "length"], ["complex"], onesided=1),
        helper.make_node("ReduceSumSquare", ["complex", "last"], ["power"], keepdims=0),
    ]
    constants: dict[str, NDArray[Any]] = {
        "last": np.array([-1]),
        "hop": np.array(config.hop),
        "length": np.array(config.n_fft),
        "window": hann(config.win_length).astype(np.float32),
    }
    return graph(config, nodes, constants)


def convolution(config: FrontendConfig) -> Way:
    bins = config.n_fft // 2 + 1
    phase = 2 * np.pi * np.outer(np.arange(bins), np.arange(config.win_length)) / config.n_fft
    kernels = np.concatenate([np.cos(phase), np.sin(phase)]) * hann(config.win_length)
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "one"], ["signal"]),
        helper.make_node("Conv", ["signal", "kernels"], ["parts"], strides=[config.hop]),
        helper.make_node("Mul", ["parts", "parts"], ["squares"]),
        helper.make_node("Split", ["squares"], ["real", "imaginary"], axis=1, num_outputs=2),
        helper.make_node("Add", ["real", "imaginary"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["power"], perm=[0, 2, 1]),
    ]
    return graph(config, nodes, {"one": np.array([1]), "kernels": kernels[:, None].astype(np.float32)})


WAYS: dict[str, Callable[[FrontendConfig], Way]] = {
    "ours": ours,
    "scipy": scipy_rfft,
    "torchaudio": of_torchaudio,
    "librosa": of_librosa,
    "onnx-stft": stft_operator,
    "onnx-convolution": convolution,
}


def clip_of(config: FrontendConfig) -> Floats:
    return (0.1 * np.random.default_rng(0).standard_normal(config.clip_samples)).astype(np.float32)


def exact(config: FrontendConfig, clip: Floats) -> NDArray[np.float64]:
    """Mel power in float64."""
    frames = np.lib.stride_tricks.sliding_window_view(clip.astype(np.float64), config.win_length)[:: config.hop]
    power = np.abs(np.fft.rfft(frames * hann(config.win_length), config.n_fft)) ** 2
    found: NDArray[np.float64] = power @ mel(config).double().numpy()
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rate", RATES)
def bench_logmel(benchmark: Any, rate: int, way: str) -> None:
    benchmark.group = f"log-mel of 5 s at {rate // 1000} kHz"
    config = config_at(rate)
    if way == "onnx-stft" and config.n_fft.bit_count() > 1:
        pytest.skip(f"ONNX Runtime's STFT is not exact for a frame of {config.n_fft} samples, which is no power of two")
    clip, wanted = clip_of(config), exact(config, clip_of(config))
    run = WAYS[way](config)
    power = 10 ** (run(clip)[: len(wanted)].astype(np.float64) / 10)
    benchmark.extra_info |= {} if way == "ours" else {"reference": True}
    benchmark.extra_info["relative_error"] = error = float(np.linalg.norm(power - wanted) / np.linalg.norm(wanted))
    assert error < 1e-5
    benchmark(run, clip)


def bench_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    """What must hold at 16 kHz: medians over rounds in which all ways take turns, several calls each."""
    config = config_at(16_000)
    clip = clip_of(config)
    ways: dict[str, Callable[[], Any]] = {name: partial(way(config), clip) for name, way in WAYS.items()}
    ways |= {name: frontend_of(name, config.sample_rate) for name in BACKENDS}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in list(ways.items()) * ROUNDS:
        for _ in range(CALLS):
            start = perf_counter()
            way()
            times[name].append(perf_counter() - start)
    median = {name: float(np.median(found)) for name, found in times.items()}
    ratios = {name: median[name] / median["ours"] for name in WAYS}
    ratios |= {name: median[name] / median["logmel"] for name in BACKENDS}
    with capsys.disabled():
        print("\ntime over our log-mel's, 5 s at 16 kHz:", ", ".join(f"{k} {v:.2f}" for k, v in ratios.items()))
    assert ratios["scipy"] >= 1 / 2.0
    assert ratios["onnx-stft"] >= 3
    assert ratios["onnx-convolution"] >= 4
    assert max(ratios[name] for name in BACKENDS) <= 10


def frontend_of(name: str, rate: int) -> Callable[[], Any]:
    """A whole frontend with its attributes, on a clip in memory."""
    config = config_at(rate, name)
    examples = torch.zeros(EXAMPLE_BATCH, config.clip_samples), torch.zeros(EXAMPLE_BATCH, 2)
    run = session(to_onnx(GraphModule("frontend", Frontend(config).eval()), examples).SerializeToString()).run
    inputs = {"waveform": clip_of(config)[None], "source": np.array([[rate, 0.0]], np.float32)}
    return partial(run, None, inputs)


@pytest.mark.parametrize("name", sorted(BACKENDS))
@pytest.mark.parametrize("rate", RATES)
def bench_backend(benchmark: Any, rate: int, name: str) -> None:
    benchmark.group = f"whole frontend, 5 s at {rate // 1000} kHz"
    benchmark(frontend_of(name, rate))
