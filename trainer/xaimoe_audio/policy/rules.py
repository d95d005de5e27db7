"""The rules that choose a model for a dataset, all in one table.

Choices are made from top to bottom, and a rule may look at those made before. Of a choice's rules the first that
applies fires; the last one always does. To add a rule, write it where it should take precedence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xaimoe_audio.config import DEFAULT_EXPERTS, DEFAULT_FMIN, SIZES
from xaimoe_audio.policy.facts import Facts

Made = dict[str, Any]
"""The choices made so far, by name."""

RATES = (2_000, 4_000, 8_000, 16_000, 24_000, 32_000, 48_000, 64_000, 96_000, 128_000, 192_000, 256_000, 384_000)
"""Sampling rates the library chooses from, in Hz."""
HEADROOM = 2.05
"""Sampling rate over the highest frequency it holds."""
MIN_CLIP_S, MAX_CLIP_S, SHORT_CLIP_S = 0.5, 5.0, 2.0
LOW_SNR_DB = 10.0
STEADY_SNR_DB = 3.0
"""SNR under which a class is taken for steady noise itself, which a gain control would remove: the sonar scenes, with
rain and ambient noise among their classes, fell from 0.928 to 0.869 with PCEN."""
CLICKS = 1.0
"""Transient rate from which a typical recording is made of clicks: a kurtosis 10 times a Gaussian's."""
BROADBAND = 0.1
"""Flatness from which a sound is broad in frequency."""
LOW_CENTRE = 150.0
"""Frequency in Hz up to which a dataset's sounds count as low."""
HIGHBAND_HZ = 2_000.0
"""The router keeps the highband experts from clips that end lower."""
FINE_QUALITY = 0.05
"""The router keeps the experts of fine resolution from clips under this quality."""
TILE_FRAMES = 32
FEW_RECORDINGS = 10
"""Training recordings a class under which the smaller networks are taken."""


@dataclass(frozen=True)
class Rule:
    """When it applies, what it chooses, and why."""

    choice: str
    name: str
    applies: Callable[[Facts, Made], bool]
    value: Callable[[Facts, Made], Any]
    because: str
    """Reason for a person; may name facts and earlier choices in braces."""
    inputs: tuple[str, ...]
    """The facts and earlier choices it looked at."""


def _always(facts: Facts, made: Made) -> bool:
    return True


def _rate_for(hz: float) -> int:
    """The lowest rate that holds a frequency."""
    return next((rate for rate in RATES if rate >= HEADROOM * hz), RATES[-1])


def _rate_within(limit: float) -> int:
    """The highest rate up to a limit."""
    return max((rate for rate in RATES if rate <= limit), default=RATES[0])


RULES: tuple[Rule, ...] = (
    Rule(
        "sample_rate",
        "sound above the usual band",
        lambda f, m: f.centre > f.usual_rate / 2,
        lambda f, m: min(_rate_for(f.top), _rate_within(f.rate * 1.1)),
        "half of a typical class's power lies above {centre:.0f} Hz, so the rate follows the band, which ends at "
        "{top:.0f} Hz, as far as half of the recordings ({rate} Hz) reach",
        ("centre", "top", "rate"),
    ),
    Rule(
        "sample_rate",
        "mixture of rates",
        lambda f, m: f.rates > 1,
        lambda f, m: min(_rate_for(f.top), _rate_within(f.rate * 1.1), f.usual_rate),
        "{rates} native rates: half of the recordings reach {rate} Hz, so that few are stretched into an empty band; "
        "slower ones are resampled and their missing band is masked, faster ones lose what lies above; for "
        "sounds around {centre:.0f} Hz the {budget} budget goes to {usual_rate} Hz at most",
        ("rates", "rate", "top", "centre", "budget"),
    ),
    Rule(
        "sample_rate",
        "band of the recordings",
        _always,
        lambda f, m: min(_rate_for(f.top), max(_rate_within(f.rate * 1.1), RATES[0]), f.usual_rate),
        "the recordings end at {top:.0f} Hz and are sampled at {rate} Hz; for sounds around {centre:.0f} Hz the "
        "{budget} budget goes to {usual_rate} Hz at most",
        ("top", "rate", "centre", "budget"),
    ),
    Rule(
        "clip_s",
        "long recordings",
        lambda f, m: f.duration > 1.1 * MAX_CLIP_S,
        lambda f, m: MAX_CLIP_S,
        "recordings typically last {duration:.1f} s; longer than 5 s is heard in windows",
        ("duration",),
    ),
    Rule(
        "clip_s",
        "typical duration",
        _always,
        lambda f, m: min(max(f.duration, MIN_CLIP_S), MAX_CLIP_S),
        "recordings typically last {duration:.2f} s; a clip has at least 0.5 s",
        ("duration",),
    ),
    Rule(
        "hop_s",
        "short clips",
        lambda f, m: m["clip_s"] <= SHORT_CLIP_S,
        lambda f, m: 0.01,
        "clips of {clip_s:.2f} s need a frame every 10 ms to have enough of them",
        ("clip_s",),
    ),
    Rule("hop_s", "usual", _always, lambda f, m: 0.02, "clips are long enough for a frame every 20 ms", ("clip_s",)),
    Rule(
        "spectrogram",
        "weak under noise",
        lambda f, m: f.snr < LOW_SNR_DB and f.steadiest_snr >= STEADY_SNR_DB,
        lambda f, m: "logmel+pcen",
        "SNR {snr:.1f} dB < 10 dB: each band gets its own gain control against steady noise; no class is itself so "
        "steady that it would vanish (lowest SNR of a class {steadiest_snr:.1f} dB >= 3 dB)",
        ("snr", "steadiest_snr"),
    ),
    Rule(
        "spectrogram",
        "broadband clicks",
        lambda f, m: f.budget == "accuracy" and f.transients >= CLICKS and f.flatness >= BROADBAND,
        lambda f, m: "fcwt",
        "transient rate {transients:.2f} >= 1 and flatness {flatness:.2f} >= 0.1: wavelets keep the onsets of clicks",
        ("transients", "flatness", "budget"),
    ),
    Rule(
        "spectrogram",
        "usual",
        _always,
        lambda f, m: "logmel",
        "SNR {snr:.1f} dB, transient rate {transients:.2f}, flatness {flatness:.2f}: the cheapest backend that streams",
        ("snr", "transients", "flatness", "budget"),
    ),
    Rule(
        "fmin",
        "low sound",
        lambda f, m: f.centre < LOW_CENTRE,
        lambda f, m: min(max(round(f.bottom), 20.0), DEFAULT_FMIN),
        "half of a typical class's power lies under {centre:.0f} Hz, and a class has sound from {bottom:.0f} Hz",
        ("centre", "bottom"),
    ),
    Rule(
        "fmin",
        "usual",
        _always,
        lambda f, m: DEFAULT_FMIN,
        "sounds lie around {centre:.0f} Hz; what is under 50 Hz is mostly the noise of traffic, wind and handling",
        ("centre",),
    ),
    Rule(
        "fmax",
        "whole band",
        _always,
        lambda f, m: m["sample_rate"] / 2,
        "half the sampling rate of {sample_rate} Hz",
        ("sample_rate",),
    ),
    Rule("bins", "budget", _always, lambda f, m: SIZES[f.budget].bins, "the {budget} budget", ("budget",)),
    Rule(
        "HighbandGeneral",
        "no high band",
        lambda f, m: min(f.highest, m["sample_rate"] / 2) <= HIGHBAND_HZ,
        lambda f, m: False,
        "no recording reaches beyond {highest:.0f} Hz, and the router keeps this family from clips that end at 2 kHz",
        ("highest", "sample_rate"),
    ),
    Rule(
        "HarmonicExpert",
        "never clean",
        lambda f, m: f.best_quality <= FINE_QUALITY,
        lambda f, m: False,
        "the best recording has a quality of {best_quality:.2f}; the router keeps this family from clips under 0.05",
        ("best_quality",),
    ),
    *(
        Rule(family, "usable", _always, lambda f, m: True, "some recording can use it", ())
        for family in DEFAULT_EXPERTS
    ),
    Rule(
        "k_max",
        "budget",
        _always,
        lambda f, m: min(SIZES[f.budget].k_max, len(m["experts"])),
        "the {budget} budget; never more than there are experts",
        ("budget", "experts"),
    ),
    Rule(
        "tile",
        "whole height",
        _always,
        lambda f, m: (m["bins"], TILE_FRAMES),
        "a tile as high as the spectrogram sees lines and their harmonics together",
        ("bins",),
    ),
    Rule(
        "stride",
        "no overlap",
        _always,
        lambda f, m: m["tile"],
        "the stem's map gives tiles their context, so none needs to overlap",
        ("tile",),
    ),
    Rule(
        "width",
        "few recordings",
        lambda f, m: f.recordings < FEW_RECORDINGS * f.classes,
        lambda f, m: "latency",
        "{recordings} recordings of {classes} classes cannot feed the larger networks",
        ("recordings", "classes"),
    ),
    Rule("width", "budget", _always, lambda f, m: f.budget, "the {budget} budget", ("budget",)),
)
