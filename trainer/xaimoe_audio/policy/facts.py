"""What the rules may ask of a dataset: a few numbers out of its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from xaimoe_audio.config import Budget
from xaimoe_audio.profiling.bands import BAND_CENTRES, BAND_EDGES

if TYPE_CHECKING:
    from xaimoe_audio.profiling import DatasetProfile

USUAL_RATE, HIGH_RATE = 16_000, 32_000
"""Sampling rates in Hz that are paid for: for any model, and for one for high sounds under the accuracy budget."""
HIGH_CENTRE = 3_000.0
"""Frequency in Hz from which a dataset's sounds count as high. At 32 kHz instead of 16 the marine mammals, centred at
4 kHz, gained; ESC-10, centred at 1.3 kHz, gained nothing, and the sonar scenes, centred at 2.5 kHz, lost."""
CONTENT_DB = 40.0
"""Bands this far under the strongest one of a class carry none of it."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The training split in numbers, and what is asked of the model. The defaults stand for a dataset not yet seen."""

    budget: Budget
    recordings: int = 1000
    """In the training split."""
    classes: int = 2
    duration: float = 5.0
    """Median, in s."""
    rate: int = 16_000
    """Native rate in Hz that half of the recordings reach."""
    rates: int = 1
    """Number of different native rates."""
    top: float = 8_000.0
    """Frequency in Hz under which 95 % of the recordings end."""
    bottom: float = 50.0
    """Lower edge in Hz of the lowest third octave that carries anything of a class."""
    centre: float = 1_000.0
    """Frequency in Hz that halves the power of the median class."""
    snr: float = 20.0
    """Median, in dB."""
    steadiest_snr: float = 20.0
    """Lowest median of a class, in dB: the SNR takes what is steady for noise, so a steady class reads low."""
    flatness: float = 0.1
    """Median, 0…1."""
    transients: float = 0.0
    """Median transient rate, log10 of the kurtosis over a Gaussian's."""
    best_quality: float = 1.0
    """Highest quality of any recording."""
    highest: float = 8_000.0
    """Highest effective frequency in Hz of any recording."""

    @property
    def usual_rate(self) -> int:
        """Highest sampling rate in Hz that is paid for, unless most of the sound lies above its band."""
        return HIGH_RATE if self.budget == "accuracy" and self.centre >= HIGH_CENTRE else USUAL_RATE

    @classmethod
    def of(cls, profile: DatasetProfile, budget: Budget) -> Self:
        """The facts of a profiled dataset."""
        part = profile.by_split.get("train", profile.overall)
        spread = part.spread
        rates = sorted((int(rate), count) for rate, count in part.sample_rates.items())
        reached, half = 0, rates[0][0]
        for rate, count in reversed(rates):
            reached += count
            half = rate
            if 2 * reached >= part.files:
                break
        bottom, centre = _content(list(profile.third_octaves.values()))
        return cls(
            budget=budget,
            recordings=part.files,
            classes=len(profile.classes),
            duration=spread["duration_s"].q50,
            rate=half,
            rates=len(rates),
            top=spread["fmax_eff"].q95,
            bottom=bottom,
            centre=centre,
            snr=spread["snr"].q50,
            steadiest_snr=min(of_class.spread["snr"].q50 for of_class in profile.by_class.values()),
            flatness=spread["flatness"].q50,
            transients=spread["transient_rate"].q50,
            best_quality=spread["quality"].max,
            highest=spread["fmax_eff"].max,
        )


def _content(classes: list[list[float | None]]) -> tuple[float, float]:
    """Lower edge of what any class has, and the median over classes of the frequency that halves a class's power."""
    bottoms, centres = [float(BAND_EDGES[-1])], []
    for bands in classes:
        known = [(i, level) for i, level in enumerate(bands) if level is not None]
        if not known:
            continue
        strongest = max(level for _, level in known)
        bottoms.append(float(BAND_EDGES[next(i for i, level in known if level >= strongest - CONTENT_DB)]))
        power = [10 ** (level / 10) for _, level in known]
        half, total = sum(power) / 2, 0.0
        for (i, _), part in zip(known, power, strict=True):
            total += part
            if total >= half:
                centres.append(float(BAND_CENTRES[i]))
                break
    centres.sort()
    return min(bottoms), centres[len(centres) // 2] if centres else 1_000.0
