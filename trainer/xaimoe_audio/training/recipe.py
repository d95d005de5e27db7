"""The numbers of the training recipe, all in one place and recorded with every run."""

from __future__ import annotations

from typing import Any

import msgspec

from xaimoe_audio.config import DEFAULT_LEARNING_RATE, Budget, SaliencyTeacher
from xaimoe_runtime.schema import TaskKind

COMPUTE_WEIGHTS: dict[Budget, float] = {"accuracy": 0.02, "latency": 0.1}
"""How much the share of the dense experts' compute counts in the loss; ``benchmarks/evidence/compute.py`` compares."""
GRAD_CAM_SHARES: dict[SaliencyTeacher, float] = {"gradxinput": 0.0, "gradcam": 1.0, "both": 0.5}


MIX: dict[TaskKind, float] = {"single_label": 1.0, "multi_label": 0.5}
"""A mixture of clips has the labels of both: were all mixed, a model would expect twice the labels that there are."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained."""

    learning_rate: float = DEFAULT_LEARNING_RATE
    """Peak of the cosine schedule, for AdamW."""
    router_rate: float = 0.1
    """Learning rate of the router over that of the rest: experts become good at what they are given before that
    changes. At 1 the router left the families' own sounds to other experts within 25 epochs."""
    rise: float = 0.04
    """Share of all steps in which the learning rate rises."""
    weight_decay: float = 0.03
    clip_gradient: float = 5.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.1
    class_balance: float = 0.5
    """Power of the rarity by which the loss of a class is weighed: 0 for none, 1 for all classes alike."""
    mix: float = MIX["single_label"]
    """Share of the clips that are mixed with another one."""
    noise: float = 0.15
    """Share of the clips that noise is added to."""
    resample: float = 0.1
    """Share of the clips that are made as if recorded at a lower rate."""
    level_jitter: float = 0.4
    """Spectrograms are raised or lowered by up to this, in their standard deviations (about 6 dB): the mean power that
    they are normalised by depends on how much of a clip is sound."""
    equalise: float = 0.4
    """Bands of a spectrogram are raised or lowered by up to this, in its standard deviations: other equipment."""
    stretch: float = 0.15
    """Spectrograms are stretched or squeezed in time and in frequency, each by up to this as a logarithm: another
    speaker, size or speed."""
    time_shift: float = 0.15
    """Clips are turned around in time by up to this share of their length, either way."""
    frequency_shift: float = 0.05
    """Spectrograms are moved up or down by up to this share of their height: another vessel, animal or voice."""
    masks: int = 1
    """Bands, and stretches of time, that are masked in each spectrogram."""
    whole: float = 0.5
    """Share of the steps, the first ones, in which a generalist hears whole clips and the experts follow it."""
    warmup: float = 0.1
    """Share of the steps, the next ones, in which all clips explore."""
    explore: float = 0.4
    """Share of the clips that explore after that: they run every patch with one expert, at random, so that each expert
    learns from all the data and not only from what the router gives it. The saliency's teacher is asked about them."""
    grad_cam_share: float = 0.0
    """Share of Grad-CAM in the teacher; the rest is Gradient x Input."""
    drop_share: float = 0.5
    """Share of routed batches in which pairs are dropped at random, down to none, so that a cut budget costs little."""
    prior_weight: float = 0.5
    """Weight of the glance's own classification."""
    experts_weight: float = 0.5
    """Weight of the experts' own classification, without the glance's."""
    saliency_weight: float = 0.5
    """Weight of the saliency's distance from its teacher."""
    balance_weight: float = 0.05
    """Weight of the load balance over the experts."""
    feed_rate: float = 0.03
    """How far the router's bias of an expert that is chosen too seldom rises at each step."""
    z_weight: float = 1e-3
    """Weight of the router's z-loss, which keeps its logits small (B. Zoph et al., "ST-MoE", 2022)."""
    compute_weight: float = COMPUTE_WEIGHTS["accuracy"]
    """Weight of the compute that the chosen pairs cost, as a share of all pairs'."""
    distill_weight: float = 1.0
    """Weight of the distance from another classifier's answers, if there is one."""
    average_share: float = 0.1
    """The weights that are validated and kept are an exponential moving average over about this share of the steps
    (B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", 1992)."""
    patience_share: float = 0.4
    """Training stops when val has not improved for this share of the epochs (at least 10)."""

    @classmethod
    def of(cls, made: dict[str, Any], budget: Budget, task: TaskKind) -> Recipe:
        """The recipe with what a policy chose."""
        return cls(
            mix=MIX[task],
            learning_rate=made["learning_rate"],
            grad_cam_share=GRAD_CAM_SHARES[made["saliency_teacher"]],
            compute_weight=COMPUTE_WEIGHTS[budget],
        )
