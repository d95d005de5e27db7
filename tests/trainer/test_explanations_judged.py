"""Faithfulness of the explanations: known maps are judged as they deserve, and the files say what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.cli import app
from xaimoe_audio.faithfulness import METHODS, METRICS, Judged, Scores, summarise, table
from xaimoe_audio.quantus_metrics import REMOVED, QuantusMetrics
from xaimoe_runtime import ConfigError, ProviderError

BINS, FRAMES = 8, 12
PLACE = (slice(2, 5), slice(3, 7))
"""Where the answer of ``Corner`` lies."""


class Corner(nn.Module):
    """Answers by the mean of a few cells alone; its weight can be made random."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(1, 1)
        with torch.no_grad():
            self.weigh.weight.fill_(4.0)
            self.weigh.bias.fill_(-2.0)

    def forward(self, spectrogram: Tensor) -> Tensor:
        score = torch.sigmoid(self.weigh(spectrogram[:, 0][:, *PLACE].mean((1, 2))[:, None]))
        return torch.cat([score, 1 - score], dim=1)


def where_it_lies(model: nn.Module, spectrogram: Tensor, target: int) -> Tensor:
    found = torch.zeros(BINS, FRAMES)
    found[PLACE] = spectrogram[0, 0][PLACE]
    return found


def elsewhere(model: nn.Module, spectrogram: Tensor, target: int) -> Tensor:
    return (spectrogram[0, 0] > 0) * 1.0 - where_it_lies(model, spectrogram, target).clamp(max=1)


@pytest.fixture(scope="module")
def judged() -> dict[str, dict[str, float]]:
    spectrogram = torch.rand(1, 1, BINS, FRAMES, generator=torch.Generator().manual_seed(0)) + 0.5
    quantus, model = QuantusMetrics(BINS, FRAMES, seed=0), Corner().eval()
    return {
        name: quantus(model, spectrogram, explainer(model, spectrogram, 0), 0, explainer)
        for name, explainer in (("there", where_it_lies), ("elsewhere", elsewhere))
    }


def test_quantus_prefers_the_map_that_names_the_cells_of_the_answer(judged: dict[str, dict[str, float]]) -> None:
    there, elsewhere = judged["there"], judged["elsewhere"]
    assert there["pixel_flipping"] < 0.4 < 0.6 < elsewhere["pixel_flipping"]
    assert there["sparseness"] > elsewhere["sparseness"]
    assert there["max_sensitivity"] == pytest.approx(0.1, abs=0.1)  # a cell of about 1 changes by at most 0.2
    assert there["road"] == pytest.approx(np.mean([there[f"road {percentage}"] for percentage in REMOVED]))


def test_a_map_that_ignores_the_weights_is_found_out() -> None:
    spectrogram = torch.rand(1, 1, BINS, FRAMES)
    found = QuantusMetrics(BINS, FRAMES, 0)(
        Corner().eval(), spectrogram, spectrogram[0, 0], 0, lambda _, heard, target: heard[0, 0]
    )
    assert found["randomisation"] == pytest.approx(1, abs=1e-4)


def test_a_map_without_anything_is_not_an_error() -> None:
    nothing = torch.zeros(BINS, FRAMES)
    found = QuantusMetrics(BINS, FRAMES, 0)(
        Corner().eval(), torch.rand(1, 1, BINS, FRAMES), nothing, 0, lambda *_: nothing
    )
    assert found["sparseness"] == pytest.approx(0, abs=1e-5)
    assert abs(found["randomisation"]) < 0.5
    assert all(np.isfinite(value) for value in found.values())


def made_up(deletion: float, random: float, count: int = 20) -> list[Judged]:
    """Recordings of which the saliency, as all but the random order, has that deletion."""
    draw = np.random.default_rng(0)

    def values(mean: float) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(METRICS, mean + draw.normal(0, 0.01))
        curves = {f"{name} curve": [1.0, mean, 0.0] for name in ("deletion", "insertion")}
        return found | curves | {f"road {percentage}": mean for percentage in REMOVED}

    return [
        Judged({name: values(random if name == "random" else deletion) for name in METHODS}, 0.5) for _ in range(count)
    ]


def test_intervals_tell_which_side_of_random_the_saliency_is_on() -> None:
    found = summarise(made_up(0.4, 0.6))
    over = found["saliency"]["deletion_over_random"]
    assert over["low"] <= over["mean"] <= over["high"] < 0
    assert over["mean"] == pytest.approx(-0.2, abs=0.01)
    by = found["saliency"]["deletion_by_teacher"]
    assert by["low"] <= 1 <= by["high"]
    assert found["methods"]["saliency"]["curves"]["deletion"] == pytest.approx([1.0, 0.4, 0.0])


def test_what_is_not_defined_is_told_as_such() -> None:
    judged = made_up(0.4, 0.6)
    for one in judged:
        one.values["random"]["randomisation"] = float("nan")
    found = summarise(judged)
    assert found["methods"]["random"]["randomisation"] is None
    assert "not defined" in table(found)


def test_scores_are_those_of_the_model(checkpoint: Path) -> None:
    model = MoEAudioClassifier.load(checkpoint, "cpu").engine.model
    waveform = torch.randn(3, model.config.frontend.clip_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    source = torch.tensor([[float(model.config.frontend.sample_rate), 0.0]]).expand(3, 2)
    with torch.no_grad():
        wanted, routed = model(waveform, source)
        found = Scores(model, routed.attributes[:1])(routed.spectrogram[:1])
    assert torch.allclose(found, wanted[:1], atol=1e-5)


def test_the_command_judges_and_writes(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    command = ["faithfulness", "--ckpt", checkpoint, "--dataset", scenes, "--out", tmp_path, "--recordings", 2]
    done = CliRunner().invoke(app, [*map(str, command), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "2 recordings" in done.stdout
    found = json.loads((tmp_path / "faithfulness.json").read_text())
    assert set(found["methods"]) == set(METHODS)
    assert found["methods"]["random"]["sparseness"]["mean"] > 0
    assert len(found["methods"]["saliency"]["curves"]["road"]) == len(REMOVED)
    assert {path.name for path in tmp_path.iterdir()} == {f"faithfulness.{e}" for e in ("json", "png", "svg")}


def test_nothing_to_judge_is_refused(checkpoint: Path, scenes: Path) -> None:
    with pytest.raises(ConfigError, match="found 0, expected a whole number, 1 or more"):
        MoEAudioClassifier.load(checkpoint, "cpu").faithfulness(scenes, recordings=0)


def test_without_quantus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "quantus", None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[faithfulness\]"):
        QuantusMetrics(BINS, FRAMES, 0)
