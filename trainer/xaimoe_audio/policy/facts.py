"""What the rules may ask of a dataset: a few numbers out of its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np

from xaimoe_audio.config import Budget
from xaimoe_audio.profiling.bands import BAND_CENTRES

if TYPE_CHECKING:
    from xaimoe_audio.profiling.profile import DatasetProfile, Sound

USUAL_RATE = 16_000
"""Sampling rate in Hz that is paid for, whatever the sounds and the budget."""
HIGHER_RATES = ((3_000.0, 32_000), (12_000.0, 64_000))
"""Frequencies in Hz around which the highest class lies, and from which more is paid for under the accuracy budget, in
rising order. A single network went from 0.888 to 0.913 and from 0.938 to 0.963 on two folds of ESC-10 at 32 kHz instead
of 16, where fire lies around 3 kHz and rain around 8 kHz, and from 0.802 to 0.855 on marine_watkins at 64 kHz instead
of 32, where common dolphins lie around 13 kHz."""
STEADY_DB, FULL_DB = 0.5, 10.0
"""Contrast in dB under which a band does not stand out, and from which it stands out as far as it can."""
UNKNOWN_CENTRE = 1_000.0
"""Frequency in Hz that stands for the sounds of a dataset in which nothing is heard."""
HIGH_SHARE = 0.25
"""Share of the classes whose sound must lie above the usual band before a higher rate is paid for."""


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
    rates: dict[int, int] = {}
    """Recordings by native rate in Hz."""
    top: float = 8_000.0
    """Frequency in Hz under which 95 % of the recordings end."""
    centre: float = UNKNOWN_CENTRE
    """Frequency in Hz that halves what stands out of the median class, the lower of two."""
    high_centre: float = UNKNOWN_CENTRE
    """The same of the class that only a quarter of the classes lie above."""
    centres: dict[str, float] = {}
    """The same of each class of which anything is heard."""
    uppers: dict[str, float] = {}
    """Frequency in Hz over which a quarter of what stands out of each class lies."""
    snr: float = 20.0
    """Median, in dB."""
    val_snr: float = 20.0
    """The same of the validation split."""
    steadiest_snr: float = 20.0
    """Lowest median of a class, in dB: the SNR takes what is steady for noise, so a steady class reads low."""
    best_quality: float = 1.0
    """Highest quality of any recording."""
    highest: float = 8_000.0
    """Highest effective frequency in Hz of any recording."""

    @property
    def usual_rate(self) -> int:
        """Highest sampling rate in Hz that is paid for, unless most of the sound lies above its band."""
        higher = HIGHER_RATES if self.budget == "accuracy" else ()
        return max((rate for centre, rate in higher if self.highest_centre >= centre), default=USUAL_RATE)

    @property
    def highest_centre(self) -> float:
        """Frequency in Hz around which the highest of the classes lies."""
        return max(self.centres.values(), default=self.centre)

    def share_under(self, rate: int) -> float:
        """Share of the recordings that were made at less than ``rate`` Hz."""
        return sum(n for native, n in self.rates.items() if native < rate) / max(sum(self.rates.values()), 1)

    @classmethod
    def of(cls, profile: DatasetProfile, budget: Budget) -> Self:
        """The facts of a profiled dataset."""
        part = profile.by_split.get("train", profile.overall)
        spread = part.spread
        rates = {int(rate): count for rate, count in part.sample_rates.items()}
        half = max(rate for rate in rates if sum(n for native, n in rates.items() if native >= rate) * 2 >= part.files)
        centres = {name: _under(sound, 0.5) for name, sound in profile.sounds.items()}
        rising = sorted(centres.values()) or [UNKNOWN_CENTRE]
        return cls(
            budget=budget,
            recordings=part.files,
            classes=len(profile.classes),
            duration=spread["duration_s"].q50,
            rate=half,
            rates=rates,
            top=spread["fmax_eff"].q95,
            centre=rising[(len(rising) - 1) // 2],
            high_centre=rising[int(len(rising) * (1 - HIGH_SHARE))],
            centres=centres,
            uppers={name: _under(sound, 0.75) for name, sound in profile.sounds.items()},
            snr=spread["snr"].q50,
            val_snr=profile.by_split.get("val", part).spread["snr"].q50,
            steadiest_snr=min((sound.snr for sound in profile.sounds.values()), default=spread["snr"].q50),
            best_quality=spread["quality"].max,
            highest=spread["fmax_eff"].max,
        )


def _under(sound: Sound, share: float) -> float:
    """Frequency in Hz under which a share of what stands out of a class in time lies; of a steady class, of its power.

    Hum and the noise of a recorder thus do not count, however strong.
    """
    weight = np.nan_to_num(np.array(sound.contrast, dtype=float))
    if weight.max() < STEADY_DB:
        levels = np.array(sound.third_octaves, dtype=float)
        weight = np.nan_to_num(10 ** (levels / 10))
    below = np.cumsum(np.minimum(weight, FULL_DB))
    return float(BAND_CENTRES[np.searchsorted(below, below[-1] * share)])
