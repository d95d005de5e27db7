"""The model in words: what each part takes, gives, holds and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_audio.spectrogram.backend import backend_class


@dataclass(frozen=True)
class Part:
    """One part of the model, as one graph of a bundle."""

    name: str
    module: nn.Module
    parameters: int
    macs: int
    """Multiply-accumulates for one clip; for an expert, for one patch."""
    shapes: str


def macs_of(call: Callable[[], Any]) -> int:
    """Multiply-accumulates of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return int(counter.get_total_flops()) // 2


def expert_costs(model: MoEAudioModel) -> dict[str, int]:
    """Multiply-accumulates of each expert for one patch."""
    parameter = next(model.parameters())
    tile, position = parameter.new_zeros(1, 1, *model.grid.tile), parameter.new_zeros(1, 2)
    trained = model.training
    model.eval()
    found = {name: macs_of(partial(expert, tile, position)) for name, expert in model.bank.experts.items()}
    model.train(trained)
    return found


def parts(model: MoEAudioModel) -> list[Part]:
    """All parts in the order they run, each tried on one silent clip."""
    model.eval()
    config, grid = model.config, model.grid
    device = next(model.parameters()).device
    with torch.no_grad():
        waveform = torch.zeros(1, config.frontend.clip_samples, device=device)
        source = torch.tensor([[float(config.frontend.sample_rate), 0.0]], device=device)
        spectrogram, attributes = model.frontend(waveform, source)
        saliency, context, prior = model.glance(spectrogram)
        tile = model.bank.tiles(spectrogram)[0, :1]
        mixture, mass = torch.zeros(1, config.features, device=device), torch.zeros(1, 1, device=device)

    def part(name: str, module: nn.Module, inputs: tuple[Tensor, ...], gives: str) -> Part:
        takes = " ".join(str(list(tensor.shape)) for tensor in inputs)
        size = sum(parameter.numel() for parameter in module.parameters())
        return Part(name, module, size, macs_of(lambda: module(*inputs)), f"{takes} -> {gives}")

    labels, patches, experts = len(config.labels), grid.count, len(config.experts)
    found = [
        part("frontend", model.frontend, (waveform, source), f"{list(spectrogram.shape)} [1, {len(ATTRIBUTES)}]"),
        part(
            "saliency",
            model.glance,
            (spectrogram,),
            f"[1, {patches}] {list(context.shape)} [1, {labels}]",
        ),
        part("router", model.router, (saliency, context, attributes), f"[1, {patches}, {experts}]"),
    ]
    for name, expert in model.bank.experts.items():
        found.append(part(name, expert, (tile, model.bank.positions[:1]), f"[1, {config.features}]"))
    found.append(part("head", model.head, (mixture, mass, prior), f"[1, {labels}]"))
    return found


def floor_macs(table: list[Part]) -> int:
    """Multiply-accumulates of what always runs after the frontend: glance, router and head."""
    return sum(part.macs for part in table if part.name in ("saliency", "router", "head"))


def describe(model: MoEAudioModel) -> str:
    """The architecture as a table for a terminal or a file."""
    config, grid = model.config, model.grid
    frontend, router = config.frontend, config.router
    lines = [
        f"{config.task}, {len(config.labels)} classes: {', '.join(config.labels)}",
        f"clips of {frontend.clip_s:.2f} s at {frontend.sample_rate} Hz; {frontend.spectrogram}, "
        f"{frontend.bins} bands x {frontend.frames} frames, {frontend.fmin:g}…{frontend.fmax:g} Hz, "
        f"window {frontend.win_length}, hop {frontend.hop}",
        f"{grid.count} patches of {config.tile[0]}x{config.tile[1]} cells every {config.stride[0]}x{config.stride[1]}, "
        f"{len(config.experts)} experts; a clip uses at most {router.k_max} experts and {router.max_pairs} of "
        f"{grid.count * len(config.experts)} pairs",
        "",
        f"{'part':<24}{'parameters':>12}{'MACs':>14}  shapes",
    ]
    table = parts(model)
    lines += [f"{item.name:<24}{item.parameters:>12,}{item.macs:>14,}  {item.shapes}" for item in table]
    expert_macs = sum(item.macs for item in table if item.name in model.bank.experts)
    floor = floor_macs(table)
    lines += [
        f"{'total':<24}{sum(p.numel() for p in model.parameters()):>12,}{'':>14}  "
        f"the experts share {sum(p.numel() for p in model.bank.trunk.parameters()):,}",
        "",
        f"floor (no pair)       {floor:>14,} MACs a clip after the frontend",
        f"dense (all pairs)     {floor + grid.count * expert_macs:>14,} MACs a clip after the frontend",
        "",
    ]
    lines.append(f"{frontend.spectrogram:<24}{backend_class(frontend.spectrogram).purpose}")
    lines += [f"{name:<24}{FAMILIES[name].purpose}" for name in config.experts]
    return "\n".join(lines) + "\n"
