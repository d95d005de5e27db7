"""Explanations for people: what in a recording spoke for an answer, and what the router made of it.

Attributions are by captum, through the whole routed model: the gates follow the spectrogram, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.config import ExplanationMethod
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.model.territory import means_of_territories
from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.choices import one_of
from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.files import printable
from xaimoe_runtime.inference import file_windows, inputs_of, run_windows
from xaimoe_runtime.metadata import Row
from xaimoe_runtime.pictures import Heard, answer_title, draw_heat, save_both, write_pictures
from xaimoe_runtime.recording import warn_if_incomplete
from xaimoe_runtime.result import decide, pool
from xaimoe_runtime.schema import TaskSpec
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]
Attribution = Literal["gradcam", "gradxinput"]
NAMES: dict[Attribution, str] = {"gradcam": "Grad-CAM", "gradxinput": "Gradient x Input"}
REPORT = "explain.json"
SAMPLES = 8
"""Test recordings that a training explains."""


@dataclass(frozen=True)
class Explanation:
    """Of one window of a recording."""

    heard: Heard
    label: str
    """That is explained."""
    scores: Floats
    """[L]"""
    answer: tuple[str, ...]
    """What the recording was answered with; empty if no label reached its threshold."""
    maps: dict[Attribution, Floats]
    """Of each method, [F, T]; positive where it speaks for the label."""
    samples: Floats
    """That were heard, [S], at the model's rate."""


class Answer(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> how far each label is ahead, [B, L], by the whole routed model.

    Of one class a recording it is the logit over the mean of all; else the logit. Not the probability: see
    ``training.teacher``.
    """

    def __init__(self, model: MoEAudioModel, attributes: Tensor) -> None:
        super().__init__()
        self.model, self.attributes = model, attributes

    def forward(self, spectrogram: Tensor) -> Tensor:
        """What captum takes the gradient of."""
        model = self.model
        routed = model.route(spectrogram, self.attributes)
        mixture, mass = model.bank(routed.spectrogram, routed.gates)
        logits: Tensor = model.head.logits(mixture, mass, routed.prior_logits)
        return logits - logits.mean(1, keepdim=True) if model.config.task == "single_label" else logits


class ExpertAnswer(nn.Module):
    """``spectrogram`` [1, 1, F, T] -> logits [1, L] with the routing of one clip held fixed.

    What the experts' maps contribute, and which cells of the spectrogram they depend on, does not involve the glance.
    """

    def __init__(self, model: MoEAudioModel, routed: Routed) -> None:
        super().__init__()
        self.model, self.routed = model, routed

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Return how far each label is ahead, as :class:`Answer` does."""
        model, routed = self.model, self.routed
        mixture, mass = model.bank(spectrogram, routed.gates)
        logits: Tensor = model.head.logits(mixture, mass, routed.prior_logits)
        return logits - logits.mean(1, keepdim=True) if model.config.task == "single_label" else logits


def attribution(model: MoEAudioModel, routed: Routed, target: int, method: Attribution) -> Floats:
    """Return what speaks for a label in one clip, and against it, [F, T].

    ``gradxinput`` is the spectrogram times its gradient (A. Shrikumar et al., "Not just a black box", 2016).
    ``gradcam`` (R. R. Selvaraju et al., "Grad-CAM", 2017) is taken at the last maps of the experts, each laid on the
    cells that its patch owns; where no expert ran, at the glance's. Grad-CAM weighs whole maps, although the answer
    depends on parts of them only: an expert reads the cells that its patch owns. So cells of the maps that are not read
    count as 0, and so do cells of the spectrogram where the gradient is exactly 0.

    Args:
        model: in evaluation.
        routed: one clip.
        target: number of the label.
        method: ``gradcam`` or ``gradxinput``.

    Raises:
        ProviderError: captum is missing.
    """
    try:
        from captum.attr import InputXGradient
    except ImportError as error:
        raise ProviderError('explanations need captum; run: pip install "xai-moe-audio[explain]"') from error
    spectrogram = routed.spectrogram.detach().clone().requires_grad_()
    if method == "gradxinput":
        found: Tensor = InputXGradient(Answer(model, routed.attributes)).attribute(spectrogram, target=target)
        return found[0, 0].detach().cpu().numpy()
    if routed.gates.any():
        answer: nn.Module = ExpertAnswer(model, routed)
        heat = _laid_out(model, routed.gates, _grad_cam(answer, model.bank.trunk.body, spectrogram, target))
    else:
        answer = Answer(model, routed.attributes)
        seen = _grad_cam(answer, model.glance.body, spectrogram, target)
        heat = _sized(seen, routed.spectrogram.shape[2:])[0, 0]
    (gradient,) = torch.autograd.grad(answer(spectrogram)[:, target].sum(), spectrogram)
    return (heat * (gradient[0, 0] != 0)).cpu().numpy()


def _grad_cam(answer: nn.Module, layer: nn.Module, spectrogram: Tensor, target: int) -> Tensor:
    """Return Grad-CAM at the maps of a layer, [M, 1, H, W], with 0 at the cells that the answer does not read.

    Args:
        answer: gives logits [1, L] for a spectrogram.
        layer: part of the model that makes M maps [C, H, W].
        spectrogram: [1, 1, F, T].
        target: number of the label.
    """
    from captum.attr import LayerGradCam, LayerGradientXActivation

    seen: Tensor = LayerGradCam(answer, layer).attribute(spectrogram, target=target)
    read: Tensor = LayerGradientXActivation(answer, layer).attribute(spectrogram, target=target)
    return seen.detach() * (read.detach() != 0).any(1, keepdim=True)


def _laid_out(model: MoEAudioModel, gates: Tensor, maps: Tensor) -> Tensor:
    """Return the maps [M, 1, H, W] of the pairs that ran, added up by patch, on the cells that each patch owns, [F, T].

    Tiles overlap; a cell shows the patch whose middle is the nearest, as in all figures.

    Args:
        model: whose patch grid is used.
        gates: [1, P, E], of the pairs that were run.
        maps: [M, 1, H, W], in the order that the mixture runs the pairs.
    """
    grid = model.grid
    (height, width), (down, along) = grid.tile, grid.stride
    _, _, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)  # in the order that the mixture runs them
    sized = _sized(maps, (height, width))[:, 0]
    found = maps.new_zeros(grid.rows, grid.columns)
    for patch, (rows, columns) in enumerate(grid.owned_cells()):
        top, left = (patch // grid.shape[1]) * down, (patch % grid.shape[1]) * along
        part = sized[patches == patch].sum(0)
        found[rows, columns] = part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return found


def _sized(maps: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    return nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def explain_recording(
    engine: TorchEngine, path: Path, method: str = "gradcam", label: str | None = None, channel: str = "mix"
) -> Explanation:
    """Explains what a recording is answered with, by the window that speaks for it most.

    Args:
        engine: the model.
        path: of the recording.
        method: ``gradcam``, ``gradxinput``, ``saliency`` (the router's own, which is always there) or ``all``.
        label: to be explained; the best one of the answer if None, or of all where nothing was answered.
        channel: ``mix`` or the number of a channel.

    Raises:
        AudioError: the recording cannot be used.
        ConfigError: no such method, label or channel.
        ProviderError: captum is missing.
    """
    chosen = one_of(get_args(ExplanationMethod), method, "method")
    labels, model = engine.task.labels, engine.model
    if label is not None and label not in labels:
        raise ConfigError(f"label: found {label!r}, the model knows {', '.join(labels)}")
    picked = parse_channel(channel)
    if picked == "each":
        raise ConfigError("channel: found each, expected mix or the number of a channel")
    reading = file_windows(path, engine.audio, picked)
    outputs = [run_windows(engine, [window], "routed") for _, window in reading]
    warn_if_incomplete(path, reading.completeness)
    scores, sounding = (np.concatenate([getattr(one, name) for one in outputs]) for name in ("scores", "sounding"))
    whole = pool(scores, sounding)
    answered = decide(whole, engine.task)
    target = answered_with(whole, engine.task) if label is None else labels.index(label)
    # Read again: a recording of a day is not held in memory for the sake of one window.
    every = (window for _, window in file_windows(path, engine.audio, picked))
    window = next(islice(every, int(scores[:, target].argmax()), None))
    waveform, source = (torch.from_numpy(part).to(engine.device) for part in inputs_of([window]))
    with torch.no_grad():
        routed = model.route(*model.frontend(waveform, source))
    wanted: tuple[Attribution, ...] = ()
    if chosen == "all":
        wanted = get_args(Attribution)
    elif chosen != "saliency":
        wanted = (chosen,)
    config = model.config.frontend
    heard = Heard(
        spectrogram=routed.spectrogram[0, 0].cpu().numpy(),
        centres_hz=model.frontend.window.backend.centres().float().cpu().numpy(),
        start_s=window.start_s,
        end_s=window.end_s,
        frame_s=config.hop / config.sample_rate,
        grid=model.grid,
        saliency=routed.saliency[0].cpu().numpy(),
        gates=routed.gates[0].cpu().numpy(),
        experts=engine.experts,
        answer=answer_title(answered, whole, f"{labels[target]} {whole[target]:.2f}"),
    )
    maps = {name: attribution(model, routed, target, name) for name in wanted}
    if not whole.any():  # what the layers make of their own padding speaks for nothing
        maps = {name: np.zeros_like(heat) for name, heat in maps.items()}
    return Explanation(heard, labels[target], whole, answered, maps, window.samples)


def answered_with(scores: Floats, task: TaskSpec) -> int:
    """Number of the label that a recording with these scores [L] is explained by: the best one that was answered, or
    the best of all if none was, as of silence."""
    answer = decide(scores, task)
    return task.labels.index(answer[0]) if answer and scores.any() else int(scores.argmax())


def numbers_of(explanation: Explanation, engine: TorchEngine, path: Path) -> dict[str, Any]:
    """What ``explain.json`` says."""
    heard = explanation.heard
    patches, experts = np.nonzero(heard.gates)
    order = np.argsort(-heard.gates[patches, experts], kind="stable")
    by_patch = {
        name: means_of_territories(torch.from_numpy(np.maximum(found, 0))[None, None], heard.grid)[0].tolist()
        for name, found in explanation.maps.items()
    }
    middles = zip(*(of.tolist() for of in heard.middles), strict=True)
    return {
        "path": printable(path),
        "model": printable(engine.name),
        "start_s": round(heard.start_s, 6),
        "end_s": round(heard.end_s, 6),
        "label": explanation.label,
        "answer": list(explanation.answer),
        "scores": {label: float(s) for label, s in zip(engine.task.labels, explanation.scores, strict=True)},
        "thresholds": dict(zip(engine.task.labels, engine.task.thresholds, strict=False)),
        "patches": [
            {
                "middle_s": round(seconds, 4),
                "middle_hz": round(hertz, 1),
                "saliency": float(heard.saliency[patch]),
                "repeated": seconds > heard.end_s,
            }
            for patch, (seconds, hertz) in enumerate(middles)
        ],
        "pairs": [
            {"patch": patch, "expert": heard.experts[e], "gate": float(heard.gates[patch, e])}
            for patch, e in zip(patches[order].tolist(), experts[order].tolist(), strict=True)
        ],
        "attributions": {name: {"method": NAMES[name], "patches": values} for name, values in by_patch.items()},
    }


def explain_samples(engine: TorchEngine, rows: list[Row], folder: Path, method: str, channel: str) -> None:
    """Explains a few recordings of the test split, evenly over the table, each in a folder of its own with its line in
    the table as name.

    Raises:
        ConfigError: the folder cannot be written.
        ProviderError: captum or matplotlib is missing.
    """
    tested = [row for row in rows if row.split == "test"]
    chosen = [tested[i] for i in np.unique(np.linspace(0, len(tested) - 1, SAMPLES).astype(int))] if tested else []
    own = "mix" if channel == "each" else channel
    for row in chosen:
        explanation = explain_recording(engine, row.path, method, channel=own)
        truth = {"labels": list(row.labels)}
        write_explanation(explanation, numbers_of(explanation, engine, row.path) | truth, folder / f"line{row.line}")


def check_packages() -> None:
    """Raises ProviderError if what explanations need is not installed."""
    for package, extra in (("captum", "explain"), ("matplotlib", "figures")):
        if find_spec(package) is None:
            raise ProviderError(f'explanations need {package}; run: pip install "xai-moe-audio[{extra}]"')


def write_explanation(explanation: Explanation, numbers: dict[str, Any], folder: Path) -> list[Path]:
    """Figures, each as PNG and SVG, and ``explain.json``; gives the files.

    Raises:
        ConfigError: the folder cannot be written.
        ProviderError: matplotlib is missing.
    """
    files = []
    for name, found in explanation.maps.items():
        figure = draw_heat(explanation.heard, found, NAMES[name], explanation.label)
        files += save_both(figure, folder / name)
    files += write_pictures(explanation.heard, folder)
    report = folder / REPORT
    with replacing(report) as file:
        file.write(json.dumps(numbers, indent=1, ensure_ascii=False).encode())
    return [*files, report]
