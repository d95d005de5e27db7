"""The numbers of the training recipe, all in one place and recorded with every run."""

from __future__ import annotations

import msgspec


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained."""

    learning_rate: float = 4e-3
    """Peak of the cosine schedule, for AdamW."""
    warmup_share: float = 0.04
    """Share of all steps in which the learning rate rises."""
    weight_decay: float = 0.03
    clip_gradient: float = 5.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.1
    level_jitter: float = 0.4
    """Spectrograms are raised or lowered by up to this, in their standard deviations (about 6 dB): the mean power that
    they are normalised by depends on how much of a clip is sound."""
    stretch: float = 0.15
    """Spectrograms are stretched or squeezed in time and in frequency, each by up to this as a logarithm: another
    speaker, size or speed."""
    time_shift: float = 0.15
    """Clips are turned around in time by up to this share of their length, either way."""
    frequency_shift: float = 0.05
    """Spectrograms are moved up or down by up to this share of their height: another vessel, animal or voice."""
    masks: int = 1
    """Bands, and stretches of time, that are masked in each spectrogram."""
    warmup_pairs: float = 0.7
    """In the first phase each clip runs a random share, up to this, of all compatible pairs: every expert learns to
    see everywhere, at a fraction of the cost of running all pairs."""
    warmup_pairs_share: float = 0.4
    """Share of the steps that belong to the first phase."""
    teach_every: int = 6
    """Every so many steps, in both phases, all compatible pairs run and the saliency's teacher is asked."""
    drop_share: float = 0.5
    """Share of routed batches in which pairs are dropped at random, down to none, so that a cut budget costs little."""
    prior_weight: float = 0.5
    """Weight of the glance's own classification."""
    saliency_weight: float = 0.3
    """Weight of the saliency's distance from its teacher."""
    balance_weight: float = 0.05
    """Weight of the load balance over the experts."""
    average_share: float = 0.1
    """The weights that are validated and kept are an exponential moving average over about this share of the steps
    (B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", 1992)."""
    patience_share: float = 0.4
    """Training stops when val has not improved for this share of the epochs (at least 10)."""
