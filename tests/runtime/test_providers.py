"""Execution providers: ``auto`` takes the best there is, one asked for by name is used or is an error."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from data.commands import call
from onnx import TensorProto, helper

from xaimoe_runtime import BundleError, ConfigError, ProviderError, Runtime
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.onnxfile import check
from xaimoe_runtime.providers import SessionFactory, load_onnxruntime, parse_options, resolve

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
KNOWN = onnxruntime.get_all_providers()


@pytest.fixture
def head(bundle: Path) -> bytes:
    return Bundle.open(bundle).files["head.onnx"]


@pytest.fixture
def cuda_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that lists CUDA, on a machine where no session gets it: a driver is missing."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("CUDA is really there")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


# Choice --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "available", "taken"),
    [
        ("auto", [CPU], CPU),
        ("auto", [CUDA, CPU], CUDA),
        ("auto", [CPU, CUDA], CUDA),
        ("auto", [TENSORRT, CUDA, CPU], CUDA),
        ("auto", ["AzureExecutionProvider", CPU], CPU),
        ("cpu", [CUDA, CPU], CPU),
        ("cuda", [CUDA, CPU], CUDA),
        ("CUDA", [CUDA, CPU], CUDA),
        ("tensorrt", [TENSORRT, CUDA, CPU], TENSORRT),
        ("openvino", [OPENVINO, CPU], OPENVINO),
        (OPENVINO, [OPENVINO, CPU], OPENVINO),
    ],
)
def test_what_is_taken_of_what_is_there(asked: str, available: list[str], taken: str) -> None:
    assert resolve(asked, available, KNOWN) == taken


def test_auto_takes_tensorrt_only_where_its_engines_are_kept() -> None:
    assert resolve("auto", [TENSORRT, CUDA, CPU], KNOWN, has_engines=True) == TENSORRT
    assert resolve("auto", [CUDA, CPU], KNOWN, has_engines=True) == CUDA


@pytest.mark.parametrize(
    ("asked", "way_out"),
    [("cuda", "xai-moe-audio[gpu]"), ("tensorrt", "xai-moe-audio[tensorrt]"), ("openvino", "offers cpu; use")],
)
def test_a_provider_asked_for_by_name_is_never_replaced(asked: str, way_out: str) -> None:
    with pytest.raises(ProviderError, match=f"provider '{asked}' is missing; this ONNX Runtime offers cpu") as caught:
        resolve(asked, [CPU], KNOWN)
    assert way_out in str(caught.value) and "--provider auto" in str(caught.value)


@pytest.mark.parametrize("asked", ["gpu", "", "ExecutionProvider"])
def test_an_unknown_provider_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, tensorrt or another") as caught:
        resolve(asked, [CPU], KNOWN)
    assert repr(asked) in str(caught.value)


def test_a_runtime_says_what_it_runs_on(runtime: Runtime) -> None:
    assert runtime.provider == "cpu"


@pytest.mark.usefixtures("cuda_promised")
def test_auto_goes_on_with_the_cpu_when_cuda_does_not_start(bundle: Path) -> None:
    with pytest.warns(UserWarning, match=CUDA):
        assert Runtime.load(bundle, provider="auto").provider == "cpu"


@pytest.mark.usefixtures("cuda_promised")
def test_cuda_asked_for_by_name_that_does_not_start_is_an_error(bundle: Path) -> None:
    with (
        pytest.warns(UserWarning, match=CUDA),
        pytest.raises(ProviderError, match=f"'cuda' was asked for, but ONNX Runtime used {CPU}"),
    ):
        Runtime.load(bundle, provider="cuda")


# Installation --------------------------------------------------------------------------------------------------------


def install(monkeypatch: pytest.MonkeyPatch, *distributions: str) -> None:
    """Makes it look as if these builds of ONNX Runtime were installed, and no other."""

    def version(name: str) -> str:
        if name not in distributions:
            raise metadata.PackageNotFoundError(name)
        return "1.22"

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize("distribution", ["onnxruntime", "onnxruntime-gpu"])
def test_either_build_of_onnx_runtime_will_do(monkeypatch: pytest.MonkeyPatch, distribution: str) -> None:
    install(monkeypatch, distribution)
    assert load_onnxruntime() is onnxruntime


def test_a_build_of_ones_own_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert load_onnxruntime() is onnxruntime


def test_both_builds_at_once_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(ProviderError, match="found both onnxruntime and onnxruntime-gpu") as caught:
        SessionFactory("cpu")
    assert "pip uninstall onnxruntime onnxruntime-gpu" in str(caught.value)


def test_a_missing_onnx_runtime_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r'ONNX Runtime is missing; install it with pip install "xai-moe-audio'):
        SessionFactory("cpu")


# Options -------------------------------------------------------------------------------------------------------------


class Session:
    """Takes what a session is given, on whichever provider."""

    def __init__(self, model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.given = providers

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.given]


def given(monkeypatch: pytest.MonkeyPatch, provider: str, options: dict[str, object]) -> dict[str, dict[str, str]]:
    """What ONNX Runtime is told of each provider, where all are there."""
    every_provider(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return dict(SessionFactory(provider, options=options).create("graph", b"").given)  # type: ignore[attr-defined]


def every_provider(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As if all were there; the severities that ONNX Runtime's default logger is set to."""
    severities: list[int] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, OPENVINO, CPU])
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", severities.append)
    return severities


@pytest.mark.parametrize(("provider", "wanted"), [("cuda", [4]), ("openvino", []), ("cpu", [])])
def test_plans_that_cudnn_does_not_find_are_no_errors(
    provider: str, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    severities = every_provider(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    factory = SessionFactory(provider)
    assert severities == []
    factory.create("graph", b"")
    assert severities == wanted


def test_why_cuda_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIt(Session):
        def get_providers(self) -> list[str]:
            return [CPU]

    severities = every_provider(monkeypatch)
    monkeypatch.setattr(onnxruntime, "InferenceSession", WithoutIt)
    SessionFactory("auto").create("graph", b"")
    assert severities == []


def test_cuda_is_told_to_choose_kernels_by_rule_and_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
    assert given(monkeypatch, "cuda", {}) == {CUDA: usual, CPU: {}}
    assert given(monkeypatch, "cuda", {"use_tf32": 1, "device_id": 2}) == {
        CUDA: usual | {"use_tf32": "1", "device_id": "2"},
        CPU: {},
    }


def test_what_a_provider_lacks_is_left_to_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, "openvino", {"device_type": "NPU"}) == {OPENVINO: {"device_type": "NPU"}, CPU: {}}
    assert list(given(monkeypatch, "tensorrt", {})) == [TENSORRT, CUDA, CPU]


def test_options_are_read_from_the_command_line() -> None:
    assert parse_options(["device_id=1", "path=a=b", "empty="]) == {"device_id": "1", "path": "a=b", "empty": ""}


@pytest.mark.parametrize("texts", [["device_id"], ["=1"], [""], ["a=1", "a=2"]])
def test_an_option_that_is_none_is_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected NAME=VALUE, each name once"):
        parse_options(texts)


def test_options_of_no_certain_provider_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected the name of the one that they are for"):
        SessionFactory("auto", options={"device_id": 0})


def test_a_device_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="device_id: found 'first', expected a number"):
        SessionFactory("cpu", options={"device_id": "first"})


def test_an_option_is_refused_on_the_command_line_too(bundle: Path) -> None:
    result = call("verify", bundle, "--provider", "cpu", "--provider-option", "x")
    assert result.exit_code == 2
    assert "--provider-option: found 'x'" in result.stderr


# Sessions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_sessions_have_the_threads_that_were_asked_for_and_do_not_spin(head: bytes, threads: int) -> None:
    options = SessionFactory("cpu", threads).create("head", head).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def of_external_weights(location: str) -> bytes:
    """A graph that gives out the first bytes of a file beside the working directory."""
    weights = TensorProto(name="w", dims=[4], data_type=TensorProto.UINT8, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    weights.external_data.add(key="length", value="4")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    nodes = [helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "f"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=[weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_session_finds_no_weights_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a check overlook them, the folder that they are looked for in is nowhere."""
    (tmp_path / "secret").write_bytes(b"12345678")
    monkeypatch.chdir(tmp_path)
    content = of_external_weights("secret")
    x = np.zeros(4, np.float32)
    open_session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert open_session.run(None, {"x": x})[0].tolist() == [49, 50, 51, 52], "without the setting the file is read"
    with pytest.raises(BundleError, match=r"ONNX Runtime .* refuses the graph"):
        SessionFactory("cpu").create("graph", content)


def test_a_session_takes_nothing_but_onnx(tmp_path: Path) -> None:
    """A model in ONNX Runtime's own format is recognised by its bytes unless the format is said."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "model.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])  # it would be run
    with pytest.raises(BundleError, match=r"ONNX Runtime .* refuses the graph"):
        SessionFactory("cpu").create("graph", content)
    with pytest.raises(BundleError, match="found a model in ONNX Runtime's own format"):
        check("it.onnx", content)


def test_experts_always_have_one_thread(bundle: Path) -> None:
    line = Runtime.load(bundle, provider="cpu", threads=2).dispatcher
    threads = {name: g.session.get_session_options().intra_op_num_threads for name, g in line.graphs.items()}
    assert {count for name, count in threads.items() if name.startswith("expert ")} == {1}
    assert threads["frontend"] == 2


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_no_threads_at_all_and_too_many_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads: found {threads}, expected 1 to 1024; this device has"):
        SessionFactory("cpu", threads)


def test_a_graph_that_is_none_is_named() -> None:
    with pytest.raises(BundleError, match=r"head\.onnx: ONNX Runtime .* refuses the graph"):
        SessionFactory("cpu").create("head.onnx", b"no graph")
