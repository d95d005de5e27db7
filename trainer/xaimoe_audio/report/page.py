"""Puts the page into one file: what was gathered, with its styles and scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from xaimoe_audio import run
from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_audio.config import Split
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.engine import TorchEngine, resolve_device
from xaimoe_audio.report import gather
from xaimoe_audio.report.clips import choose, clips_of, geometry
from xaimoe_audio.report.live import live_parts
from xaimoe_audio.training.assess import answer
from xaimoe_runtime.defects import MAX_LISTED
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.result import decide
from xaimoe_runtime.writing import check_writable, replacing

SCRIPTS = ("elements.js", "charts.js", "sections.js", "panel.js", "inspector.js")
LIVE_SCRIPT, MAIN_SCRIPT = "live.js", "main.js"
VIRIDIS = 33
"""Colours of the map that the page interpolates between."""
TEST: tuple[Split, ...] = ("test",)


def write_report(
    run_folder: Path,
    out: Path,
    bundle: Path | None = None,
    curve: Path | None = None,
    clips: int = 30,
    dataset: Path | None = None,
    metadata: Path | None = None,
    live: bool = False,
    onnxruntime_web: Path | None = None,
    device: str = "auto",
) -> list[str]:
    """Writes the page, which needs no network.

    Args:
        run_folder: of a finished training.
        out: the file.
        bundle: of the run's model; shows its graphs, and what they cost on this device.
        curve: of ``xaimoe-runtime calibrate --data D --curve FILE``.
        clips: test recordings to look into; 0 for none.
        dataset: folder of the recordings, if they have moved since the training.
        metadata: their table, likewise.
        live: embeds the bundle's ``fused.onnx`` and ONNX Runtime for browsers.
        onnxruntime_web: folder of the npm package ``onnxruntime-web``, unpacked; else it is fetched once, and kept.
        device: ``auto``, ``cuda`` or ``cpu``, for the explanations.

    Returns:
        What is missing in the page, and why.

    Raises:
        BundleError: the checkpoint or bundle is refused, the bundle is of another checkpoint, or has no fused graph.
        ConfigError: the folder holds no run, an option makes no sense, or the file cannot be written.
    """
    if live and bundle is None:
        raise ConfigError("--live: found no --bundle, expected one with a fused graph (xaimoe-audio export --fused)")
    if curve is not None and bundle is None:
        raise ConfigError("--curve: found no --bundle, expected the one that the curve was measured with")
    if onnxruntime_web is not None and not live:
        raise ConfigError("--onnxruntime-web: found no --live, which is what needs it; give both or neither")
    check_writable(out)
    content: dict[str, Any] = gather.of_run(run_folder)
    checkpoint = load_checkpoint(run_folder / run.BEST)
    engine = TorchEngine.of(checkpoint, resolve_device(device))
    centres = engine.model.frontend.window.backend.centres().float().cpu().numpy()
    content |= {"geometry": geometry(engine, centres), "viridis": _viridis(), "clips": [], "bundle": None}
    notes: list[str] = []
    if bundle is not None:
        content["bundle"] = gather.of_bundle(bundle, checkpoint, curve)
    if clips:
        try:
            content["clips"], left_out = _inspected(engine, run_folder, clips, dataset, metadata)
            notes += [f"left out of the clips: {why}" for why in left_out[:MAX_LISTED]]
            notes += [f"and {more} more"] if (more := len(left_out) - MAX_LISTED) > 0 else []
        except DatasetError as error:
            notes.append(f"no clips to look into: {error}")
    content["notes"] = notes
    embedded = live_parts(bundle, onnxruntime_web) if live and bundle is not None else None
    page = assemble(content, embedded)
    with replacing(out) as file:
        file.write(page.encode())
    return notes


def _inspected(
    engine: TorchEngine, run_folder: Path, count: int, dataset: Path | None, metadata: Path | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Clips of the test split, and why others are not among them."""
    config = json.loads((run_folder / run.RUN_CONFIG).read_text(encoding="utf-8"))
    folder = dataset or Path(config["dataset_dir"])
    table = metadata or (dataset / "metadata.csv" if dataset else Path(config["metadata_csv"]))
    if not folder.is_dir() or not table.is_file():
        raise DatasetError(f"{folder}: the recordings are not there any more; give --dataset (and --metadata)")
    channel = config["channel"] if config["channel"] != "each" else "mix"
    left_out: list[str] = []
    rate, kind = engine.audio.sample_rate, engine.task.kind
    data = load_dataset(folder, table, kind, rate, channel, splits=TEST, required=TEST, refused=left_out.append)
    items = list(data.items)
    scores = answer(engine, items, "routed").scores
    right = [set(decide(row, engine.task)) == set(item.row.labels) for row, item in zip(scores, items, strict=True)]
    rows = [item.row for item in items]
    found, refused = clips_of(engine, [rows[i] for i in choose(rows, right, count)], channel)
    return found, [*left_out, *map(str, refused)]


def _viridis() -> list[str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](place)) for place in np.linspace(0, 1, VIRIDIS)]


def assemble(content: dict[str, Any], embedded: str | None = None) -> str:
    """The page's HTML.

    What comes from the dataset is never taken for markup: it is data, with ``<`` escaped, and scripts put it on the
    page as text. Only the page's own scripts and styles may run, each by its hash, and nothing may be fetched.

    Args:
        content: what the scripts read.
        embedded: elements with the files that the live part needs, which runs WebAssembly and may use the microphone;
            None for a page without it.
    """
    live = embedded is not None
    scripts = [*SCRIPTS, *([LIVE_SCRIPT] if live else []), MAIN_SCRIPT]
    own = files("xaimoe_audio.report") / "assets"
    style = (own / "page.css").read_text(encoding="utf-8")
    code = [(own / name).read_text(encoding="utf-8") for name in scripts]
    policy = [
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        "script-src "
        + " ".join(f"'{_hash(text)}'" for text in code)
        + (" 'wasm-unsafe-eval' blob: data:" if live else ""),
        "media-src data: blob:",
        "img-src data:",
        *(["worker-src blob:", "connect-src data: blob:"] if live else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "policy": html.escape("; ".join(policy)),
        "title": html.escape(str(content["name"])),
        "style": style,
        "embedded": embedded or "",
        "data": data,
        "scripts": "\n".join(f"<script>{text}</script>" for text in code),
    }
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], (own / "page.html").read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    """Of an inline script or style, as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
