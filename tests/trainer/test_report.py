"""The report: whole in one file, safe against what a dataset may hold, and usable in a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import noise
from data.browser import Browser
from typer.testing import CliRunner

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.cli import app
from xaimoe_audio.report import gather, write_report
from xaimoe_audio.report.clips import choose, mp3_of, packed, shades_of
from xaimoe_audio.report.page import assemble
from xaimoe_runtime import BundleError, ConfigError
from xaimoe_runtime.metadata import Row

READY = "document.body?.dataset.ready === 'report'"


@pytest.fixture(scope="module")
def page(checkpoint: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    notes = write_report(checkpoint.parent, out, bundle, clips=6, device="cpu")
    assert notes == []
    return out


def row(label: str, number: int) -> Row:
    name = f"{label}{number}.wav"
    return Row(line=number, filepath=name, path=Path(name), split="test", labels=(label,), group="")


def test_clips_are_spread_over_classes_and_over_right_and_wrong_answers() -> None:
    rows = [row(label, i) for label in ("boat", "rain", "whale") for i in range(10)]
    right = [i % 10 != 4 for i in range(30)]
    chosen = choose(rows, right, 9)
    assert sorted(rows[i].labels[0] for i in chosen) == ["boat"] * 3 + ["rain"] * 3 + ["whale"] * 3
    assert sum(not right[i] for i in chosen) == 3
    assert chosen == choose(rows, right, 9)
    assert choose(rows[:2], right[:2], 9) == [0, 1]


def test_the_page_needs_no_network(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?!#|data:)[^"'>\s]+""", text.split('id="data">')[0])
    assert "default-src &#x27;none&#x27;" in text
    assert "connect-src" not in text


def test_thirty_clips_of_five_seconds_fit_into_five_megabytes() -> None:
    """Noise is what compresses worst."""
    sound, _ = mp3_of(noise(5 * 48_000), 48_000)
    map_of = len(packed(shades_of(np.random.default_rng(0).random((64, 256), np.float32))))
    assert 30 * (len(sound) + 2 * map_of) < 4.5e6


@pytest.mark.parametrize(("size", "dark"), [((1280, 900), False), ((1280, 900), True), ((360, 740), False)])
def test_the_page_works_in_a_browser(page: Path, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    with Browser(tmp_path, size, dark) as browser:
        browser.open(page, READY)
        found = browser.evaluate("[...document.querySelectorAll('section')].map((section) => section.id)")
        assert found == ["results", "inspector", "usage", "curves", "device", "dataset", "policy"]
        assert browser.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
        assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert browser.evaluate("document.querySelectorAll('.panel select')[0].options.length") == 6
        painted = "new Set(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 40, 40).data).size"
        assert browser.evaluate(painted) > 10
        browser.screenshot(tmp_path / "page.png")
        assert browser.problems == []


def test_patches_are_told_by_keyboard_and_clips_compared(page: Path, tmp_path: Path) -> None:
    told = "document.querySelectorAll('.told')[0].textContent"
    with Browser(tmp_path) as browser:
        browser.open(page, READY)
        browser.evaluate("document.querySelector('.patch').focus()")
        first = browser.evaluate(told)
        assert re.match(r"\d+\.\d\d to \d+\.\d\d s, .* Hz: saliency", first)
        browser.press("ArrowRight")
        assert browser.evaluate(told) != first
        titles = "[...document.querySelectorAll('.panel select')].map((picker) => picker.value)"
        before = browser.evaluate(titles)
        assert before[0] != before[1]
        browser.evaluate("document.querySelectorAll('.panel')[1].querySelector('[aria-label=\"Next clip\"]').click()")
        after = browser.evaluate(titles)
        assert after[0] == before[0] and after[1] != before[1]
        browser.evaluate("document.querySelector('svg.chart').focus()")
        browser.press("End")
        assert "epoch" in browser.evaluate("document.querySelector('figcaption').textContent")
        browser.evaluate("document.getElementById('theme').click()")
        assert browser.evaluate("document.documentElement.dataset.theme") == "dark"
        heard = (
            "new Promise((done) => { const sound = document.querySelector('audio'); sound.preload = 'auto'; "
            "sound.onloadedmetadata = () => done(sound.duration); sound.onerror = () => done(-1); sound.load(); })"
        )
        assert browser.evaluate(heard) > 0.5
        assert browser.problems == []


def test_what_a_dataset_holds_is_text(page: Path, checkpoint: Path, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=\"document.title='taken'\">{{scripts}}"
    content: dict[str, Any] = gather.of_run(checkpoint.parent)
    content |= {"name": hostile, "clips": [], "bundle": None, "notes": [hostile], "viridis": ["#000000", "#ffffff"]}
    content["config"]["labels"] = [hostile, *content["config"]["labels"][1:]]
    content["profile"]["warnings"] = [{"kind": hostile, "message": hostile}]
    (tmp_path / "page.html").write_text(assemble(content))
    with Browser(tmp_path / "chromium") as browser:
        browser.open(tmp_path / "page.html", READY)
        assert browser.evaluate("document.querySelectorAll('img').length") == 0
        assert hostile in browser.evaluate("document.title")
        assert browser.evaluate("document.querySelector('h1').textContent") == hostile
        assert browser.problems == []


def test_a_run_of_which_little_is_left_has_a_page(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("best.pt", "run_config.json"):
        shutil.copy(checkpoint.parent / name, tmp_path / "run")
    assert write_report(tmp_path / "run", tmp_path / "page.html", clips=0, device="cpu") == []
    with Browser(tmp_path / "chromium") as browser:
        browser.open(tmp_path / "page.html", READY)
        assert browser.problems == []


def test_recordings_that_have_moved_are_told_of(checkpoint: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoint.parent, tmp_path / "run"))
    config = (run / "run_config.json").read_text()
    (run / "run_config.json").write_text(re.sub(r'"dataset_dir": "[^"]*"', '"dataset_dir": "/gone"', config))
    (note,) = write_report(run, tmp_path / "page.html", clips=3, device="cpu")
    assert "/gone: the recordings are not there any more; give --dataset" in note


def test_a_recording_that_cannot_be_used_is_left_out_and_told(checkpoint: Path, scenes: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    tested = next(line for line in (folder / "metadata.csv").read_text().splitlines() if ",test," in line)
    (folder / tested.split(",")[0]).write_bytes(b"no sound")
    (note,) = write_report(checkpoint.parent, tmp_path / "page.html", clips=4, dataset=folder, device="cpu")
    assert note.startswith("left out of the clips: row ") and tested.split(",")[0] in note
    page = (tmp_path / "page.html").read_text()
    assert page.count('"sound":"data:audio') == 4


def test_a_bundle_of_another_checkpoint_is_refused(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoint.parent, tmp_path / "run"))
    classifier = MoEAudioClassifier.load(checkpoint, "cpu")
    with (run / "best.pt").open("ab") as file:
        file.write(b"\0")
    assert classifier.labels
    with pytest.raises(BundleError, match="found the bundle of another checkpoint"):
        write_report(run, tmp_path / "page.html", bundle, clips=0, device="cpu")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--run", "nowhere"), 2, "expected the folder of a finished training"),
        (("--run", "RUN", "--live"), 2, "expected one with a fused graph"),
        (("--run", "RUN", "--live", "--bundle", "BUNDLE"), 3, "export again with --fused"),
        (("--run", "RUN", "--curve", "curve.json"), 2, "--curve: found no --bundle"),
        (("--run", "RUN", "--onnxruntime-web", "folder"), 2, "--onnxruntime-web: found no --live"),
        (("--run", "RUN", "--bundle", "BUNDLE", "--curve", "nowhere"), 2, "calibrate --data D --curve FILE"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    checkpoint: Path, bundle: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    known = {"RUN": str(checkpoint.parent), "BUNDLE": str(bundle)}
    command = ["report", "--out", str(tmp_path / "page.html"), "--clips", "0", "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, *(known.get(argument, argument) for argument in arguments)])
    assert (result.exit_code, message in " ".join(result.stderr.split())) == (code, True), result.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_curve_is_drawn(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    point = '{"budget_ms":%s,"right":%s,"pairs":2,"degraded":0,"late":0,"p50_ms":2,"p95_ms":3}'
    curve.write_text(f"[{point % (2, 0.5)},{point % (4, 0.9)},{point % ('null', 0.9)}]")
    write_report(checkpoint.parent, tmp_path / "page.html", bundle, curve, clips=0, device="cpu")
    with Browser(tmp_path / "chromium") as browser:
        browser.open(tmp_path / "page.html", READY)
        assert "What a budget gives" in browser.evaluate("document.getElementById('device').textContent")
        assert browser.problems == []


def test_what_is_unreadable_is_named(checkpoint: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(checkpoint.parent, tmp_path / "run"))
    (run / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match=r"metrics\.json: cannot be read"):
        write_report(run, tmp_path / "page.html", clips=0, device="cpu")
