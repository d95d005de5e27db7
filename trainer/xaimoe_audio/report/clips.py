"""The clips of the inspector: sound, spectrogram, saliency and routing, small enough for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.explaining import Explanation, explain_recording
from xaimoe_runtime.console import progress
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.files import printable
from xaimoe_runtime.metadata import Row
from xaimoe_runtime.pictures import LOUD, QUIET

Floats = NDArray[np.float32]
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
PEAK = 0.9
"""To which a clip is made louder or softer for listening."""
MP3_SIZE = 0.7
"""libsndfile's compression, 0 is the largest file."""


def choose(rows: Sequence[Row], right: Sequence[bool], count: int) -> list[int]:
    """Numbers of up to ``count`` recordings to look into, rising: class by class in turn, within a class first one that
    was answered wrong, then by turns.

    Args:
        rows: of the table.
        right: whether each was answered right.
        count: how many are wanted.
    """
    of_class: dict[str, list[int]] = {}
    for label in sorted({"|".join(row.labels) for row in rows}):
        own = [i for i, row in enumerate(rows) if "|".join(row.labels) == label]
        wrong, good = [i for i in own if not right[i]], [i for i in own if right[i]]
        turns = [i for pair in zip(wrong, good, strict=False) for i in pair]
        of_class[label] = [*turns, *wrong[len(good) :], *good[len(wrong) :]]
    rounds = max(map(len, of_class.values()), default=0)
    dealt = [own[turn] for turn in range(rounds) for own in of_class.values() if turn < len(own)]
    return sorted(dealt[:count])


def clips_of(
    engine: TorchEngine, rows: Sequence[Row], channel: str = "mix"
) -> tuple[list[dict[str, Any]], list[AudioError]]:
    """What the inspector shows of recordings, and why others cannot be used.

    Raises:
        ConfigError: no such channel.
        ProviderError: captum is installed but broken.
    """
    method = "gradcam" if find_spec("captum") is not None else "saliency"
    found, refused = [], []
    with progress("explaining clips", len(rows)) as advance:
        for row in rows:
            try:
                explanation = explain_recording(engine, row.path, method, channel=channel)
            except AudioError as error:
                refused.append(error)
            else:
                told = {"path": printable(row.path.name), "truth": list(row.labels)}
                found.append(_clip(engine, explanation) | told)
            advance()
    return found, refused


def _clip(engine: TorchEngine, explanation: Explanation) -> dict[str, Any]:
    heard, scores = explanation.heard, explanation.scores
    order = np.argsort(-scores, kind="stable")
    patches, experts = np.nonzero(heard.gates)
    sound, louder_db = mp3_of(explanation.samples, engine.audio.sample_rate)
    clip = {
        "answer": list(explanation.answer),
        "label": explanation.label,
        "scores": [[engine.task.labels[i], round(float(scores[i]), 4)] for i in order[:5]],
        "start_s": heard.start_s,
        "end_s": heard.end_s,
        "spectrogram": packed(shades_of(heard.spectrogram)),
        "saliency": [round(float(value), 4) for value in heard.saliency],
        "pairs": [[int(p), int(e), round(float(heard.gates[p, e]), 4)] for p, e in zip(patches, experts, strict=True)],
        "sound": sound,
        "louder_db": louder_db,
    }
    for name, values in explanation.maps.items():
        positive = np.maximum(values, 0)
        top = float(np.percentile(positive, LOUD))
        clip[name] = packed(np.minimum(positive / top, 1) * 255 if top > 0 else positive)
    return clip


def geometry(engine: TorchEngine, centres_hz: Floats) -> dict[str, Any]:
    """What all clips have in common: axes, where each patch answers, the experts' names, and from which score a label
    is answered (any number a recording)."""
    model, config = engine.model, engine.model.config.frontend
    rows, columns = model.grid.territories()
    return {
        "bands": model.grid.rows,
        "frames": model.grid.columns,
        "frame_s": config.hop / config.sample_rate,
        "centres_hz": [round(float(hz), 1) for hz in centres_hz],
        "row_edges": _edges(rows),
        "column_edges": _edges(columns),
        "experts": list(engine.experts),
        "thresholds": dict(zip(engine.task.labels, engine.task.thresholds, strict=False)),
        "sample_rate": config.sample_rate,
    }


def _edges(nearest: NDArray[np.intp]) -> list[int]:
    """Where each patch's part begins, and the end."""
    return [0, *(np.flatnonzero(np.diff(nearest)) + 1).tolist(), len(nearest)]


def shades_of(spectrogram: Floats) -> Floats:
    """A spectrogram as shades, 0 to 255, the quietest and the loudest cells cut off."""
    low, high = np.percentile(spectrogram, [QUIET, LOUD])
    shades: Floats = np.clip((spectrogram - low) / max(high - low, 1e-6), 0, 1) * np.float32(255)
    return shades


def packed(shades: Floats) -> str:
    """Shades 0 to 255 [F, T] as bytes in base64, row by row."""
    return base64.b64encode(np.round(shades).astype(np.uint8).tobytes()).decode()


def mp3_of(samples: Floats, rate: int) -> tuple[str, float]:
    """A sound for the browser, as a data URL, and by how many decibels it was made louder."""
    wanted = next((known for known in MP3_RATES if known >= rate), MP3_RATES[-1])
    sound = soxr.resample(samples, rate, wanted) if wanted != rate else samples
    peak = float(np.abs(sound).max())
    gain = PEAK / peak if peak > 0 else 1.0
    file = io.BytesIO()
    soundfile.write(
        file,
        sound * gain,
        wanted,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=MP3_SIZE,
    )
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode(), round(20 * float(np.log10(gain)), 1)
