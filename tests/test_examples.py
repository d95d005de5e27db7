"""The examples for other hosts answer as the runtime does, wherever their host is present."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from xaimoe_export.fuse import fuse
from xaimoe_export.graphs import seal
from xaimoe_runtime import Runtime
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.records import ResultRecord
from xaimoe_runtime.schema import LINE

EXAMPLES = Path(__file__).parents[1] / "examples"


FUSED = "fused.cpu.onnx"
"""The manifest says what the file is called."""


@pytest.fixture(scope="module")
def fused_bundle(bundle: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's bundle with the fused graph in it."""
    folder = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("examples") / "bundle"))
    manifest = runtime.manifest
    specs = [manifest.graph(role) for role in LINE] + [manifest.graph("expert", name) for name in runtime.experts]
    models = {spec.name: onnx.load(folder / spec.file) for spec in specs}
    (folder / FUSED).write_bytes(seal(fuse(models, runtime.experts, manifest.patches), "fused", {}))
    told = json.loads((folder / "manifest.json").read_text())
    told["graphs"] += [{"role": "fused", "file": f"fused.{name}.onnx", "providers": [name]} for name in ("cuda", "cpu")]
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module", params=[(0.4, 1), (1.0, 2), (2.7, 2)], ids="{0[0]} clips, {0[1]} channels".format)
def recording(request: pytest.FixtureRequest, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file of 16 bits at the model's rate, shorter and longer than a clip, clipped in one channel."""
    clips, channels = request.param
    rate, count = runtime.audio.sample_rate, round(clips * runtime.audio.clip_samples)
    time = np.arange(count) / rate
    tone = np.sin(2 * np.pi * 441 * time) * (1 + np.sin(2 * np.pi * 3 * time) / 10)
    samples = np.stack([1.3 * tone, 0.2 * tone], axis=1)[:, :channels]
    samples[round(1.4 * runtime.audio.clip_samples) :] = 0  # a window that is partly silent, and one that is silent
    path = tmp_path_factory.mktemp("wav") / "sweep.wav"
    soundfile.write(path, np.clip(samples, -1, 1), rate, subtype="PCM_16")
    return path


def wanted(runtime: Runtime, recording: Path) -> dict[str, float]:
    """The runtime's own scores."""
    classifier = FileClassifier(runtime, routing="routed")
    found = [record for record in classifier.records([recording]) if isinstance(record, ResultRecord)]
    return found[0].scores


def check(printed: str, runtime: Runtime, recording: Path) -> None:
    found = json.loads(printed)
    assert found == pytest.approx(wanted(runtime, recording), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
def test_python_without_this_package(fused_bundle: Path, runtime: Runtime, recording: Path, engine: str) -> None:
    program = EXAMPLES / "python" / "classify.py"
    assert "xaimoe" not in re.sub(r'"""(.*?)"""', "", program.read_text(), count=1, flags=re.DOTALL)
    command = [sys.executable, str(program), str(fused_bundle), str(recording), "--engine", engine]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(done.stdout, runtime, recording)


@pytest.fixture(scope="module")
def javascript(fused_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the JavaScript example with its package installed, and the bundle in it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not here")
    folder = Path(shutil.copytree(EXAMPLES / "javascript", tmp_path_factory.mktemp("javascript") / "example"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"onnxruntime-web cannot be installed: {done.stderr[-200:]}")
    shutil.copytree(fused_bundle, folder / "bundle")
    return folder


def test_a_recording_without_samples_is_refused(fused_bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), runtime.audio.sample_rate)
    command = [sys.executable, EXAMPLES / "python" / "classify.py", fused_bundle, tmp_path / "empty.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "empty.wav: no samples" in done.stderr


def test_node(javascript: Path, runtime: Runtime, recording: Path) -> None:
    command = ["node", "classify.mjs", "bundle", str(recording)]
    done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    check(done.stdout, runtime, recording)


def test_node_refuses_another_rate(javascript: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.zeros(1000), 8_000, subtype="PCM_16")
    command = ["node", "classify.mjs", "bundle", str(tmp_path / "slow.wav")]
    done = subprocess.run(command, cwd=javascript, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "8000 Hz, expected the model's" in done.stderr


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves the example; the page is whole, for the browser, once it has said so."""

    done = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/done":
            self.done.set()
        elif self.path == "/wait":
            self.done.wait(120)
        else:
            super().do_GET()
            return
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(javascript: Path) -> Iterator[str]:
    """The example's folder, served on loopback; its address."""
    page = (javascript / "index.html").read_text()
    until = "const seen = () => document.body.dataset.scores ? fetch('/done') : setTimeout(seen, 50); seen()"
    ready = f'<script type="module">{until}</script><img src="/wait" alt="" />'
    (javascript / "waiting.html").write_text(page.replace("</body>", f"{ready}</body>"))
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Server, directory=str(javascript))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_browser(javascript: Path, server: str, runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    browser = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium is here")
    shutil.copy(recording, javascript / "heard.wav")
    _Server.done.clear()
    page = f"{server}/waiting.html?bundle=bundle&audio=heard.wav"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([browser, *flags, page], capture_output=True, text=True, check=False, timeout=180)
    told = re.search(r'data-scores="([^"]*)"', done.stdout)
    assert told, f"the page says {re.findall(r'id=.status.>([^<]*)', done.stdout)}"
    check(told.group(1).replace("&quot;", '"'), runtime, recording)


def test_c(fused_bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    home = os.environ.get("ONNXRUNTIME")
    if home is None or not list(Path(home).glob("include/**/onnxruntime_c_api.h")):
        pytest.skip("ONNX Runtime's C headers are not here; set ONNXRUNTIME to the folder of a release archive")
    shutil.copytree(EXAMPLES / "c", tmp_path / "c")
    subprocess.run(["make", "-C", str(tmp_path / "c"), f"ONNXRUNTIME={home}"], check=True)
    samples = np.sin(np.arange(runtime.audio.clip_samples) * 0.05).astype(np.float32) * 0.1
    command = [
        tmp_path / "c" / "classify",
        fused_bundle / FUSED,
        str(len(samples)),
        str(runtime.audio.sample_rate),
    ]
    done = subprocess.run(command, input=samples.tobytes(), capture_output=True, check=True)
    found = [float(line) for line in done.stdout.split()]
    np.testing.assert_allclose(found, runtime.infer(samples).scores, atol=1e-4)
    for wrong, why in (("many", "SAMPLES: found many"), ("0", "SAMPLES: found 0"), (str(len(samples) + 1), "expected")):
        refused = subprocess.run([*command[:2], wrong, command[3]], input=samples.tobytes(), capture_output=True)
        assert refused.returncode in (1, 2)
        assert why in refused.stderr.decode()


def test_the_services_work_in_an_empty_folder() -> None:
    """A relative path in a crafted bundle would lead from there; the root of the system is the default."""
    unit = (EXAMPLES / "service" / "xaimoe-stream.service").read_text(encoding="utf-8").splitlines()
    assert {"RuntimeDirectory=xaimoe", "WorkingDirectory=/run/xaimoe"} <= set(unit)
    image = (EXAMPLES / "service" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert "WORKDIR /home/xaimoe" in image
