"""TensorRT's engines: built by a command, one folder a graph, and used only where they were built. TensorRT itself is
played by a stand-in that writes an engine where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from data.commands import call

from xaimoe_runtime import ProviderError, Runtime, tensorrt
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.providers import SessionFactory

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU = "NVIDIA Orin, 8.7"
REAL = onnxruntime.InferenceSession


class Session:
    """A session on the CPU that says it is TensorRT's, and writes an engine once it is run where it may."""

    def __init__(self, model: bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.real = REAL(model, options, providers=[CPU])
        self.name, self.options = providers[0]
        self.sizes: list[dict[str, tuple[int, ...]]] = []

    def get_providers(self) -> list[str]:
        return [self.name]

    def run(self, names: list[str] | None, inputs: dict[str, np.ndarray[Any, Any]]) -> Any:
        self.sizes.append({name: array.shape for name, array in inputs.items()})
        if "trt_engine_cache_path" in self.options:
            (Path(self.options["trt_engine_cache_path"]) / "graph.engine").write_bytes(b"engine")
        return self.real.run(names, inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Session]:
    """A board with TensorRT; the sessions that are made on it."""
    made: list[Session] = []

    def session(*arguments: Any, **named: Any) -> Session:
        made.append(Session(*arguments, **named))
        return made[-1]

    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(tensorrt, "version", lambda: "10.9.0")
    for module in ("providers", "tensorrt"):
        monkeypatch.setattr(f"xaimoe_runtime.{module}.gpu_name", lambda index=0: GPU)
    return made


@pytest.fixture
def build(bundle: Path) -> Callable[[], dict[str, float]]:
    def all_of_it(again: bool = False) -> dict[str, float]:
        took: dict[str, float] = {}
        tensorrt.build(Bundle.open(bundle), SessionFactory("tensorrt"), again, took.__setitem__)
        return took

    return all_of_it


def test_engines_are_built_for_every_graph_and_the_sizes_of_its_profile(
    bundle: Path, build: Callable[[], dict[str, float]], board: list[Session]
) -> None:
    manifest = Bundle.open(bundle).manifest
    took = build()
    assert set(took) == {graph.name for graph in manifest.graphs if graph.role != "fused"}
    assert all(seconds > 0 for seconds in took.values())
    expert = next(i for i, name in enumerate(took) if name.startswith("expert "))
    profile = manifest.graph("expert", manifest.experts[0].name).profiles["M"]
    assert [sizes["patches"][0] for sizes in board[expert].sizes] == [profile.min, profile.opt, profile.max]
    tile = "x".join(map(str, manifest.patches.grid.tile))
    assert board[expert].options["trt_profile_max_shapes"] == f"patches:{profile.max}x1x{tile},position:{profile.max}x2"
    assert board[expert].options["trt_fp16_enable"] == "0"


def test_graphs_do_not_share_a_folder(build: Callable[[], dict[str, float]], board: list[Session]) -> None:
    took = build()
    assert len({session.options["trt_engine_cache_path"] for session in board}) == len(took)


def test_what_is_kept_is_not_built_again(build: Callable[..., dict[str, float]]) -> None:
    build()
    assert set(build().values()) == {0.0}
    assert all(seconds > 0 for seconds in build(again=True).values())


def test_one_that_is_interrupted_is_built_again(
    bundle: Path, build: Callable[[], dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, runs = Session.run, iter(range(1000))

    def run(self: Session, names: list[str] | None, inputs: dict[str, Any]) -> Any:
        if next(runs) == 4:
            raise KeyboardInterrupt
        return plain(self, names, inputs)

    monkeypatch.setattr(Session, "run", run)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert Runtime.load(bundle).provider == "cuda"
    took = list(build().values())
    assert took[0] == 0 and all(seconds > 0 for seconds in took[1:])
    assert Runtime.load(bundle).provider == "tensorrt"


def test_tensorrt_is_used_where_its_engines_are_and_never_builds_them_by_the_way(
    bundle: Path, build: Callable[[], dict[str, float]]
) -> None:
    assert Runtime.load(bundle).provider == "cuda"
    with pytest.raises(ProviderError, match=r"no TensorRT engine is kept .* run xaimoe-runtime build-engines"):
        Runtime.load(bundle, provider="tensorrt")
    build()
    for provider in ("auto", "tensorrt"):
        runtime = Runtime.load(bundle, provider=provider)
        assert runtime.provider == "tensorrt"
        assert np.isfinite(runtime.infer(np.zeros(8000, np.float32)).scores).all()


@pytest.mark.parametrize("what", ["version", "gpu", "onnxruntime"])
def test_engines_of_another_version_or_gpu_are_not_used(
    what: str, bundle: Path, build: Callable[[], dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    if what == "version":
        monkeypatch.setattr(tensorrt, "version", lambda: "10.10.0")
    elif what == "gpu":
        monkeypatch.setattr("xaimoe_runtime.tensorrt.gpu_name", lambda index=0: "NVIDIA Thor, 10.1")
    else:
        monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    assert Runtime.load(bundle).provider == "cuda"


def test_without_a_gpu_it_is_said_what_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaimoe_runtime.providers.gpu_name", lambda index=0: "")
    result = call("build-engines", bundle)
    assert (result.exit_code, "no NVIDIA GPU is found" in result.stderr) == (4, True)


def test_without_the_library_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tensorrt, "LIBRARY", "libnvinfer-that-is-not-there.so")
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[tensorrt\]"):
        tensorrt.version()


def test_the_command_says_what_it_took_and_where_engines_lie(bundle: Path, tmp_path: Path) -> None:
    result = call("build-engines", bundle)
    assert result.exit_code == 0
    folder = Path(result.stdout.strip())
    assert folder.is_relative_to(tmp_path / "cache" / "engines")
    assert "frontend" in result.stderr
    kept = [msgspec.json.decode(path.read_bytes(), type=tensorrt.Engine) for path in folder.rglob("built.json")]
    assert {(engine.gpu, engine.tensorrt) for engine in kept} == {(GPU, "10.9.0")}
    assert "kept" in call("build-engines", bundle).stderr


def test_other_options_of_tensorrt_come_before_ours_and_have_engines_of_their_own(
    bundle: Path, board: list[Session]
) -> None:
    result = call("build-engines", bundle, "--provider-option", "trt_fp16_enable=1")
    assert result.exit_code == 0
    assert {session.options["trt_fp16_enable"] for session in board} == {"1"}
    assert Runtime.load(bundle).provider == "cuda"
    with pytest.raises(ProviderError, match="these options"):
        Runtime.load(bundle, "tensorrt")
    assert Runtime.load(bundle, "tensorrt", provider_options={"trt_fp16_enable": 1}).provider == "tensorrt"


def test_a_precision_that_the_bundle_lacks_has_no_engines(bundle: Path) -> None:
    result = call("build-engines", bundle, "--precision", "int8")
    assert (result.exit_code, "found 'int8', the bundle has fp32" in result.stderr) == (2, True)


@pytest.mark.parametrize("budget_ms", [None, 60_000.0])
def test_more_windows_than_an_engine_holds_are_run_in_parts(
    bundle: Path, build: Callable[[], dict[str, float]], budget_ms: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    runtime, sizes = Runtime.load(bundle, "tensorrt"), []
    plain = runtime.dispatcher.run

    def run(clips: np.ndarray[Any, Any], *others: Any) -> Any:
        sizes.append(len(clips))
        return plain(clips, *others)

    monkeypatch.setattr(runtime.dispatcher, "run", run)
    most = runtime.manifest.graph("frontend").profiles["B"].max
    waveform = np.random.default_rng(0).normal(0, 0.1, (most + 3, runtime.audio.clip_samples)).astype(np.float32)
    source = np.tile(np.float32([runtime.audio.sample_rate, 0]), (len(waveform), 1))
    engine = runtime if budget_ms is None else runtime.within(lambda windows: perf_counter() + budget_ms, "p95")
    found = engine.run(waveform, source, "routed")
    assert sizes == [most, 3]
    assert found.scores == pytest.approx(Runtime.load(bundle, "cpu").run(waveform, source, "routed").scores, abs=1e-4)
