"""The policy: from what is known of a dataset to a model, with a reason for each choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from xaimoe_audio.config import DEFAULT_EXPERTS, FINE_EXPERTS, HIGHBAND_EXPERTS, SIZES, Budget, Overrides
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.policy import Choice, Facts, Policy, decide, describe
from xaimoe_audio.policy.build import build
from xaimoe_audio.policy.rule import Rule
from xaimoe_audio.policy.rules import RULES
from xaimoe_audio.spectrogram import BACKENDS


def chosen(name: str, budget: Budget = "accuracy", overrides: dict[str, Any] | None = None, **facts: Any) -> Choice:
    policy = decide(Facts(budget=budget, **facts), Overrides(**(overrides or {})))
    return next(choice for choice in policy.choices if choice.choice == name)


@dataclass(frozen=True)
class Case:
    choice: str
    facts: dict[str, Any]
    value: Any
    rule: str


MIXTURE = {8_000: 20, 16_000: 30, 48_000: 50}
CASES = [
    Case("sample_rate", {"rate": 16_000, "top": 8_000.0}, 16_000, "band of the recordings"),
    Case("sample_rate", {"rate": 44_100, "top": 22_050.0}, 16_000, "band of the recordings"),
    Case("sample_rate", {"rate": 44_100, "top": 22_050.0, "centre": 4_000.0}, 32_000, "band of the recordings"),
    Case(
        "sample_rate",
        {"rate": 44_100, "top": 22_050.0, "centres": {"dog": 1_000.0, "rain": 7_900.0}},
        32_000,
        "band of the recordings",
    ),
    Case("sample_rate", {"rate": 44_100, "top": 3_500.0}, 8_000, "band of the recordings"),
    Case("sample_rate", {"rate": 8_000, "top": 4_000.0}, 8_000, "band of the recordings"),
    Case("sample_rate", {"rate": 11_025, "top": 5_512.0}, 12_000, "band of the recordings"),
    Case("sample_rate", {"rate": 16_000, "rates": MIXTURE, "top": 24_000.0}, 16_000, "mixture of rates"),
    Case("sample_rate", {"rate": 80_000, "rates": MIXTURE, "top": 80_000.0, "centre": 6e3}, 32_000, "mixture of rates"),
    Case(
        "sample_rate",
        {"rate": 80_000, "rates": MIXTURE, "top": 80_000.0, "centres": {"seal": 2e3, "dolphin": 12.6e3}},
        64_000,
        "mixture of rates",
    ),
    Case("sample_rate", {"rate": 48_000, "top": 24_000.0, "centre": 12.6e3}, 48_000, "band of the recordings"),
    Case(
        "sample_rate",
        {"rate": 256_000, "top": 120_000.0, "high_centre": 20_000.0, "centres": {"bat": 20_000.0}},
        256_000,
        "sound above the usual band",
    ),
    Case(
        "sample_rate",
        {"rate": 256_000, "top": 120_000.0, "high_centre": 45_000.0},
        256_000,
        "sound above the usual band",
    ),
    Case("fmax", {"rate": 2_000, "top": 50.0}, 55.0, "empty above"),
    Case("fmin", {"rate": 2_000, "top": 50.0}, 2.75, "narrow band"),
    Case("clip_s", {"duration": 0.05}, 0.5, "typical duration"),
    Case("clip_s", {"duration": 3.0}, 3.0, "typical duration"),
    Case("clip_s", {"duration": 600.0}, 5.0, "long recordings"),
    Case("frame_s", {"centre": 45_000.0}, 0.016, "ultrasound"),
    Case("frame_s", {}, SIZES["accuracy"].frame_s, "budget"),
    Case("frame_s", {"budget": "latency"}, SIZES["latency"].frame_s, "budget"),
    Case("hop_s", {"centre": 45_000.0}, 0.005, "ultrasound"),
    Case("hop_s", {"duration": 1.0}, 0.01, "short clips"),
    Case("hop_s", {"duration": 4.0}, 0.02, "usual"),
    Case(
        "bins",
        {"rate": 80_000, "rates": MIXTURE, "top": 80_000.0, "centres": {"seal": 2e3, "dolphin": 12.6e3}},
        2 * SIZES["accuracy"].bins,
        "wide band",
    ),
    Case("bins", {"rate": 44_100, "top": 22_050.0}, SIZES["accuracy"].bins, "budget"),
    Case("spectrogram", {"centre": 60.0}, "cqt", "low sound"),
    Case("spectrogram", {"centre": 45_000.0}, "stft", "ultrasound"),
    Case("spectrogram", {"snr": 20.0, "val_snr": 8.0}, "logmel+pcen", "noisier validation"),
    Case("spectrogram", {"snr": 20.0, "val_snr": 8.0, "steadiest_snr": -3.0}, "logmel", "usual"),
    Case("spectrogram", {"snr": 20.0, "val_snr": 16.0}, "logmel", "usual"),
    Case("fmin", {"centre": 80.0}, 20.0, "low sound"),
    Case("fmin", {"centre": 400.0}, 50.0, "usual"),
    Case("HighbandGeneral", {"rate": 4_000, "top": 2_000.0, "highest": 2_000.0}, False, "no high band"),
    Case("HighbandGeneral", {}, True, "usable"),
    Case("NoiseRobust_HighFreq", {"rate": 4_000, "top": 2_000.0, "highest": 2_000.0}, False, "no high band"),
    Case("NoiseRobust_HighFreq", {}, True, "usable"),
    Case("HarmonicExpert", {"best_quality": 0.02}, False, "never clean"),
    Case("FineFreqExpert", {"best_quality": 0.02}, False, "never clean"),
    Case("FineFreqExpert", {"best_quality": 0.5}, True, "usable"),
    Case("expert_width", {"recordings": 12, "classes": 2}, SIZES["latency"].expert_width, "few recordings"),
    Case("expert_width", {"recordings": 500, "classes": 2}, SIZES["accuracy"].expert_width, "budget"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.choice}: {case.rule} {case.value}")
def test_the_rule_that_fires(case: Case) -> None:
    choice = chosen(case.choice, **case.facts)
    assert (choice.value, choice.rule) == (case.value, case.rule)


def test_every_rule_is_shown_to_fire() -> None:
    shown = {(case.choice, case.rule) for case in CASES}
    shown |= {("sample_rate", "band asked for"), ("fmax", "whole band")}  # below
    general = {"experts", "k_max", "tile", "stride", "pair_share", "focus", "unsure", *DEFAULT_EXPERTS}
    general |= {"learning_rate", "saliency_teacher"}
    missing = {(rule.choice, rule.name) for rule in RULES} - shown
    assert not {found for found in missing if found[0] not in general}


def test_the_reason_names_what_the_rule_looked_at() -> None:
    choice = chosen("spectrogram", snr=20.0, val_snr=4.0)
    assert choice.because.startswith("SNR 4.0 dB in validation, 20.0 dB in training")
    assert choice.inputs == {"snr": 20.0, "val_snr": 4.0, "steadiest_snr": 20.0}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.choice}: {rule.name}")
def test_every_reason_can_be_given_and_names_its_inputs(rule: Rule) -> None:
    facts = Facts(budget="accuracy")
    made = decide(facts, Overrides(fmax=6_000.0)).made
    assert rule.because(facts, made).strip()
    assert set(rule.inputs) <= {*Facts.__struct_fields__, *made}


def test_a_mixture_says_what_becomes_of_the_recordings_of_other_rates() -> None:
    because = chosen("sample_rate", rate=16_000, rates=MIXTURE, top=24_000.0).because
    assert "20% of the recordings are slower: the router masks the band they lack" in because
    assert "50% of the recordings are faster and lose what lies above 8000 Hz" in because


@pytest.mark.parametrize(("overrides", "auto_config"), [({"sample_rate": 48_000}, True), ({}, False)])
def test_what_becomes_of_other_rates_is_told_whoever_chose(overrides: dict[str, Any], auto_config: bool) -> None:
    policy = decide(Facts(budget="accuracy", rates=MIXTURE), Overrides(**overrides), auto_config)
    because = next(choice.because for choice in policy.choices if choice.choice == "sample_rate")
    assert "of the recordings are slower" in because


def test_classes_outside_the_band_are_named_with_the_remedy() -> None:
    facts = Facts(
        budget="latency",
        rate=96_000,
        top=48_000.0,
        centres={"whale": 200.0, "porpoise": 40_000.0},
        uppers={"whale": 300.0, "porpoise": 42_000.0},
    )
    assert decide(facts, Overrides()).warnings == (
        "a quarter or more of what stands out of porpoise (up to 42000 Hz) lies above the spectrogram's upper edge of "
        "8000 Hz; choose a higher sample_rate to keep it",
    )
    (above, under) = decide(facts, Overrides(sample_rate=96_000, fmin=1_000.0, fmax=20_000.0)).warnings
    assert "choose a higher fmax" in above
    assert under.startswith("half or more of what stands out of whale (around 200 Hz) lies under")
    assert above in describe(decide(facts, Overrides(sample_rate=96_000, fmin=1_000.0, fmax=20_000.0)))
    assert not decide(facts, Overrides(sample_rate=96_000)).warnings


@pytest.mark.parametrize("budget", ["accuracy", "latency"])
def test_the_budget_sets_the_sizes(budget: Budget) -> None:
    for name in ("bins", "k_max"):
        assert chosen(name, budget, recordings=9_999).value == getattr(SIZES[budget], name)
    high: dict[str, Any] = {"rate": 48_000, "top": 24_000.0, "centre": 4_000.0}
    assert chosen("sample_rate", budget, **high).value == {"accuracy": 32_000, "latency": 16_000}[budget]


def test_families_that_nothing_can_use_are_left_out_and_the_rest_is_built() -> None:
    facts = Facts(budget="accuracy", rate=4_000, top=2_000.0, highest=2_000.0, best_quality=0.01)
    policy = decide(facts, Overrides())
    left_out = HIGHBAND_EXPERTS | FINE_EXPERTS
    assert policy.made["experts"] == tuple(family for family in DEFAULT_EXPERTS if family not in left_out)
    assert policy.made["k_max"] == SIZES["accuracy"].k_max
    config = build(policy.made, "single_label", ("a", "b"), FAMILIES, BACKENDS)
    assert config.experts == policy.made["experts"]


# Overrides and defaults ----------------------------------------------------------------------------------------------

WANTED: dict[str, Any] = {
    "sample_rate": 24_000,
    "fmin": 200.0,
    "fmax": 7_000.0,
    "spectrogram": "cqt",
    "experts": ("TransientExpert", "HarmonicExpert"),
    "k_max": 1,
    "tile": (32, 32),
    "stride": (32, 16),
    "clip_s": 2.5,
}


@pytest.mark.parametrize("auto_config", [True, False])
@pytest.mark.parametrize("name", WANTED)
def test_an_override_is_taken_and_recorded(name: str, auto_config: bool) -> None:
    policy = decide(Facts(budget="accuracy"), Overrides(**{name: WANTED[name]}), auto_config)
    choice = next(choice for choice in policy.choices if choice.choice == name)
    assert (choice.value, choice.rule) == (WANTED[name], "override")


def test_later_choices_follow_an_override() -> None:
    policy = decide(Facts(budget="accuracy"), Overrides(sample_rate=8_000, clip_s=1.0))
    assert (policy.made["fmax"], policy.made["hop_s"]) == (4_000.0, 0.01)


@pytest.mark.parametrize(("fmax", "rate"), [(12_000.0, 24_000), (8_000.0, 16_000), (900.0, 2_000)])
def test_the_rate_follows_an_upper_edge_that_was_asked_for(fmax: float, rate: int) -> None:
    choice = chosen("sample_rate", overrides={"fmax": fmax})
    assert (choice.value, choice.rule) == (rate, "band asked for")


def test_k_max_gives_way_to_the_families_that_the_data_can_use() -> None:
    facts = Facts(budget="accuracy", best_quality=0.01)
    policy = decide(facts, Overrides(k_max=7))
    choice = next(choice for choice in policy.choices if choice.choice == "k_max")
    assert (choice.value, choice.rule) == (6, "override")
    assert choice.because == "chosen by the user: 7; no more than the experts that were kept"
    assert build(policy.made, "single_label", ("a", "b"), FAMILIES, BACKENDS).router.k_max == 6


def test_no_constant_ratio_from_0_hz() -> None:
    assert chosen("spectrogram", overrides={"fmin": 0.0}, centre=60.0).value == "logmel"


def test_no_band_of_constant_q_that_is_longer_than_the_clip() -> None:
    assert chosen("spectrogram", centre=60.0, duration=0.3).value == "logmel"
    assert chosen("spectrogram", centre=60.0, duration=2.0).value == "cqt"


def test_without_the_policy_the_facts_do_not_matter() -> None:
    odd = Facts(budget="accuracy", rate=192_000, top=96_000.0, centre=60_000.0, snr=1.0, duration=0.1)
    policy, plain = (decide(facts, Overrides(), auto_config=False) for facts in (odd, Facts(budget="accuracy")))
    assert policy.made == plain.made
    assert {choice.rule for choice in policy.choices} == {"default"}
    assert (policy.made["sample_rate"], policy.made["clip_s"], policy.made["spectrogram"]) == (16_000, 5.0, "logmel")


def test_a_policy_survives_the_way_through_json() -> None:
    policy = decide(Facts(budget="latency", val_snr=3.0), Overrides(k_max=1))
    read = msgspec.json.decode(msgspec.json.encode(policy), type=Policy)
    assert read.facts == policy.facts
    assert [choice.rule for choice in read.choices] == [choice.rule for choice in policy.choices]


def test_the_table_for_people_has_every_choice_with_its_reason() -> None:
    policy = decide(Facts(budget="latency", val_snr=3.0), Overrides(k_max=1))
    lines = describe(policy).splitlines()
    assert len(lines) == len(policy.choices)
    assert any(line.startswith("spectrogram") and "logmel+pcen" in line and "SNR 3.0 dB" in line for line in lines)
    assert any(line.startswith("k_max") and "chosen by the user" in line for line in lines)
