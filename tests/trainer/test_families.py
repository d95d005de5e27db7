"""Each family is given the sounds it is made for, by a router over the whole bank that was trained on all kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from data.kinds import KINDS, as_samples, busy_scene, noise_alone, one_tone, write_kinds

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.training.assess import answer

CLIPS_PER_CLASS, EPOCHS = 15, 25
ENOUGH = 0.6
"""Share of the gates; by chance, a family and its sibling would have 0.25."""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds"), CLIPS_PER_CLASS)


@pytest.fixture(scope="module")
def trained(kinds: Path, tmp_path_factory: pytest.TempPathFactory) -> MoEAudioClassifier:
    classifier = MoEAudioClassifier(device="cpu", k_max=4, expert_width=8, seed=0)
    return classifier.fit(kinds, epochs=EPOCHS, batch_size=16, out_dir=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def gate_shares(kinds: Path, trained: MoEAudioClassifier) -> dict[str, dict[str, float]]:
    """Of the recordings that were not trained on: each expert's share of the gates, by the family they are made for."""
    engine = trained.engine
    dataset = load_dataset(kinds, kinds / "metadata.csv", "single_label", engine.audio.sample_rate)
    items = dataset.split("val") + dataset.split("test")
    router = engine.model.router
    before = router.config
    router.config = msgspec.structs.replace(before, unsure=None)  # else clips that the glance is sure of have no gates
    answers = answer(engine, items, "routed")
    router.config = before
    gates = answers.outputs.gates.sum(axis=1)
    made_for = np.array([items[owner].row.labels[0].split()[0] for owner in answers.owners])
    shares = {family: gates[made_for == family].sum(axis=0) for family in KINDS}
    return {
        family: dict(zip(engine.experts, (share / share.sum()).tolist(), strict=True))
        for family, share in shares.items()
    }


@pytest.mark.parametrize("family", KINDS)
def test_a_family_or_its_sibling_is_given_its_sounds(gate_shares: dict[str, dict[str, float]], family: str) -> None:
    share = gate_shares[family]
    assert share[family] + share[FAMILIES[family].sibling] >= ENOUGH


def test_no_family_is_left_without_work(gate_shares: dict[str, dict[str, float]]) -> None:
    for family in FAMILIES:
        assert max(share[family] for share in gate_shares.values()) > 0.1


def test_the_more_there_is_to_hear_the_more_experts_listen(trained: MoEAudioClassifier) -> None:
    def mean_experts(make: Callable[[int], np.ndarray]) -> float:
        clips = [trained.predict(as_samples(make(seed))).trace.gates[0] for seed in range(24)]
        return float(np.mean([(gates > 0).any(axis=0).sum() for gates in clips]))

    noise, tone, busy = (mean_experts(make) for make in (noise_alone, one_tone, busy_scene))
    assert noise < tone < busy
