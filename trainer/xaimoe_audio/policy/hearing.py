"""The rules that choose how a model hears: sampling rate, clip, frames, band and spectrogram."""

from __future__ import annotations

from xaimoe_audio.config import DEFAULT_FMIN, SIZES
from xaimoe_audio.policy.facts import Facts
from xaimoe_audio.policy.rule import Made, Rule, always, by_budget
from xaimoe_audio.spectrogram.framing import constant_q

RATES = (
    *(2_000, 4_000, 8_000, 12_000, 16_000, 24_000, 32_000, 48_000),
    *(64_000, 96_000, 128_000, 192_000, 256_000, 384_000),
)
"""Sampling rates the library chooses from, in Hz."""
HEADROOM = 2.05
"""Sampling rate over the highest frequency it holds."""
SHORTEST_S, LONGEST_S, SHORT_CLIP_S = 0.5, 5.0, 2.0
NOISE_SHIFT_DB = 6.0
"""How far the SNR of the validation split may lie under that of the training split: where the noise of the test was
unlike that of the training, digits had 0.858 with PCEN and 0.688 without; with the same noise 0.892 and 0.883."""
STEADY_SNR_DB = 0.0
"""SNR under which a class is taken for steady noise itself, which a gain control would remove: the sonar scenes, with
rain and ambient noise among their classes, fell from 0.928 to 0.869 with PCEN. Steady noise of any spectrum reads -9 to
-3 dB, rain and helicopters of ESC-10 -3.5 and -2.4 dB, ships -4.5 to -1 dB."""
ULTRASOUND = 16_000.0
"""Frequency in Hz from which sounds are those of bats and their like: made-up calls had 0.89 with the STFT and frames
of 16 ms, 0.75 with log-mel, and 0.61 with log-mel and frames of 64 ms."""
WIDE_BAND = 24_000.0
"""Upper edge of the spectrogram in Hz over which it has twice the bands: marine mammals up to 32 kHz had 0.893 with 128
bands and 0.872 with 64 (one network, one seed; see benchmarks/RESULTS.md)."""
LOW_CENTRE, LOWEST_FMIN = 150.0, 20.0
"""Frequency in Hz up to which a dataset's sounds count as low, and the lower edge of the spectrogram for those: calls
at 30…120 Hz had 0.81 with constant Q from there, and 0.23 with log-mel."""
EMPTY_SHARE = 0.5
"""Share of the band above which nothing may be before the spectrogram ends lower."""
NARROW = 20.0
"""Upper over lower edge that the spectrogram has at least."""


def _above(facts: Facts, hz: float) -> str:
    return f"{sum(centre > hz for centre in facts.centres.values())} of {len(facts.centres)} classes"


def _fits(made: Made) -> bool:
    """Whether the lowest band of constant Q fits into the clip."""
    fmin = made["fmin"]
    return bool(fmin > 0 and constant_q(fmin, made["fmax"], made["bins"]) / fmin <= made["clip_s"])


def _rate_for(hz: float) -> int:
    """The lowest rate that holds a frequency."""
    return next((rate for rate in RATES if rate >= HEADROOM * hz), RATES[-1])


def _rate_within(limit: float) -> int:
    """The highest rate up to a limit."""
    return max((rate for rate in RATES if rate <= limit), default=RATES[0])


def _rate_of(facts: Facts) -> int:
    """The rate that holds the band, as far as half of the recordings reach."""
    return min(_rate_for(facts.top), _rate_within(facts.rate * 1.1))


def _usual_top(facts: Facts) -> float:
    """Frequency in Hz over which sounds are not usual any more: the rate follows them wherever they lie."""
    return min(facts.usual_rate / 2, ULTRASOUND)


def resampled(facts: Facts, rate: int) -> str:
    """What becomes of the recordings that have another rate in Hz than the model."""
    slower = facts.share_under(rate)
    faster = 1 - slower - facts.rates.get(rate, 0) / max(sum(facts.rates.values()), 1)
    told = ""
    if slower:
        told += f"; {slower:.0%} of the recordings are slower: the router masks the band they lack"
    if facts.rates and faster:
        told += f"; {faster:.0%} of the recordings are faster and lose what lies above {rate / 2:.0f} Hz"
    return told


HEARING: tuple[Rule, ...] = (
    Rule(
        "sample_rate",
        "band asked for",
        lambda f, m: "fmax" in m,
        lambda f, m: next((rate for rate in RATES if rate >= 2 * m["fmax"]), RATES[-1]),
        lambda f, m: f"holds the upper edge of {m['fmax']:.0f} Hz that was asked for",
        ("fmax", "rates"),
    ),
    Rule(
        "sample_rate",
        "sound above the usual band",
        lambda f, m: f.high_centre > _usual_top(f),
        lambda f, m: _rate_of(f),
        lambda f, m: (
            f"{_above(f, _usual_top(f))} lie mostly above {_usual_top(f):.0f} Hz, so the rate follows the band, "
            f"which ends at {f.top:.0f} Hz, as far as half of the recordings ({f.rate} Hz) reach"
        ),
        ("high_centre", "centres", "top", "rate", "budget"),
    ),
    Rule(
        "sample_rate",
        "mixture of rates",
        lambda f, m: len(f.rates) > 1,
        lambda f, m: min(_rate_of(f), f.usual_rate),
        lambda f, m: (
            f"{len(f.rates)} native rates, of which half of the recordings reach {f.rate} Hz; for classes "
            f"up to {f.highest_centre:.0f} Hz the {f.budget} budget goes to {f.usual_rate} Hz at most"
        ),
        ("rates", "rate", "top", "centres", "budget"),
    ),
    Rule(
        "sample_rate",
        "band of the recordings",
        always,
        lambda f, m: min(_rate_of(f), f.usual_rate),
        lambda f, m: (
            f"the recordings end at {f.top:.0f} Hz and are sampled at {f.rate} Hz; for classes up to "
            f"{f.highest_centre:.0f} Hz the {f.budget} budget goes to {f.usual_rate} Hz at most"
        ),
        ("top", "rate", "centres", "budget"),
    ),
    Rule(
        "clip_s",
        "long recordings",
        lambda f, m: f.duration > 1.1 * LONGEST_S,
        lambda f, m: LONGEST_S,
        lambda f, m: f"recordings typically last {f.duration:.1f} s; longer than 5 s is heard in windows",
        ("duration",),
    ),
    Rule(
        "clip_s",
        "typical duration",
        always,
        lambda f, m: min(max(f.duration, SHORTEST_S), LONGEST_S),
        lambda f, m: f"recordings typically last {f.duration:.2f} s; a clip has at least 0.5 s",
        ("duration",),
    ),
    Rule(
        "frame_s",
        "ultrasound",
        lambda f, m: f.centre > ULTRASOUND,
        lambda f, m: 0.016,
        lambda f, m: f"calls around {f.centre:.0f} Hz > 16 kHz are short: a longer frame would hold many",
        ("centre",),
    ),
    Rule(
        "frame_s",
        "budget",
        always,
        lambda f, m: SIZES[f.budget].frame_s,
        lambda f, m: (
            f"{by_budget(f, m)}, and 256 samples at least; sounds around {f.centre:.0f} Hz need no shorter one"
        ),
        ("budget", "centre"),
    ),
    Rule(
        "hop_s",
        "ultrasound",
        lambda f, m: f.centre > ULTRASOUND,
        lambda f, m: 0.005,
        lambda f, m: f"calls around {f.centre:.0f} Hz > 16 kHz are short: a frame about every 5 ms",
        ("centre",),
    ),
    Rule(
        "hop_s",
        "short clips",
        lambda f, m: m["clip_s"] <= SHORT_CLIP_S,
        lambda f, m: 0.01,
        lambda f, m: f"clips of {m['clip_s']:.2f} s need a frame about every 10 ms to have enough of them",
        ("clip_s",),
    ),
    Rule(
        "hop_s",
        "usual",
        always,
        lambda f, m: 0.02,
        lambda f, m: f"clips of {m['clip_s']:.2f} s are long enough for a frame about every 20 ms",
        ("clip_s",),
    ),
    Rule(
        "fmax",
        "empty above",
        lambda f, m: f.top < EMPTY_SHARE * m["sample_rate"] / 2,
        lambda f, m: round(1.1 * f.top, 1),
        lambda f, m: (
            f"95 % of the recordings end at {f.top:.0f} Hz, far under half the sampling rate of {m['sample_rate']} Hz"
        ),
        ("top", "sample_rate"),
    ),
    Rule(
        "fmax",
        "whole band",
        always,
        lambda f, m: m["sample_rate"] / 2,
        lambda f, m: f"half the sampling rate of {m['sample_rate']} Hz",
        ("sample_rate",),
    ),
    Rule(
        "fmin",
        "narrow band",
        lambda f, m: m["fmax"] < DEFAULT_FMIN * NARROW,
        lambda f, m: m["fmax"] / NARROW,
        lambda f, m: f"a twentieth of the upper edge of {m['fmax']:.0f} Hz leaves room for the bands",
        ("fmax",),
    ),
    Rule(
        "fmin",
        "low sound",
        lambda f, m: f.centre < LOW_CENTRE,
        lambda f, m: LOWEST_FMIN,
        lambda f, m: f"half of what stands out lies under {f.centre:.0f} Hz",
        ("centre",),
    ),
    Rule(
        "fmin",
        "usual",
        always,
        lambda f, m: DEFAULT_FMIN,
        lambda f, m: (
            f"sounds lie around {f.centre:.0f} Hz; what is under 50 Hz is mostly the noise of traffic, wind "
            "and handling"
        ),
        ("centre",),
    ),
    Rule(
        "bins",
        "wide band",
        lambda f, m: f.budget == "accuracy" and f.centre <= ULTRASOUND and m["fmax"] > WIDE_BAND,
        lambda f, m: 2 * SIZES[f.budget].bins,
        lambda f, m: f"{SIZES[f.budget].bins} bands up to {m['fmax']:.0f} Hz > 24 kHz are too wide for single lines",
        ("budget", "fmax", "centre"),
    ),
    Rule("bins", "budget", always, lambda f, m: SIZES[f.budget].bins, by_budget, ("budget",)),
    Rule(
        "spectrogram",
        "low sound",
        lambda f, m: f.centre < LOW_CENTRE and _fits(m),
        lambda f, m: "cqt",
        lambda f, m: (
            f"half of what stands out lies under {f.centre:.0f} Hz < 150 Hz, where only bands of constant Q are narrow "
            "enough to tell one tone from another"
        ),
        ("centre", "fmin", "fmax", "bins", "clip_s"),
    ),
    Rule(
        "spectrogram",
        "ultrasound",
        lambda f, m: f.centre > ULTRASOUND,
        lambda f, m: "stft",
        lambda f, m: f"sounds around {f.centre:.0f} Hz > 16 kHz, where mel bands grow wide",
        ("centre",),
    ),
    Rule(
        "spectrogram",
        "noisier validation",
        lambda f, m: f.val_snr < f.snr - NOISE_SHIFT_DB and f.steadiest_snr >= STEADY_SNR_DB,
        lambda f, m: "logmel+pcen",
        lambda f, m: (
            f"SNR {f.val_snr:.1f} dB in validation, {f.snr:.1f} dB in training: a gain control in each band takes "
            "steady noise away, known or not; no class is itself so steady that it would vanish (lowest SNR of a "
            f"class {f.steadiest_snr:.1f} dB >= {STEADY_SNR_DB:g} dB)"
        ),
        ("val_snr", "snr", "steadiest_snr"),
    ),
    Rule(
        "spectrogram",
        "usual",
        always,
        lambda f, m: "logmel",
        lambda f, m: (
            f"sounds around {f.centre:.0f} Hz, SNR {f.snr:.1f} dB in training and {f.val_snr:.1f} dB in validation: "
            "the cheapest backend, and not found worse for such"
        ),
        ("centre", "snr", "val_snr"),
    ),
)
