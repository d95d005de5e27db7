"""``best.pt``: tensors and plain values, from which the model is rebuilt and nothing is executed."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from xaimoe_audio.checkpoint import SCHEMA, load_checkpoint, save_checkpoint
from xaimoe_audio.config import ModelConfig
from xaimoe_runtime.errors import BundleError, ConfigError


def content_of(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return content


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_checkpoint_survives_the_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    first = load_checkpoint(checkpoint)
    save_checkpoint(tmp_path / "copy.pt", first.model, first.info)
    again = load_checkpoint(tmp_path / "copy.pt")
    assert again.info == first.info
    for (name, tensor), (_, wanted) in zip(
        again.model.state_dict().items(), first.model.state_dict().items(), strict=True
    ):
        assert torch.equal(tensor, wanted), name
    waveform = torch.randn(2, first.info.model.frontend.clip_samples)
    source = torch.tensor([[16_000.0, 0.0]] * 2)
    with torch.no_grad():
        assert torch.equal(first.model(waveform, source)[0], again.model(waveform, source)[0])


def test_a_checkpoint_holds_tensors_and_plain_values_alone(checkpoint: Path) -> None:
    content = content_of(checkpoint)
    assert set(content) == {"schema", "state_dict", "config"}
    assert all(isinstance(value, torch.Tensor) for value in content["state_dict"].values())
    assert json.loads(content["config"])["model"]["labels"]


def test_a_loaded_model_is_in_evaluation_mode(checkpoint: Path) -> None:
    assert not load_checkpoint(checkpoint).model.training


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such checkpoint; expected the best.pt" in refusal(tmp_path / "best.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(checkpoint: Path, tmp_path: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: int(len(whole) * share)])
    assert "not a checkpoint of tensors and plain values" in refusal(cut)


@pytest.mark.parametrize("content", [b"hello, world", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(200)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(content)
    assert "checkpoint" in refusal(other) or "schema, state_dict and config" in refusal(other)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, torch.zeros(3)])
def test_other_content_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert "found no schema, state_dict and config" in refusal(tmp_path / "other.pt")


@pytest.mark.parametrize("schema", [0, SCHEMA - 1, SCHEMA + 1, str(SCHEMA), None])
def test_another_schema_is_refused(checkpoint: Path, tmp_path: Path, schema: Any) -> None:
    torch.save(content_of(checkpoint) | {"schema": schema}, tmp_path / "new.pt")
    assert f"found checkpoint schema {schema}, this release reads {SCHEMA}" in refusal(tmp_path / "new.pt")


class Malicious:
    """Creates a folder when it is unpickled in full."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_executed(checkpoint: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save(content_of(checkpoint) | {"extra": Malicious(proof)}, tmp_path / "bad.pt")
    assert b"mkdir" in (tmp_path / "bad.pt").read_bytes(), "the attack is not in the file, so this proves nothing"
    assert "not a checkpoint of tensors and plain values" in refusal(tmp_path / "bad.pt")
    assert not proof.exists()


def altered(checkpoint: Path, out: Path, change: Any) -> Path:
    content = content_of(checkpoint)
    config = json.loads(content["config"])
    change(content["state_dict"], config)
    torch.save(content | {"config": json.dumps(config)}, out)
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda state, config: config["model"].update(labels=["one", "two"]),
        lambda state, config: config["model"].update(expert_width=8),
        lambda state, config: config["model"].update(expert_width=-8),
        lambda state, config: config["model"].update(tile=[10_000, 32]),
        lambda state, config: config["model"].update(experts=["Unheard"]),
        lambda state, config: config["model"]["frontend"].update(hop=0),
        lambda state, config: config["model"].update(task="guess"),
        lambda state, config: config.update(surprise=1),
        lambda state, config: config.pop("model"),
        lambda state, config: state.popitem(),
        lambda state, config: state.update(more=torch.zeros(1)),
    ],
    ids=["labels", "width", "negative", "tile", "expert", "hop", "task", "surprise", "no model", "less", "more"],
)
def test_a_configuration_that_does_not_fit_is_refused(checkpoint: Path, tmp_path: Path, change: Any) -> None:
    assert "tensors and configuration do not fit" in refusal(altered(checkpoint, tmp_path / "odd.pt", change))


def test_a_configuration_that_is_not_text_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(content_of(checkpoint) | {"config": 7}, tmp_path / "odd.pt")
    assert "tensors and configuration do not fit" in refusal(tmp_path / "odd.pt")


def test_a_write_that_fails_leaves_the_earlier_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copy(checkpoint, tmp_path / "best.pt"))
    loaded = load_checkpoint(copy)

    def full_disk(content: Any, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(copy, loaded.model, loaded.info)
    assert copy.read_bytes() == checkpoint.read_bytes()
    assert list(tmp_path.iterdir()) == [copy]


def test_a_place_that_cannot_be_written_is_named(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/best\.pt: cannot be written"):
        save_checkpoint(tmp_path / "file" / "best.pt", loaded.model, loaded.info)


def test_the_last_checkpoint_holds_tensors_and_plain_values_alone(run_folder: Path) -> None:
    content = torch.load(run_folder / "last.pt", weights_only=True)
    assert content["epoch"] == 7


def test_the_checkpoint_says_what_it_was_trained_on(checkpoint: Path, config: ModelConfig) -> None:
    info = load_checkpoint(checkpoint).info
    assert info.seed == 3
    assert len(info.dataset_sha256) == 64
    assert info.versions["torch"] == torch.__version__.split("+")[0] or torch.__version__ in info.versions["torch"]
    assert set(info.metrics) == {"val_accuracy", "test_accuracy"}
    assert info.model.router.k_max == config.router.k_max


def with_frontend(checkpoint: Path, out: Path, **changed: Any) -> Path:
    """A copy whose configuration says something else of the frontend; None takes a field away."""
    content = content_of(checkpoint)
    config = json.loads(content["config"])
    frontend = config["model"]["frontend"] | changed
    config["model"]["frontend"] = {name: value for name, value in frontend.items() if value is not None}
    torch.save(content | {"config": json.dumps(config)}, out)
    return out


def test_a_checkpoint_from_before_attributes_had_versions_keeps_its_definition(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = load_checkpoint(with_frontend(checkpoint, tmp_path / "before.pt", attributes_version=None)).model
    first = load_checkpoint(with_frontend(checkpoint, tmp_path / "first.pt", attributes_version=1)).model
    second = load_checkpoint(with_frontend(checkpoint, tmp_path / "second.pt", attributes_version=2)).model
    assert before.config.frontend.attributes_version == 1
    waveform = 0.1 * torch.randn(2, before.config.frontend.clip_samples).cumsum(1) + 0.3
    source = torch.tensor([[16_000.0, 0.0]] * 2)
    with torch.no_grad():
        found = [model.frontend(waveform, source)[1] for model in (before, first, second)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1.0)


def test_an_unknown_definition_of_the_attributes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert "attributes_version" in refusal(with_frontend(checkpoint, tmp_path / "best.pt", attributes_version=3))
