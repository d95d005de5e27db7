"""Figures of recordings from a bundle alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.inference import check_routing, file_windows, hop_samples, inputs_of, run_windows
from xaimoe_runtime.mixing import on_host
from xaimoe_runtime.pictures import Heard, answer_title, write_pictures
from xaimoe_runtime.result import decide
from xaimoe_runtime.runtime import Runtime


def illustrate(
    runtime: Runtime, path: Path, stem: str, folder: Path, routing: str | None, channel: str, hop_s: float | None = None
) -> list[Path]:
    """Draws the window of a recording with the clearest answer: ``STEM-saliency_router``, ``STEM-patch_routing`` and
    ``STEM-patch_grid``, as PNG and SVG; gives the files.

    Raises:
        AudioError: the recording cannot be used.
        ConfigError: the folder cannot be written, or each channel is asked for.
        ProviderError: matplotlib is missing.
    """
    picked = parse_channel(channel)
    if picked == "each":
        raise ConfigError("--figures: found --channel each, expected mix or the number of a channel")
    if runtime.manifest.patches.source != "spectrogram":
        raise ConfigError("--figures: the bundle's patches are cut from a feature map, which has no axes to draw")
    answers = (
        (window, run_windows(runtime, [window], check_routing(routing or runtime.routing)))
        for _, window in file_windows(path, runtime.audio, picked, hop_samples(hop_s, runtime.audio))
    )
    window, outputs = max(answers, key=lambda answer: float(answer[1].scores.max()))
    manifest, scores = runtime.manifest, outputs.scores[0]
    waveform, source = inputs_of([window])
    sound = runtime.dispatcher.frontend(waveform=waveform, source=source)
    heard = Heard(
        spectrogram=on_host(sound["spectrogram"])[0, 0],
        centres_hz=np.array(manifest.frontend.centres_hz, np.float32),
        start_s=window.start_s,
        end_s=window.end_s,
        frame_s=manifest.audio.frame_hop / manifest.audio.sample_rate,
        grid=manifest.patches.grid,
        saliency=outputs.saliency[0],
        gates=outputs.gates[0],
        experts=runtime.experts,
        answer=answer_title(decide(scores, runtime.task), scores, f"best score {scores.max():.2f}"),
    )
    return write_pictures(heard, folder, f"{stem}-")


def stems(paths: list[Path]) -> list[str]:
    """A name for the figures of each recording: its own without its ending, numbered where others have the same."""
    found: dict[str, None] = {}
    numbers: dict[str, int] = {}
    for path in paths:
        stem, n = path.stem, numbers.get(path.stem, 1)
        while stem in found:
            n += 1
            stem = f"{path.stem}-{n}"
        found[stem], numbers[path.stem] = None, n
    return list(found)
