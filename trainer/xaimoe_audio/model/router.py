"""The router: from saliency, context and signal attributes to sparse gates.

Every gate is a continuous function of the inputs: it reaches 0 before its pair is dropped, so a difference of 1e-6
between two devices moves a gate by about as much and never switches a pair on or off at a finite weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xaimoe_audio.config import FINE_EXPERTS, HIGHBAND_EXPERTS, RouterConfig
from xaimoe_audio.model.descriptors import DESCRIPTORS
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.glance import GLOBAL_CONTEXT, PATCH_CONTEXT
from xaimoe_audio.spectrogram.attributes import INDEX, ramp

LEARNED_ATTRIBUTES = ("snr", "flatness", "transient_rate", "quality")
"""Attributes the router may learn from. Band, level and clipping would let it learn the recorder instead of the
sound."""
ATTRIBUTE_SCALE = (0.05, 1.0, 1.0, 1.0)
LEAST_SALIENT = 0.5
"""Saliency, over the best patch's, that any patch but a silent one has at least: in the dense mixture each counts, if
little."""
SILENT = 0.05
"""Saliency, over the best patch's, under which a patch fades out, so that a silent one, which has none, has no say."""
SOFT_EDGE = 0.4
"""Width over which an expert's share fades in above the cut, in even shares."""
HALF_HEARD = 0.05
"""Of the best pair's weight: a pair with this much has half a voice, and those with more, nearly a whole one. The
saliency decides which pairs are run; what they say is weighed nearly alike, as the parts of a whole clip are."""
FADE = 0.05
"""In voices: what is over the cut by this much has half its say."""
MASS_SOFTENER = 0.6
"""In voices: the gates are normalised by the sum of the pairs' voices and this. Few pairs just over the bar thus have
little mass, and the gates fade to none without a step."""
TINY = 1e-6
"""Under what is divided by."""
LEAST_COMPATIBLE = 0.01
"""Sum of the compatible shares under which the dense gates fade to 0, too: nothing suits the clip then."""
EXPERT_BAR = 0.05
"""Share of the best expert's weight over which another one runs, too, in a clip of the best quality. In one of no
quality at all it is 1, which not even the best expert exceeds: silence and ruined recordings are left to the glance."""
PAIR_BAR = 0.02
"""Share of the best pair's voice over which another one has a say, too, in a clip of the best quality; its logarithm
falls with the quality to that of 1."""
HALF_TRUSTED = 0.2
"""Quality at which the bars are about half way between those of the best and of no quality. Steady noise, rain and
engines have a quality of 0.34 to 0.5, which raises the bar of experts from 0.05 to 0.19 to 0.28 and that of pairs from
0.02 to 0.04 to 0.05: they are noise, but noise that may be a class."""
LEARNED_POWER = 1.1
"""Most by which the router learns to multiply or to divide the logarithms of both bars: a factor of 1.4 either way in a
clip of the best quality, which does not starve the experts; in one of no quality the bars stay at 1."""
HIGHBAND_RAMP = (2_000.0, 2_500.0)
"""Effective upper frequency in Hz between which the highband experts fade in."""
FINE_QUALITY_RAMP = (0.05, 0.2)
"""Quality between which the experts of fine resolution fade in. Steady noise of any spectrum has 0.34 or more and keeps
them, since ships and rain may be what there is to recognise. They fade out where more than 16 % of the samples are
clipped (in steady noise 8 %), and in recordings that are nearly silent. A ramp of 0.3 to 0.5 would keep them from half
of the noise: on two trained models of the sonar scenes it ran 3 and 5 % fewer pairs in noise, and took the share of 320
recordings that are right from 0.875 to 0.8875 and from 0.8656 to 0.8625."""
TRANSIENT_EXPERTS = frozenset({"TransientExpert"})
TRANSIENT_GAIN = 2.0
"""How far many transients raise the transient expert's logit."""


class Router(nn.Module):
    """``saliency`` [B, P], ``context`` [B, C], ``attributes`` [B, A] -> ``gates`` and ``gates_dense``, both [B, P, E].

    ``gates_dense`` has every compatible pair of a patch that is not silent, weighted by saliency and by the expert's
    affinity to the patch.
    ``gates`` keeps at most ``k_max`` experts a clip and ``max_pairs`` pairs, the most salient patches getting the most
    experts. Within that, an expert runs if its weight in the clip comes near the best one's, and a pair if it comes
    near the best pair: a tone asks for few, a scene of many sounds for many. Low quality raises both bars, so that
    noise is left to one expert or none, and the router learns to move them either way. The bar of pairs rises to the
    best one's voice, too, as the glance is sure of its own answer: an easy clip is left to it. The dense gates sum
    to 1; the sum of the sparse ones, 0…1, says how clearly their pairs pass the bars.

    The affinity of experts to patches starts from the families' ``suits`` on the measured descriptors and is learned
    from there.
    """

    band_fit: Tensor
    highband: Tensor
    fine: Tensor
    transient: Tensor
    scale: Tensor

    def __init__(self, experts: tuple[str, ...], band_fit: Tensor, config: RouterConfig) -> None:
        """``band_fit`` [P, E] is 0 for a pair whose patch lies outside the expert's band."""
        super().__init__()
        self.patches, self.experts, self.config = len(band_fit), len(experts), config
        self.register_buffer("band_fit", band_fit, persistent=False)
        self.clip_affinity = nn.Linear(GLOBAL_CONTEXT + len(LEARNED_ATTRIBUTES), len(experts))
        self.patch_affinity = nn.Linear(PATCH_CONTEXT, len(experts), bias=False)
        for linear in (self.clip_affinity, self.patch_affinity):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.clip_affinity.bias)
        with torch.no_grad():
            for e, expert in enumerate(experts):
                suits = FAMILIES[expert].suits
                told = torch.tensor([suits.get(name, 0.0) for name in DESCRIPTORS])
                self.patch_affinity.weight[e, : len(DESCRIPTORS)] = told
        self.thrift = nn.Linear(GLOBAL_CONTEXT, 1)
        for name, members in (("highband", HIGHBAND_EXPERTS), ("fine", FINE_EXPERTS), ("transient", TRANSIENT_EXPERTS)):
            flags = torch.tensor([float(expert in members) for expert in experts])
            self.register_buffer(name, flags, persistent=False)
        self.register_buffer("scale", torch.tensor(ATTRIBUTE_SCALE), persistent=False)
        self.columns = [INDEX[name] for name in LEARNED_ATTRIBUTES]

    def compatibility(self, attributes: Tensor) -> Tensor:
        """How far each expert suits the clip's band and quality, [B, E]: exactly 0 for one that must not run."""
        high = ramp(attributes[:, INDEX["fmax_eff"]], *HIGHBAND_RAMP)[:, None]
        fine = ramp(attributes[:, INDEX["quality"]], *FINE_QUALITY_RAMP)[:, None]
        return (1 - self.highband * (1 - high)) * (1 - self.fine * (1 - fine))

    def affinity_logits(self, context: Tensor, attributes: Tensor) -> Tensor:
        """Logits of the experts for each patch, [B, P, E]."""
        learned = torch.stack([attributes[:, i] for i in self.columns], dim=1) * self.scale
        clip: Tensor = self.clip_affinity(torch.cat([context[:, :GLOBAL_CONTEXT], learned], dim=1))
        clip = clip + self.transient * TRANSIENT_GAIN * ramp(attributes[:, INDEX["transient_rate"]], 0.5, 1.5)[:, None]
        patch: Tensor = self.patch_affinity(context[:, GLOBAL_CONTEXT:-1].reshape(-1, self.patches, PATCH_CONTEXT))
        return clip[:, None] + patch

    def bars(self, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the best expert's weight and of the best pair's voice that others must exceed to run, both [B]."""
        quality = attributes[:, INDEX["quality"]]
        learned: Tensor = torch.tanh(self.thrift(context[:, :GLOBAL_CONTEXT])).squeeze(1)
        power = torch.exp(-math.log(LEARNED_POWER) * learned)
        trust = (1 + HALF_TRUSTED) * quality / (quality + HALF_TRUSTED)
        return (1 - (1 - EXPERT_BAR) * trust) ** power, PAIR_BAR ** (trust * power)

    def asks(self, context: Tensor) -> Tensor:
        """How far experts are asked at all, 0…1, [B]: not where the glance suffices. In training they always are: the
        glance knows its training clips by heart."""
        if self.training or self.config.unsure is None:
            return torch.ones_like(context[:, -1])
        return ramp(context[:, -1], *self.config.unsure)

    def forward(self, saliency: Tensor, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.softmax(self.affinity_logits(context, attributes), dim=2)
        share = share * self.compatibility(attributes)[:, None] * self.band_fit  # [B, P, E]
        relative = saliency / saliency.amax(1, keepdim=True)
        focused = torch.clamp(relative, min=LEAST_SALIENT) ** self.config.focus * ramp(relative, 0.0, SILENT)
        pairs = (focused / focused.sum(1, keepdim=True))[:, :, None] * share
        voices = pairs / (pairs + torch.clamp(HALF_HEARD * pairs.amax((1, 2), keepdim=True), min=TINY))
        fits = torch.clamp(pairs.sum((1, 2), keepdim=True) / LEAST_COMPATIBLE, max=1)
        dense = fits * voices / torch.clamp(voices.sum((1, 2), keepdim=True), min=TINY)

        expert_bar, pair_bar = self.bars(context, attributes)
        clip_share = pairs.sum(1)  # [B, E]
        cut = _over_both(_next_largest(clip_share, self.config.k_max), expert_bar * clip_share.amax(1))
        kept = ramp(clip_share - cut[:, None], 0.0, SOFT_EDGE / self.experts)
        heard = (voices * kept[:, None]).flatten(1)
        cut = _over_both(_next_largest(heard, self.config.max_pairs), pair_bar * heard.amax(1))
        cut = torch.lerp(heard.amax(1), cut, self.asks(context))
        over = torch.relu(heard - cut[:, None])
        run = heard * over / (over + FADE)
        gates = run / (run.sum(1, keepdim=True) + MASS_SOFTENER)
        return gates.reshape_as(pairs), dense


def _next_largest(values: Tensor, count: int) -> Tensor:
    """The (count + 1)-th largest of ``values`` [B, N] along its rows, [B]; 0 where there are no more than ``count``."""
    if count >= values.shape[1]:
        return torch.zeros_like(values[:, 0])
    return torch.topk(values, count + 1, dim=1).values[:, count]


def _over_both(limit: Tensor, bar: Tensor) -> Tensor:
    """No lower than either, and moved by both, so that the bar learns even where the limit is higher."""
    return torch.sqrt(torch.clamp(torch.square(limit) + torch.square(bar), min=1e-12))
