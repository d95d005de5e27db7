"""A headless Chromium, driven over a pipe by the DevTools protocol, for pages that are files."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest


def chromium() -> str:
    """The browser's command; skips the test where there is none."""
    found = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
    if found is None or os.name != "posix":
        pytest.skip("no Chromium is here")
    return found


class Browser:
    """One page. ``problems`` are errors that it wrote to the console, and exceptions.

    Args:
        folder: for the browser's own files.
        size: of the window.
        dark: whether the person likes dark pages.
        microphone: whether there is one (which beeps), and pages may use it.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int] = (1280, 900), dark: bool = False, microphone: bool = False
    ) -> None:
        self.problems: list[str] = []
        self._number = 0
        self._session: str | None = None
        read_theirs, write_ours = os.pipe()
        read_ours, write_theirs = os.pipe()
        command = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        if microphone:
            command += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        command += [f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4.
        shell = f'exec 3<&{read_theirs} 4>&{write_theirs}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(read_theirs, write_theirs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        self._out, self._in = write_ours, os.fdopen(read_ours, "rb")
        self._rest = b""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        width, height = size
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._out)
        self._process.terminate()
        self._process.wait()
        self._in.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Asks the browser, and gives its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, found["error"]
                return dict(found["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in.fileno(), 1 << 20)
            assert part, "the browser went away"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        told = found.get("params", {})
        if found.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif found.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.problems.append(json.dumps(told["args"]))
        elif found.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
        return found

    def open(self, page: Path, ready: str) -> None:
        """Opens a file, and waits until an expression of JavaScript is true."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.until(ready)

    def until(self, expression: str, seconds: float = 60) -> None:
        """Waits until an expression is true."""
        self.evaluate(
            f"new Promise((done, fail) => {{ const end = Date.now() + {seconds * 1000}; const look = () => "
            f"{{ if ({expression}) done(true); else if (Date.now() > end) fail(new Error('too long')); "
            "else setTimeout(look, 50); }; look(); })"
        )

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key of that name."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def give_file(self, selector: str, path: Path) -> None:
        """Chooses a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, out: Path) -> None:
        """The whole page as PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        out.write_bytes(base64.b64decode(shot["data"]))
