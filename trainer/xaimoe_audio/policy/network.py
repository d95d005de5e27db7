"""The rules that choose a network for what is heard: experts, tiles, widths, and how it is trained."""

from __future__ import annotations

from xaimoe_audio.config import (
    DEFAULT_EXPERTS,
    DEFAULT_LEARNING_RATE,
    DEFAULT_SALIENCY_TEACHER,
    FINE_EXPERTS,
    HIGHBAND_EXPERTS,
    SIZES,
)
from xaimoe_audio.policy.rule import Rule, always, by_budget

HIGHBAND_HZ = 2_000.0
"""The router keeps the highband experts from clips that end lower."""
FINE_QUALITY = 0.05
"""The router keeps the experts of fine resolution from clips under this quality."""
TILE_FRAMES, SHORT_TILE_FRAMES = 64, 32
"""Width of a tile, and its width in clips of less than two such tiles: fewer patches leave nothing to choose."""
PAIR_SHARE, FOCUS = 0.25, 4.0
"""Share of all pairs that a clip may run at most, and power of the saliency. With an eighth, and a power of 16 that
gives several experts to few patches, the experts learned less: see benchmarks/RESULTS.md, the latency budget."""
FEW_RECORDINGS = 10
"""Training recordings a class under which the smaller networks are taken."""
WHOLE_HEIGHT = "a tile as high as the spectrogram sees lines and their harmonics together"


def half_overlapping(tile: tuple[int, int]) -> tuple[int, int]:
    """The stride of tiles that share half their frames with the next."""
    return tile[0], tile[1] // 2


NETWORK: tuple[Rule, ...] = (
    *(
        Rule(
            family,
            "no high band",
            lambda f, m: min(f.highest, m["sample_rate"] / 2) <= HIGHBAND_HZ,
            lambda f, m: False,
            lambda f, m: (
                f"no recording reaches beyond {min(f.highest, m['sample_rate'] / 2):.0f} Hz at {m['sample_rate']} "
                "Hz, and the router keeps this family from clips that end at 2 kHz"
            ),
            ("highest", "sample_rate"),
        )
        for family in sorted(HIGHBAND_EXPERTS)
    ),
    *(
        Rule(
            family,
            "never clean",
            lambda f, m: f.best_quality <= FINE_QUALITY,
            lambda f, m: False,
            lambda f, m: (
                f"the best recording has a quality of {f.best_quality:.2f}; the router keeps this family from clips "
                "under 0.05"
            ),
            ("best_quality",),
        )
        for family in sorted(FINE_EXPERTS)
    ),
    *(
        Rule(
            family,
            "usable",
            always,
            lambda f, m: True,
            lambda f, m: f"recordings reach {min(f.highest, m['sample_rate'] / 2):.0f} Hz at {m['sample_rate']} Hz",
            ("highest", "sample_rate"),
        )
        for family in sorted(HIGHBAND_EXPERTS)
    ),
    *(
        Rule(
            family,
            "usable",
            always,
            lambda f, m: True,
            lambda f, m: f"recordings reach a quality of {f.best_quality:.2f}",
            ("best_quality",),
        )
        for family in sorted(FINE_EXPERTS)
    ),
    *(
        Rule(family, "always", always, lambda f, m: True, lambda f, m: "the router keeps it from no clip", ())
        for family in DEFAULT_EXPERTS
        if family not in HIGHBAND_EXPERTS | FINE_EXPERTS
    ),
    Rule(
        "experts",
        "families",
        always,
        lambda f, m: tuple(family for family in DEFAULT_EXPERTS if m[family]),
        lambda f, m: "the families that were kept",
        DEFAULT_EXPERTS,
    ),
    Rule(
        "k_max",
        "budget",
        always,
        lambda f, m: min(SIZES[f.budget].k_max, len(m["experts"])),
        lambda f, m: f"{by_budget(f, m)}; never more than there are experts",
        ("budget", "experts"),
    ),
    Rule(
        "tile",
        "short clips",
        lambda f, m: m["clip_s"] < 2 * TILE_FRAMES * m["hop_s"],
        lambda f, m: (m["bins"], SHORT_TILE_FRAMES),
        lambda f, m: f"a clip of {m['clip_s']:g} s holds fewer than two of {TILE_FRAMES} frames, {WHOLE_HEIGHT}",
        ("clip_s", "hop_s", "bins"),
    ),
    Rule(
        "tile",
        "whole height",
        always,
        lambda f, m: (m["bins"], TILE_FRAMES),
        lambda f, m: WHOLE_HEIGHT,
        ("bins",),
    ),
    Rule(
        "stride",
        "half a tile",
        always,
        lambda f, m: half_overlapping(m["tile"]),
        lambda f, m: "what lies at the edge of one tile, and is understood less there, lies in the middle of the next",
        ("tile",),
    ),
    Rule(
        "pair_share",
        "usual",
        always,
        lambda f, m: PAIR_SHARE,
        lambda f, m: "share of all pairs that a clip may run at most; with half of it the experts learned less",
        (),
    ),
    Rule(
        "focus",
        "usual",
        always,
        lambda f, m: FOCUS,
        lambda f, m: "power of the saliency: every patch gets an expert before the best ones get more",
        (),
    ),
    Rule(
        "unsure",
        "budget",
        always,
        lambda f, m: SIZES[f.budget].unsure,
        lambda f, m: f"{by_budget(f, m)}: a clip that the glance is sure of needs no expert",
        ("budget",),
    ),
    Rule(
        "expert_width",
        "few recordings",
        lambda f, m: f.budget == "accuracy" and f.recordings < FEW_RECORDINGS * f.classes,
        lambda f, m: SIZES["latency"].expert_width,
        lambda f, m: (
            f"{f.recordings} recordings of {f.classes} classes, however long, are too few sources for the "
            "larger networks"
        ),
        ("recordings", "classes", "budget"),
    ),
    Rule("expert_width", "budget", always, lambda f, m: SIZES[f.budget].expert_width, by_budget, ("budget",)),
    Rule(
        "learning_rate",
        "usual",
        always,
        lambda f, m: DEFAULT_LEARNING_RATE,
        lambda f, m: "what the figures in benchmarks/RESULTS.md were trained with",
        (),
    ),
    Rule(
        "saliency_teacher",
        "usual",
        always,
        lambda f, m: DEFAULT_SALIENCY_TEACHER,
        lambda f, m: "ranks patches as leaving each out does; Grad-CAM, from the experts' last maps, nearly so",
        (),
    ),
)
