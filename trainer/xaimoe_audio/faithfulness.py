"""How faithful explanations are to the model: does the answer hang on what they name?

What is judged explains the model's own answer, right or wrong. By patch, as the router uses a map, by deletion and
insertion; by cell, as people see it, by Quantus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.data.dataset import LabelledRecording
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.explaining import Attribution, answered_with, attribution
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.model.territory import means_of_territories, nearest_tiles
from xaimoe_audio.quantus_metrics import REMOVED, QuantusMetrics
from xaimoe_audio.run import write_json
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.faithfulness import area, deletion_insertion, rank_correlation
from xaimoe_audio.training.teacher import explained
from xaimoe_runtime.console import progress
from xaimoe_runtime.drawing import COLOURS, new_figure
from xaimoe_runtime.pictures import save_both

Method = Callable[[MoEAudioModel, Routed, int], Tensor]
"""One clip and the number of a label -> what speaks for it, [F, T], at least 0."""
RESAMPLES = 10_000
METHODS = {
    "saliency": "saliency of the router",
    "teacher": "its teacher, Gradient x Input by patch",
    "gradxinput": "Gradient x Input by cell",
    "gradcam": "Grad-CAM by cell",
    "random": "patches in random order",
}
"""What is judged."""
METRICS = {
    "deletion": "mean score as the patches named first are removed first; small is good",
    "insertion": "mean score as the patches named first are the first to be there; large is good",
    "pixel_flipping": "mean score as the cells named first are silenced first; small is good",
    "road": "share of answers that stay as the cells named first are made up from the others; small is good",
    "max_sensitivity": "largest relative change of the map under a little noise; small is good",
    "sparseness": "Gini index of the map; 0 is even, 1 all in one cell",
    "randomisation": "rank correlation with the map of the same model with random weights; near 0 is good",
}
FILE, FIGURE = "faithfulness.json", "faithfulness"


@dataclass(frozen=True)
class Judged:
    """One recording."""

    values: dict[str, dict[str, Any]]
    """By method and metric; ROAD's by percentage, too, and the curves of deletion and insertion."""
    rank_correlation: float
    """Of the saliency with its teacher, over the patches."""


class Scores(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> scores [B, L] of the whole routed model, for clips of one's attributes [1, A]."""

    def __init__(self, model: MoEAudioModel, attributes: Tensor) -> None:
        super().__init__()
        self.model, self.attributes = model, attributes

    def route(self, spectrogram: Tensor) -> Routed:
        """What glance and router make of spectrograms."""
        return self.model.route(spectrogram, self.attributes.expand(len(spectrogram), -1))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """The scores."""
        routed = self.route(spectrogram)
        scores: Tensor = self.model.head(*self.model.bank(routed.spectrogram, routed.gates), routed.prior_logits)
        return scores


def _methods(seed: int) -> dict[str, Method]:
    """The methods by name; the random order is another one at each call."""
    draw = np.random.default_rng(seed)

    def by_patch(values: Tensor, model: MoEAudioModel) -> Tensor:
        of_rows, of_columns = nearest_tiles(model.grid)
        return values.detach().reshape(model.grid.shape)[of_rows][:, of_columns]

    def saliency(model: MoEAudioModel, routed: Routed, target: int) -> Tensor:
        return by_patch(routed.saliency[0], model)

    def teacher(model: MoEAudioModel, routed: Routed, target: int) -> Tensor:
        wanted = nn.functional.one_hot(torch.tensor([target]), len(model.config.labels)).to(routed.saliency)
        return by_patch(explained(model, routed, wanted)[0], model)

    def by_captum(name: Attribution, model: MoEAudioModel, routed: Routed, target: int) -> Tensor:
        return torch.from_numpy(attribution(model, routed, target, name)).clamp(min=0).to(routed.saliency)

    def random(model: MoEAudioModel, routed: Routed, target: int) -> Tensor:
        return by_patch(torch.from_numpy(draw.random(model.grid.count)).to(routed.saliency), model)

    return {
        "saliency": saliency,
        "teacher": teacher,
        "gradxinput": partial(by_captum, "gradxinput"),
        "gradcam": partial(by_captum, "gradcam"),
        "random": random,
    }


def judge(engine: TorchEngine, items: list[LabelledRecording], seed: int = 0) -> list[Judged]:
    """How each method does on the first window of each recording.

    Args:
        engine: the model.
        items: recordings; each takes some seconds.
        seed: of the random order, the noise and the random weights.

    Raises:
        ProviderError: captum or Quantus is missing.
    """
    model = engine.model
    quantus = QuantusMetrics(model.grid.rows, model.grid.columns, seed)
    methods = _methods(seed)
    judged: list[Judged] = []
    with progress("judging explanations", len(items)) as advance:
        for _, waveforms, sources in batches(model, items, engine.device, 1):
            for waveform, source in zip(waveforms[:, None], sources[:, None], strict=True):
                with torch.no_grad():
                    spectrogram, attributes = model.frontend(waveform, source)
                    scores = Scores(model, attributes).eval()
                    target = answered_with(scores(spectrogram)[0].cpu().numpy(), engine.task)
                    routed = scores.route(spectrogram)
                patches: dict[str, Tensor] = {}
                values: dict[str, dict[str, Any]] = {}
                for name, method in methods.items():
                    cells = method(model, routed, target)
                    patches[name] = means_of_territories(cells[None, None], model.grid)
                    values[name] = _by_patch(scores, spectrogram, patches[name], target)
                    values[name] |= quantus(scores, spectrogram, cells, target, partial(_again, method))
                judged.append(Judged(values, float(rank_correlation(patches["saliency"], patches["teacher"]))))
                advance()
    return judged


def _again(method: Method, scores: nn.Module, spectrogram: Tensor, target: int) -> Tensor:
    """A method's answer for another spectrogram, or for a model with other weights."""
    assert isinstance(scores, Scores)
    with torch.no_grad():
        routed = scores.route(spectrogram)
    return method(scores.model, routed, target)


@torch.no_grad()
def _by_patch(scores: Scores, spectrogram: Tensor, patches: Tensor, target: int) -> dict[str, Any]:
    config = scores.model.config
    curves = deletion_insertion(
        lambda masked: scores(masked)[:, target], spectrogram, patches, config, steps=config.grid.count
    )
    found = {
        name: curve[:, 0].tolist() for name, curve in zip(("deletion curve", "insertion curve"), curves, strict=True)
    }
    return found | {name: float(area(curve)) for name, curve in zip(("deletion", "insertion"), curves, strict=True)}


def summarise(judged: list[Judged], seed: int = 0) -> dict[str, Any]:
    """What ``faithfulness.json`` holds.

    Args:
        judged: the recordings, of one model or of several (all with the same number of patches).
        seed: of the bootstrap over recordings that gives the 95 % intervals, ``low`` to ``high``.

    Returns:
        ``recordings``, their number; ``metrics`` and what each means; ``methods``: of each its ``name``, its metrics
        (None where not defined), and ``curves``: mean score by share of the patches deleted and inserted, ROAD's share
        of answers that stay by percentage of the cells; ``saliency``: its ``rank_correlation`` with its teacher, how
        far its deletion and insertion lie above the random order's (``deletion_over_random`` …, paired differences),
        and how they relate to its teacher's (``deletion_by_teacher`` …, ratios of the means).
    """
    draws = np.random.default_rng(seed).integers(len(judged), size=(RESAMPLES, len(judged)))

    def values(name: str, metric: str) -> NDArray[np.float64]:
        return np.array([one.values[name][metric] for one in judged], np.float64)

    def told(sample: NDArray[np.float64], over: NDArray[np.float64] | None = None) -> dict[str, float] | None:
        sample = np.where(np.isfinite(sample), sample, np.nan)
        if np.isnan(sample).all():
            return None
        means, mean = np.nanmean(sample[draws], axis=1), float(np.nanmean(sample))
        if over is not None:
            means, mean = means / over[draws].mean(1), mean / float(over.mean())
        low, high = np.nanquantile(means, [0.025, 0.975])
        return {"mean": mean, "low": float(low), "high": float(high)}

    methods: dict[str, Any] = {}
    for name, title in METHODS.items():
        curves = {curve: values(name, f"{curve} curve").mean(0).tolist() for curve in ("deletion", "insertion")}
        curves["road"] = [float(values(name, f"road {percentage}").mean()) for percentage in REMOVED]
        methods[name] = {"name": title, **{metric: told(values(name, metric)) for metric in METRICS}, "curves": curves}
    saliency = {"rank_correlation": told(np.array([one.rank_correlation for one in judged]))}
    for metric in ("deletion", "insertion"):
        own = values("saliency", metric)
        saliency[f"{metric}_over_random"] = told(own - values("random", metric))
        saliency[f"{metric}_by_teacher"] = told(own, values("teacher", metric))
    return {"recordings": len(judged), "metrics": METRICS, "methods": methods, "saliency": saliency}


def table(figures: dict[str, Any]) -> str:
    """What ``judge`` gives as text for a terminal."""
    lines = [f"{figures['recordings']} recordings; in brackets 95 % intervals"]
    for metric, meaning in figures["metrics"].items():
        lines += ["", f"{metric}: {meaning}"]
        lines += [f"  {of['name']:<40} {_told(of[metric])}" for of in figures["methods"].values()]
    lines += ["", "the saliency"]
    lines += [f"  {name.replace('_', ' '):<40} {_told(value)}" for name, value in figures["saliency"].items()]
    return "\n".join(lines)


def _told(value: dict[str, float] | None) -> str:
    return "not defined" if value is None else f"{value['mean']:6.3f}  ({value['low']:.3f} to {value['high']:.3f})"


def draw(figures: dict[str, Any]) -> Any:
    """The figure: curves of deletion, insertion and ROAD, a line for each method."""
    figure = new_figure(10, 3.4)
    panels = {
        "deletion": ("Deletion", "Patches removed [%]", "Score of the answer"),
        "insertion": ("Insertion", "Patches there [%]", "Score of the answer"),
        "road": ("ROAD", "Cells made up [%]", "Answers that stay"),
    }
    all_axes = figure.subplots(1, 3)
    for axes, (curve, (title, x, y)) in zip(all_axes, panels.items(), strict=True):
        for colour, (name, of) in zip(COLOURS, figures["methods"].items(), strict=False):
            heights = of["curves"][curve]
            places = REMOVED if curve == "road" else np.linspace(0, 100, len(heights))
            style = {"color": "0.4", "linestyle": "--"} if name == "random" else {"color": colour}
            axes.plot(places, heights, label=of["name"], linewidth=1.5, **style)
        axes.set(title=title, xlabel=x, ylabel=y, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def write(figures: dict[str, Any], folder: Path) -> list[Path]:
    """Writes ``faithfulness.json`` and ``faithfulness.png`` (and SVG); gives the files.

    Raises:
        ConfigError: the folder cannot be written.
        ProviderError: matplotlib is missing.
    """
    files = save_both(draw(figures), folder / FIGURE)
    write_json(folder / FILE, figures)
    return [*files, folder / FILE]
