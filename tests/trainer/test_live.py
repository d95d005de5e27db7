"""The live part of the report: the bundle's fused graph in a browser answers as the runtime does."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from data import noise
from data.browser import Browser, chromium

from xaimoe_audio.report import onnxruntime_web as vendor
from xaimoe_audio.report import write_report
from xaimoe_runtime import ConfigError, Runtime

READY = "document.body?.dataset.ready === 'report'"
ANSWERED = "document.body.dataset.scores || document.body.dataset.failed"


@pytest.fixture(scope="module")
def fused(request: pytest.FixtureRequest) -> Path:
    """A bundle of the run with the fused graph, made where a browser can open its page."""
    chromium()
    try:
        vendor.onnxruntime_web()
    except ConfigError as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")
    made: Path = request.getfixturevalue("fused_bundle")
    return made


@pytest.fixture(scope="module")
def page(checkpoint: Path, fused: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("live") / "report.html"
    write_report(checkpoint.parent, out, fused, clips=0, live=True, device="cpu")
    return out


@pytest.mark.parametrize(("clips", "channels"), [(0.4, 1), (1.0, 1), (2.7, 2)])
def test_the_page_answers_as_the_runtime_does(
    page: Path, fused: Path, tmp_path: Path, clips: float, channels: int
) -> None:
    runtime = Runtime.load(fused, "cpu")
    rate, count = runtime.audio.sample_rate, round(clips * runtime.audio.clip_samples)
    tone = 0.3 * np.sin(2 * np.pi * 441 * np.arange(count) / rate) + noise(count)
    samples = np.stack([1.5 * tone, 0.5 * tone], axis=1)[:, :channels]
    soundfile.write(tmp_path / "heard.wav", np.clip(samples, -1, 1), rate, subtype="PCM_16")
    mono = soundfile.read(tmp_path / "heard.wav", dtype="float32", always_2d=True)[0].mean(1)
    wanted = runtime.infer(mono, rate)
    with Browser(tmp_path / "chromium") as browser:
        browser.open(page, READY)
        browser.give_file("#own-file", tmp_path / "heard.wav")
        browser.until(ANSWERED)
        assert browser.evaluate("document.body.dataset.failed") is None
        found = json.loads(browser.evaluate("document.body.dataset.scores"))
        assert list(found) == list(runtime.labels)
        assert list(found.values()) == pytest.approx(wanted.scores.tolist(), abs=1e-3)
        assert max(found, key=found.__getitem__) == wanted.labels[0]
        assert (
            browser.evaluate("document.querySelectorAll('#live .patch').length") == runtime.manifest.patches.grid.count
        )
        assert browser.problems == []


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("flac", {"format": "FLAC"}),
        ("ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("mp3", {"format": "MP3", "subtype": "MPEG_LAYER_III"}),
    ],
)
def test_a_file_of_another_format_is_heard_at_its_own_rate(
    page: Path, fused: Path, tmp_path: Path, ending: str, how: dict[str, str]
) -> None:
    """The rate is an input of the graphs; a decoder of a browser would make 48 kHz of it."""
    runtime = Runtime.load(fused, "cpu")
    rate, count = runtime.audio.sample_rate, 2 * runtime.audio.clip_samples
    samples = 0.3 * np.sin(2 * np.pi * 441 * np.arange(count) / rate) + noise(count)
    path = tmp_path / f"heard.{ending}"
    soundfile.write(path, samples, rate, **how)
    wanted = runtime.infer(soundfile.read(path, dtype="float32")[0], rate)
    with Browser(tmp_path / "chromium") as browser:
        browser.open(page, READY)
        browser.give_file("#own-file", path)
        browser.until(ANSWERED)
        found = json.loads(browser.evaluate("document.body.dataset.scores"))
        assert list(found.values()) == pytest.approx(wanted.scores.tolist(), abs=2e-3 if ending == "flac" else 0.05)
        content = base64.b64encode(path.read_bytes()).decode()
        assert browser.evaluate(f"nativeRate(bytes('{content}').buffer)") == rate


def test_the_microphone_is_heard_by_a_page_that_is_a_file(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "chromium", microphone=True) as browser:
        browser.open(page, READY)
        browser.evaluate("document.querySelector('#live button').click()")
        browser.until(ANSWERED)
        assert browser.evaluate("document.body.dataset.failed") is None
        assert sum(json.loads(browser.evaluate("document.body.dataset.scores")).values()) == pytest.approx(1, abs=1e-3)
        assert browser.problems == []


def test_without_a_microphone_it_is_said_what_to_do(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "chromium") as browser:
        browser.open(page, READY)
        browser.evaluate("document.querySelector('#live button').click()")
        browser.until(ANSWERED)
        told = browser.evaluate("document.querySelector('#live [aria-live]').textContent")
        assert told.startswith("Microphone: ") and told.endswith("see that one is connected.")


def test_what_is_no_recording_is_told(page: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with Browser(tmp_path / "chromium") as browser:
        browser.open(page, READY)
        browser.give_file("#own-file", tmp_path / "text.wav")
        browser.until(ANSWERED)
        told = browser.evaluate("document.querySelector('#live [aria-live]').textContent")
        assert "text.wav" in told and "A recording that the browser can play is expected" in told


class Answer:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, most: int) -> bytes:
        return self.content[:most]


def test_a_package_that_npm_did_not_publish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(b"another package"))
    with pytest.raises(ConfigError, match="it is not what npm published"):
        vendor.onnxruntime_web()
    assert not list(tmp_path.rglob("*.wasm"))


def test_without_a_network_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ConfigError, match="give --onnxruntime-web FOLDER"):
        vendor.onnxruntime_web()
    with pytest.raises(ConfigError, match="expected the npm package onnxruntime-web, unpacked"):
        vendor.onnxruntime_web(tmp_path)
