"""The spectrogram backends: the same numbers as independent implementations have, in PyTorch and in ONNX."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import librosa
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import pywt
import torch
import torchaudio
from data import noise, real_data
from data.configs import frontend_config
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram import BACKENDS, ClipBackend, FrameBackend, backend_class, register
from xaimoe_audio.spectrogram.backend import POWER_FLOOR
from xaimoe_audio.spectrogram.dft import hann
from xaimoe_audio.spectrogram.fcwt import OMEGA0
from xaimoe_audio.spectrogram.frontend import Frontend
from xaimoe_export.graphs import EXAMPLE_BATCH, GraphModule, to_onnx
from xaimoe_runtime.errors import ConfigError

Floats = NDArray[np.float64]
NAMES = sorted(BACKENDS)
CLIPS = ("dog_bark", "rain", "clock_tick")


def power(config: FrontendConfig, samples: NDArray[np.float32]) -> Floats:
    """What the frontend takes for the power of each cell, [F, T]."""
    with torch.no_grad():
        frames, _ = Frontend(config).frame(torch.from_numpy(samples)[None])
    return frames[0].double().numpy()


def clip_of(config: FrontendConfig, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle of the samples, repeated if they are too few."""
    start = max((len(samples) - config.clip_samples) // 2, 0)
    return np.resize(samples[start : start + config.clip_samples], config.clip_samples).astype(np.float32)


@pytest.fixture(params=["noise", *CLIPS])
def samples(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    """Two seconds at 16 kHz: noise, and the loudest of real recordings where they are."""
    if request.param == "noise":
        return noise(32_000)
    folder = real_data("esc10") / "audio" / str(request.param)
    loaded, _ = librosa.load(sorted(folder.iterdir())[0], sr=16_000)
    start = min(max(int(np.abs(loaded).argmax()) - 16_000, 0), len(loaded) - 32_000)
    return loaded[start : start + 32_000].astype(np.float32)


def relative(found: Floats, wanted: Floats) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


# Against the textbook ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_white_noise_reads_its_power_in_every_band(name: str) -> None:
    config = frontend_config(name, frames=600)
    bands = power(config, noise(config.clip_samples, level=0.1)).mean(1)
    assert bands == pytest.approx(np.full(config.bins, 0.01), rel=0.35)  # a narrow band holds few independent values
    assert bands.mean() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_tone_is_found_in_the_band_of_its_frequency(name: str) -> None:
    config = frontend_config(name)
    centres = backend_class(name)(config).centres().numpy()
    assert (np.diff(centres) > 0).all()
    assert config.fmin <= centres[0] < centres[-1] <= config.fmax
    for hz in (400.0, 1_000.0, 6_000.0):
        tone = np.sin(2 * np.pi * hz * np.arange(config.clip_samples) / config.sample_rate)
        loudest = int(power(config, tone.astype(np.float32))[:, 20:-20].mean(1).argmax())
        assert abs(loudest - int(np.abs(centres - hz).argmin())) <= 1


def test_stft_is_that_of_torchaudio(samples: NDArray[np.float32]) -> None:
    """With a band for each line of the DFT."""
    config = frontend_config("stft", bins=510, fmin=1.5 * 15.625)
    config = msgspec.structs.replace(config, fmax=511.5 * 15.625)
    clip = clip_of(config, samples)
    transform = torchaudio.transforms.Spectrogram(1024, hop_length=config.hop, power=2, center=False)
    wanted = transform.double()(torch.from_numpy(clip).double()).numpy() / np.sum(hann(1024) ** 2)
    assert backend_class("stft")(config).centres().numpy() == pytest.approx(np.arange(2, 512) * 15.625)
    assert relative(power(config, clip), wanted[2:512, : config.frames]) < 1e-5


@pytest.mark.parametrize(
    ("rate", "frame_s", "hop_s"), [(16_000, 0.064, 0.02), (16_000, 0.05, 0.01), (8_000, 0.032, 0.01)]
)
def test_mel_power_is_that_of_torchaudio_and_librosa(
    rate: int, frame_s: float, hop_s: float, samples: NDArray[np.float32]
) -> None:
    config = frontend_config("logmel", rate, frame_s, hop_s)
    clip = clip_of(config, samples)
    window = hann(config.win_length)
    frames = np.stack([clip[t * config.hop : t * config.hop + config.win_length] for t in range(config.frames)])
    spectrum = np.abs(np.fft.rfft(frames.astype(np.float64) * window, config.n_fft)) ** 2 / np.sum(window**2)
    lines = config.n_fft // 2 + 1
    of_librosa = librosa.filters.mel(
        sr=rate, n_fft=config.n_fft, n_mels=config.bins, fmin=config.fmin, fmax=config.fmax, htk=True, dtype=np.float64
    )
    of_torchaudio = torchaudio.functional.melscale_fbanks(
        lines, config.fmin, config.fmax, config.bins, rate, norm="slaney", mel_scale="htk"
    )
    for filters in (of_librosa, of_torchaudio.double().numpy().T):
        wanted = (filters / filters.sum(1, keepdims=True)) @ spectrum.T  # ours: weights that sum to 1
        assert relative(power(config, clip), wanted) < 1e-5


def test_log_mel_is_accurate_to_1e_5_where_there_is_sound(samples: NDArray[np.float32]) -> None:
    """The relative error of float32 against float64, of all cells that are not 60 dB under the loudest."""
    config = frontend_config("logmel", frames=96)
    clip = clip_of(config, samples)
    frames = np.stack([clip[t * config.hop : t * config.hop + config.win_length] for t in range(config.frames)])
    window = hann(config.win_length)
    spectrum = np.abs(np.fft.rfft(frames.astype(np.float64) * window, config.n_fft)) ** 2 / np.sum(window**2)
    wanted = spectrum @ backend_class("logmel")(config).filters().double().numpy()  # type: ignore[operator]
    found = power(config, clip).T
    loud = wanted > 1e-6 * wanted.max()
    assert (np.abs(found - wanted)[loud] / wanted[loud]).max() < 1e-4
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-6


def test_pcen_is_that_of_librosa(samples: NDArray[np.float32]) -> None:
    config = frontend_config("logmel+pcen")
    frontend, clip = Frontend(config), clip_of(config, samples)
    frames, _ = frontend.frame(torch.from_numpy(clip)[None])
    energy = frames[0].double().numpy() / POWER_FLOOR
    constant = 0.06 * config.sample_rate / config.hop
    weight = (np.sqrt(1 + 4 * constant**2) - 1) / (2 * constant**2)
    wanted = librosa.pcen(
        energy,
        sr=config.sample_rate,
        hop_length=config.hop,
        gain=0.8,
        bias=10,
        power=0.25,
        time_constant=0.06,
        eps=1.0,
        zi=(1 - weight) * energy[:, :1],  # as if the first frame had lasted for ever
    )
    found = frontend.window.backend.level(frames)[0].numpy()
    assert np.abs(found - wanted).max() < 1e-3


def averaged(envelope: Floats, config: FrontendConfig) -> Floats:
    """Squared magnitudes at every sample, averaged over the hop around each frame's centre."""
    first = config.win_length // 2 - config.hop // 2
    span = envelope[:, first : first + config.frames * config.hop]
    return np.asarray(span.reshape(len(envelope), config.frames, config.hop).mean(2))


def test_cqt_is_that_of_librosa(samples: NDArray[np.float32]) -> None:
    config = frontend_config("cqt", bins=48, fmin=100.0)
    clip = clip_of(config, samples)
    assert relative(power(config, clip), averaged(np.abs(_cqt(clip, config)) ** 2, config)) < 0.05


def _cqt(clip: NDArray[np.float32], config: FrontendConfig) -> NDArray[np.complex128]:
    """The definition of the constant-Q transform, at every sample: librosa's own filters, convolved."""
    centres = backend_class("cqt")(config).centres().numpy()
    ratio = (config.fmax / config.fmin) ** (1 / config.bins)
    filters, lengths = librosa.filters.wavelet(
        freqs=centres,
        sr=config.sample_rate,
        window="hann",
        filter_scale=1,
        norm=2,
        pad_fft=False,
        alpha=np.full(len(centres), ratio - 1),
    )
    del lengths
    return np.stack([np.convolve(clip.astype(np.float64), one, mode="same") for one in filters])


def test_fcwt_is_that_of_pywavelets(samples: NDArray[np.float32]) -> None:
    """The complex Morlet wavelet cmorB-C with B = 2 and C = omega0 / 2 pi, scaled to unit energy."""
    config = frontend_config("fcwt", bins=48, fmin=100.0)
    clip = clip_of(config, samples)
    centres = backend_class("fcwt")(config).centres().numpy()
    carrier = OMEGA0 / (2 * np.pi)
    scales = carrier * config.sample_rate / centres
    coefficients, _ = pywt.cwt(clip.astype(np.float64), scales, f"cmor2.0-{carrier}", method="fft", precision=16)
    # pywt's wavelet is exp(-t^2 / B) / sqrt(pi B) times the carrier: its energy is 1 / sqrt(2 pi B).
    # It convolves with the differences of the wavelet's integral, which loses sinc(f / rate) of each frequency.
    lost = np.sinc(centres / config.sample_rate)[:, None] ** 2
    wanted = np.abs(coefficients) ** 2 * np.sqrt(2 * np.pi * 2.0) / lost
    assert relative(power(config, clip), averaged(wanted, config)) < 0.03


def test_fcwt_is_that_of_the_fcwt_package(samples: NDArray[np.float32]) -> None:
    """The package scales its coefficients differently: each band is compared by its course."""
    fcwt = pytest.importorskip("fcwt", reason="needs pip install fcwt and the library libfftw3-single3")
    config = frontend_config("fcwt", bins=48, fmin=100.0)
    clip = clip_of(config, samples)
    centres = backend_class("fcwt")(config).centres().numpy()
    morlet = fcwt.Morlet(OMEGA0 / (2 * np.pi))
    scales = fcwt.Scales(
        morlet, fcwt.FCWT_LOGSCALES, config.sample_rate, float(centres[0]), float(centres[-1]), len(centres)
    )
    coefficients = np.zeros((len(centres), len(clip)), np.complex64)
    fcwt.FCWT(morlet, 1, False, False).cwt(clip, scales, coefficients)
    wanted = averaged(np.abs(coefficients[::-1].astype(np.complex128)) ** 2, config)
    for found, course in zip(power(config, clip), wanted, strict=True):
        assert relative(found / found.mean(), course / course.mean()) < 0.1


# In ONNX -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def exported(request: pytest.FixtureRequest) -> Iterator[tuple[Frontend, FrontendConfig, bytes]]:
    config = frontend_config(request.param, bins=32, frames=32)
    if not BACKENDS[request.param].streamable:  # fewer filters at fewer rates are exported in half the time
        config = frontend_config(request.param, bins=16, frames=32, fmin=400.0)
    torch.manual_seed(0)
    frontend = Frontend(config).eval()
    frontend.window.mean.fill_(-10)
    frontend.window.deviation.fill_(9)
    examples = torch.zeros(EXAMPLE_BATCH, config.clip_samples), torch.zeros(EXAMPLE_BATCH, 2)
    yield frontend, config, to_onnx(GraphModule("frontend", frontend), examples).SerializeToString()


def inputs_of(config: FrontendConfig) -> dict[str, NDArray[np.float32]]:
    clips = np.stack([noise(config.clip_samples, seed, level) for seed, level in ((0, 0.1), (1, 1e-3), (2, 0.0))])
    return {"waveform": clips, "source": np.array([[16_000, 0.0], [8_000, 0.1], [44_100, 0.0]], np.float32)}


def test_the_graph_answers_as_the_module_does(exported: tuple[Frontend, FrontendConfig, bytes]) -> None:
    frontend, config, content = exported
    inputs = inputs_of(config)
    with torch.no_grad():
        wanted = [part.numpy() for part in frontend(*(torch.from_numpy(array) for array in inputs.values()))]
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(onnx.load_model_from_string(content))
    for found in (session.run(None, inputs), reference.run(None, inputs)):
        assert np.abs(found[0] - wanted[0]).max() < 1e-4
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)


def test_the_graph_has_standard_operators_only(exported: tuple[Frontend, FrontendConfig, bytes]) -> None:
    model = onnx.load_model_from_string(exported[2])
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert not {node.op_type for node in model.graph.node} & {"STFT", "DFT", "Loop", "If", "Scan", "MelWeightMatrix"}
    assert not {node.domain for node in model.graph.node} - {"", "ai.onnx"}


def test_the_graph_is_taken_by_one_provider_as_a_whole(
    exported: tuple[Frontend, FrontendConfig, bytes], tmp_path: Path
) -> None:
    """ONNX Runtime says for each node where it runs; with one provider for all, nothing is copied in between."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "trace")
    session = onnxruntime.InferenceSession(exported[2], options, providers=["CPUExecutionProvider"])
    session.run(None, inputs_of(exported[1]))
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    providers = {event["args"]["provider"] for event in events if event.get("args", {}).get("provider")}
    assert providers == {"CPUExecutionProvider"}
    assert not [event for event in events if "Memcpy" in event["name"]]


Parts = tuple[Frontend, FrontendConfig, list[int], onnxruntime.InferenceSession, onnxruntime.InferenceSession]


@pytest.fixture(scope="module", params=[name for name in NAMES if BACKENDS[name].streamable])
def parts_of_stream(request: pytest.FixtureRequest) -> Parts:
    """A frontend, its configuration, the samples that each number of frames spans, and sessions of roles ``frames`` and
    ``window``."""
    config = frontend_config(request.param, bins=32, frames=32)
    frontend = Frontend(config).eval()
    frontend.window.deviation.fill_(9)
    framing = (config.win_length, config.hop)
    span = [config.win_length + (n - 1) * config.hop for n in range(config.frames + 1)]
    frames = session_of(GraphModule("frames", frontend.frame, framing=framing), torch.zeros(3, span[5]))
    examples = torch.zeros(3, 32, 32), torch.zeros(3, 34, 32), torch.zeros(3, 2)
    return frontend, config, span, frames, session_of(GraphModule("window", frontend.window), *examples)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_frames_then_window_answer_as_the_whole_frontend_however_the_frames_were_cut(
    parts_of_stream: Parts, offset: float
) -> None:
    frontend, config, span, frames, window = parts_of_stream
    inputs = inputs_of(config)
    inputs["waveform"] += np.float32(offset)
    parts: list[list[NDArray[np.float32]]] = []
    start = 0
    for count in (1, 7, 24):
        chunk = inputs["waveform"][:, start * config.hop :][:, : span[count]]
        parts.append(frames.run(["frames", "frame_sums"], {"waveform": chunk}))
        start += count
    joined = {
        key: np.concatenate(part, axis=2)
        for key, part in zip(("frames", "frame_sums"), zip(*parts, strict=True), strict=True)
    }
    found = window.run(["spectrogram", "attributes"], joined | {"source": inputs["source"]})
    with torch.no_grad():
        wanted = [part.numpy() for part in frontend(*(torch.from_numpy(array) for array in inputs.values()))]
    assert np.abs(found[0] - wanted[0]).max() < 1e-4
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)


def session_of(graph: GraphModule, *examples: torch.Tensor) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        to_onnx(graph, examples).SerializeToString(), providers=["CPUExecutionProvider"]
    )


# A backend of one's own ----------------------------------------------------------------------------------------------


def test_a_backend_of_ones_own_takes_part_like_the_others() -> None:
    @register("halves")
    class Halves(FrameBackend):
        """The lower and the upper half of the band, each repeated."""

        purpose = "tests"

        def centres(self) -> torch.Tensor:
            return torch.linspace(100, 7_000, self.config.bins)

        def filters(self) -> torch.Tensor:
            lines = self.config.n_fft // 2 + 1
            upper = torch.arange(lines) >= lines // 2
            chosen = (torch.arange(self.config.bins) >= self.config.bins // 2)[None] == upper[:, None]
            return chosen / chosen.sum(0)

    try:
        config = frontend_config("halves")
        bands = power(config, noise(config.clip_samples)).mean(1)
        assert bands == pytest.approx(np.full(config.bins, 0.01), rel=0.1)
        with pytest.raises(ConfigError, match="'halves' is registered already, by Halves"):
            register("halves")(Halves)
    finally:
        del BACKENDS["halves"]


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"spectrogram: found 'mfcc', expected .*logmel"):
        Frontend(frontend_config("mfcc"))


@pytest.mark.parametrize("name", ["cqt", "fcwt"])
def test_constant_q_needs_a_lowest_frequency(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"fmin: found 0 Hz, expected more than 0 Hz for spectrogram {name}"):
        Frontend(frontend_config(name, fmin=0.0))


@pytest.mark.parametrize("name", NAMES)
def test_only_backends_of_frames_can_stream(name: str) -> None:
    assert backend_class(name).streamable == (not issubclass(backend_class(name), ClipBackend))


def test_a_click_is_not_missed_however_high_the_band() -> None:
    """Sampling a wavelet's magnitude once a hop would see one click in ten."""
    config = frontend_config("fcwt", frames=64)
    for place in range(9_000, 9_320, 40):
        samples = np.zeros(config.clip_samples, np.float32)
        samples[place] = 1.0
        top = power(config, samples)[-4:].sum(1) * config.hop
        assert top == pytest.approx(np.ones(4), rel=0.1)
