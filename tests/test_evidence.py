"""What the evidence scripts rest on: honest splits, intervals, like networks, cuts and cells that belong together."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from data.configs import model_config

from xaimoe_audio.model.moe import MoEAudioModel, Routed

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "evidence"))
import cells
import folds
import routing
import single_cnn


@pytest.fixture(scope="module")
def model() -> MoEAudioModel:
    torch.manual_seed(0)
    model = MoEAudioModel(model_config("latency", ("boat", "rain", "whale"), {"duration": 1.0}))
    model.frontend.window.mean.fill_(-60)
    model.frontend.window.deviation.fill_(15)
    return model.eval()


def esc_like(folder: Path) -> Path:
    """Forty clips of two classes in five folds, of ten sources each of which lies in one fold."""
    rows = [
        {"filepath": f"{label}-{i}.wav", "label": label, "fold": i % 5 + 1, "group": f"{label}-{i % 10}", "split": ""}
        for label in ("boat", "rain")
        for i in range(20)
    ]
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.mark.parametrize("fold", cells.FOLDS)
def test_a_fold_is_the_test_split_and_no_source_lies_in_two_splits(tmp_path: Path, fold: int) -> None:
    table = cells.fold_table(esc_like(tmp_path), fold, 3, tmp_path / "out" / "fold.csv")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 40
    assert {row["split"] for row in rows if int(row["fold"]) == fold} == {"test"}
    assert {row["split"] for row in rows if int(row["fold"]) != fold} == {"train", "val"}
    for label in ("boat", "rain"):
        assert 3 <= sum(row["split"] == "val" and row["label"] == label for row in rows) <= 4
    splits_of: dict[str, set[str]] = {}
    for row in rows:
        splits_of.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_an_interval_holds_the_mean_and_is_wider_for_sources_than_for_clips() -> None:
    draw = np.random.default_rng(0)
    of_sources = draw.choice([-1.0, 0.0, 1.0], 50, p=[0.1, 0.6, 0.3])
    difference = np.repeat(of_sources, 8)[None]
    mean, low, high = cells.interval(difference, [str(i // 8) for i in range(400)])
    assert mean == pytest.approx(of_sources.mean())
    assert low < mean < high
    _, alone_low, alone_high = cells.interval(difference, [str(i) for i in range(400)])
    assert high - low > 2 * (alone_high - alone_low)
    error = of_sources.std() / np.sqrt(50)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_an_interval_counts_runs_that_differ() -> None:
    groups = [str(i) for i in range(400)]
    alike, unlike = np.full((3, 400), 0.1), np.full((3, 400), 0.1)
    unlike[0] -= 0.1
    unlike[1] += 0.1
    assert cells.interval(alike, groups)[1:] == pytest.approx((0.1, 0.1))
    _, low, high = cells.interval(unlike, groups)
    assert low < 0.05 and high > 0.15


def test_cells_of_other_options_are_not_taken_for_these(tmp_path: Path) -> None:
    kept = cells.Cells(tmp_path, {"epochs": 3})
    assert kept.get("one") is None
    kept.put("one", {"right": [1, 0]})
    again = cells.Cells(tmp_path, {"epochs": 3})
    found = again.get("one")
    assert found is not None and found["right"] == [1, 0] and found["made"]["torch"] == torch.__version__
    with pytest.raises(typer.BadParameter, match=r"holds cells of another experiment \(epochs differ\)"):
        cells.Cells(tmp_path, {"epochs": 4})
    assert [cell["right"] for cell in cells.Cells(tmp_path)] == [[1, 0]]
    made = {"commit": "0123456789", "changed": True}
    again.put("one", found | {"made": made})
    assert (again.get("one") or {})["made"] == made  # by other code than this
    assert cells.commits(list(again)) == "code: 0123456*"


def test_a_group_that_is_far_too_large_is_not_held_back(tmp_path: Path) -> None:
    rows = [{"label": "asd", "group": group, "split": ""} for group in ["a"] * 52 + ["b"] * 16 + ["c"] * 2]
    rows += [{"label": "rare", "group": group, "split": ""} for group in ["d"] * 30 + ["e"] * 9]
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    found = csv.DictReader(cells.resplit(tmp_path, lambda _: False, 3, tmp_path / "table.csv").open())
    assert {row["group"] for row in found if row["split"] == "val"} == {"c", "e"}


def test_a_dataset_that_is_not_there_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_DATA", str(tmp_path))
    with pytest.raises(typer.BadParameter, match="set XAIMOE_DATA to the folder that holds the dataset esc10"):
        cells.folder_of("esc10")


def test_a_wider_single_network_costs_more(model: MoEAudioModel) -> None:
    narrow, wide = (single_cnn.cost(single_cnn.SingleCNN(width, 3), model) for width in (4, 8))
    assert narrow[0] < wide[0] and narrow[1] < wide[1]


@torch.no_grad()
def routed(model: MoEAudioModel) -> Routed:
    torch.manual_seed(1)
    frontend = model.config.frontend
    waveform = torch.randn(6, frontend.clip_samples) * torch.linspace(0.1, 1, frontend.clip_samples)
    return model.route(*model.frontend(waveform, torch.tensor([[float(frontend.sample_rate), 0.0]] * 6)))


def test_a_cut_keeps_the_best_of_each_patch_first(model: MoEAudioModel) -> None:
    whole = routed(model)
    pairs = (whole.gates > 0).sum((1, 2))
    assert torch.equal(folds.share_of(1.0, whole), whole.gates)
    assert float(folds.share_of(0.0, whole).abs().max()) == 0
    half = folds.share_of(0.5, whole)
    assert torch.equal((half > 0).sum((1, 2)), torch.round(pairs * 0.5).long())
    for kept, gates in zip(half, whole.gates, strict=True):
        ran, best = kept > 0, gates == gates.amax(1, keepdim=True)
        out = (gates > 0) & ~ran
        if (out & best).any():  # not even the best of every patch: no second one, and the largest
            assert not (ran & ~best).any()
            assert kept[ran].min() >= gates[out & best].max()


def test_arms_differ_in_nothing_but_which_patch_has_which_value(model: MoEAudioModel) -> None:
    whole = routed(model)
    studied = routing.StudiedModel(model.config, "saliency").eval()
    studied.frontend.load_state_dict(model.frontend.state_dict())
    own = whole.saliency
    assert torch.equal(studied.attend(own, whole.spectrogram), own)
    studied.relevance = -own
    for arm in ("random", "explained", "loudest"):
        studied.arm = arm
        dealt = studied.attend(own, whole.spectrogram)
        torch.testing.assert_close(dealt.sort(1).values, own.sort(1).values)
        if arm == "explained":
            assert torch.equal(dealt.argmax(1), own.argmin(1))
    # It grows louder to the end, so the largest value goes there.
    assert (dealt.argmax(1) == own.shape[1] - 1).all()


def test_a_fixed_router_runs_as_many_pairs_as_it_is_told(model: MoEAudioModel) -> None:
    studied = routing.StudiedModel(model.config, "saliency").eval()
    assert isinstance(studied.router, routing.FixedRouter)
    whole = routed(model)
    for share in (1 / 16, 1 / 8):
        studied.router.share = share
        gates, _ = studied.router(whole.saliency, whole.context, whole.attributes)
        assert ((gates > 0).sum((1, 2)) == round(share * gates[0].numel())).all()


def test_bursts_are_as_loud_and_as_long_as_they_are_said_to_be(model: MoEAudioModel) -> None:
    torch.manual_seed(0)
    frontend = model.config.frontend
    noise = routing.augment.noise_clips(model.frontend, frontend)
    source = torch.tensor([[float(frontend.sample_rate), 0.0]] * len(noise.power))
    barks = torch.arange(noise.power.shape[2]) < noise.power.shape[2] / 10  # a tenth of the clip
    for clips in (noise, noise._replace(power=noise.power * barks, sums=noise.sums * barks)):
        clips = clips._replace(source=source)
        loud = routing.with_bursts(clips, noise, model.config)
        gained = (loud.power - clips.power).sum(1) > 1e-6 * clips.power.sum(1).amax(1, keepdim=True)
        seconds = gained.float().sum(1) * frontend.hop / frontend.sample_rate
        assert seconds.min() >= 0.45 and seconds.max() <= 2 * 1.5 + 0.1
        over = routing.power_when_loud(loud.sums - clips.sums) / routing.power_when_loud(clips.sums)
        assert float(over.min()) > 1 and float(over.max()) < 20
        assert float(over.min()) < 2 and float(over.max()) > 5
