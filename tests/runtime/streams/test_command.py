"""``xaimoe-runtime stream``: a real process with pipes, datagrams and signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import noise, write_wav
from data.bundles import EditableBundle
from data.commands import call

from xaimoe_runtime import Runtime
from xaimoe_runtime.streams.command import _stopped_by_signals

COMMAND = [sys.executable, "-c", "from xaimoe_runtime.cli import run; run()", "stream"]


def lines(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def begun(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def raw(samples: np.ndarray[Any, Any]) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def test_a_file_is_streamed(bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(3 * runtime.audio.clip_samples), runtime.audio.sample_rate)
    result = call("stream", bundle, path, "--hop", "0.5", "--threshold", "0.01", "--summary-every", "1000")
    assert result.exit_code == 0, result.stderr
    found = lines(result.stdout)
    windows = [r for r in found if r["kind"] == "window"]
    wanted = list(runtime.infer_file(path, 0.5))
    assert [w["labels"] for w in windows] == [list(w.result.labels) for w in wanted]
    assert {r["kind"] for r in found} == {"window", "event", "summary"}
    assert found[-1]["windows"] == len(windows)
    only = lines(call("stream", bundle, path, "--hop", "0.5", "--threshold", "0.01", "--only-events").stdout)
    assert {r["kind"] for r in only} == {"event", "summary"}


def test_a_hop_that_skips_sound_is_a_warning_and_ends_with_0(
    hand_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = call("stream", hand_bundle, write_wav(tmp_path / "a.wav", noise(2_000), 1_000), "--hop", "0.768")
    assert result.exit_code == 0
    assert lines(result.stdout)[-1]["skipped_s"] == pytest.approx(2 * 0.384 + 0.08)
    assert "counted as skipped_s" in caplog.text


def test_events_go_by_the_bundles_settings_unless_told_otherwise(editable: EditableBundle, tmp_path: Path) -> None:
    labels = editable.manifest["task"]["labels"]
    path = write_wav(tmp_path / "a.wav", noise(60_000))
    editable.manifest["events"] = {"on": dict.fromkeys(labels, 0.01), "off": 0.5, "smooth": 2, "min_duration_s": 0.0}
    editable.save()

    def heard(*options: object) -> set[str]:
        records = lines(call("stream", editable.path, path, "--only-events", *options).stdout)
        return {record["label"] for record in records if record["kind"] == "event"}

    assert heard() == set(labels)
    assert heard("--threshold", f"{labels[0]}=1.0") == set(labels[1:])
    assert heard("--min-duration", 1000) == set()


def test_a_bundle_whose_event_settings_are_none_is_refused(editable: EditableBundle) -> None:
    editable.manifest["events"]["on"] = {"unicorn": 0.5}
    result = call("stream", editable.save(), "a.wav")
    assert result.exit_code == 3
    assert "found thresholds for unicorn" in result.stderr


def test_records_are_appended_to_a_file(bundle: Path, tmp_path: Path) -> None:
    path, out = write_wav(tmp_path / "a.wav", noise(30_000)), tmp_path / "out.jsonl"
    for _ in range(2):
        result = call("stream", bundle, path, "--out", out)
        assert result.exit_code == 0 and result.stdout == ""
    assert [r["kind"] for r in lines(out.read_bytes())].count("summary") == 2


def test_raw_samples_come_through_a_pipe(bundle: Path, runtime: Runtime) -> None:
    samples = noise(2 * runtime.audio.clip_samples, level=0.1)
    with begun(bundle, "-", "--rate", runtime.audio.sample_rate, "--budget-ms", "500") as process:
        out, err = process.communicate(raw(samples), timeout=60)
    assert process.returncode == 0, err
    windows = [r for r in lines(out) if r["kind"] == "window"]
    assert len(windows) == 2
    assert windows[0]["source"] == "-" and windows[0]["latency_ms"] > 0
    wanted = runtime.infer(np.trunc(samples[: runtime.audio.clip_samples] * 32767).astype(np.float32) / 32768)
    assert list(windows[0]["scores"].values()) == pytest.approx(wanted.scores.tolist(), abs=1e-3)


def test_a_recording_through_a_pipe_that_can_wait_is_heard_whole(bundle: Path, runtime: Runtime) -> None:
    rate, seconds = runtime.audio.sample_rate, 30
    with begun(bundle, "-", "--rate", rate, "--hop", "0.1", "--buffer", "1", "--wait") as process:
        out, err = process.communicate(raw(noise(seconds * rate)), timeout=60)
    assert process.returncode == 0, err
    *_, summary = lines(out)
    assert (summary["dropped"], summary["lost_s"], summary["errors"]) == (0, 0, 0)
    assert summary["windows"] >= seconds * 10 - runtime.audio.clip_samples / rate * 10


def test_records_that_were_lost_are_no_success(bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    path = write_wav(tmp_path / "a.wav", noise(2 * runtime.audio.clip_samples), runtime.audio.sample_rate)
    result = call("stream", bundle, path, "--out", "/dev/full")
    assert result.exit_code == 1
    assert "records were lost" in result.stderr


def test_threads_that_compute_have_the_priority_too(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("xaimoe_runtime.streams.service.use_fifo", lambda priority: order.append(f"fifo {priority}"))
    load = Runtime.load
    monkeypatch.setattr(Runtime, "load", lambda *given: (order.append("load"), load(*given))[1])
    call("stream", bundle, "none.wav", "--fifo", 50)
    assert order == ["fifo 50", "load"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (getattr(signal, "SIGHUP", signal.SIGTERM), 0)]
)
def test_signals_end_it_cleanly(bundle: Path, runtime: Runtime, number: int, code: int) -> None:
    with begun(bundle, "-", "--rate", runtime.audio.sample_rate) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(raw(noise(3 * runtime.audio.clip_samples // 2, level=0.1)))
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(30) == code
    found = lines(first + rest)
    assert [r["kind"] for r in found if r["kind"] != "event"] == ["window", "window", "summary"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_a_terminal_that_hangs_up_does_not_end_what_nohup_began() -> None:
    class Stopped:
        count = 0

        def stop(self) -> None:
            self.count += 1

    listener = Stopped()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stopped_by_signals(listener):  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGHUP)
            assert listener.count == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with _stopped_by_signals(listener) as came:  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGHUP)
            assert (listener.count, came) == (1, {signal.SIGHUP})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_rtp_that_is_lost_on_the_way_is_counted(hand_bundle: Path) -> None:
    """A second of 1000 Hz in packets of 10 ms, of which two are lost, in a real process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--rate", 1000, "--from", "127.0.0.0/8"]
    with begun(hand_bundle, f"rtp://127.0.0.1:{port}", *options) as process:
        assert process.stderr is not None and process.stdout is not None
        assert b"listening to rtp://" in process.stderr.readline()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for i in [*range(50), *range(52, 100)]:
                header = bytes([0x80, 96]) + (65_500 + i & 0xFFFF).to_bytes(2, "big") + (10 * i).to_bytes(4, "big")
                sender.sendto(header + bytes(4) + raw(noise(10, seed=i, level=0.1))[::-1], ("127.0.0.1", port))
                time.sleep(0.01)
        time.sleep(0.5)
        process.terminate()
        out = process.stdout.read()
        assert process.wait(60) == 0
    found = lines(out)
    assert found[-1]["lost_s"] == pytest.approx(0.02) and found[-1]["audio_s"] == pytest.approx(0.98)
    assert any("2 datagram(s) were lost, 0.02 s" in r["message"] for r in found if r["kind"] == "error")
    assert sum(r["lost_s"] for r in found if r["kind"] == "window") >= 0.02


def test_datagrams_are_heard(bundle: Path, runtime: Runtime) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rate = runtime.audio.sample_rate
    with begun(bundle, f"udp://127.0.0.1:{port}", "--rate", rate) as process:
        assert process.stderr is not None and process.stdout is not None
        assert b"listening to udp://" in process.stderr.readline()
        data = raw(noise(runtime.audio.clip_samples + 400, level=0.1))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for start in range(0, len(data), 1400):
                sender.sendto(data[start : start + 1400], ("127.0.0.1", port))
                time.sleep(0.001)
            sender.sendto(b"odd", ("127.0.0.1", port))
        kinds = {json.loads(process.stdout.readline())["kind"] for _ in range(2)}
        process.terminate()
        assert process.wait(30) == 0
        assert process.stdout.read()
    assert kinds >= {"window"}


def test_a_reader_that_goes_away_ends_it(bundle: Path, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(400_000))
    with begun(bundle, path, "--hop", "0.02") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(30) == 1
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.wav"], 1, "no such file"),
        (["-"], 2, "--rate"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--threshold", "cow=0.5"], 2, "cow"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--threshold", "loud"], 2, "LABEL=SCORE"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--channel", "7"], 1, "expected channel 7"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--hop", "0"], 2, "hop"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--dead-after", "0"], 2, "dead_s"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--mqtt", "host"], 2, "mqtt://HOST"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--mqtt-ca", "ca.pem"], 2, "without --mqtt"),
        (
            ["udp://127.0.0.1:0", "--rate", 8000, "--mqtt", "mqtts://host/t", "--mqtt-ca", "none.pem"],
            2,
            "cannot be read",
        ),
        (["udp://127.0.0.1:0", "--rate", 8000, "--from", "here"], 2, "--from"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--header-bytes", "4", "--counter", "4:u8"], 2, "--header-bytes is 4"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--prometheus", "here"], 2, "HOST:PORT"),
        (["udp://127.0.0.1:0", "--rate", 1], 1, "sampling rate of 1 Hz"),
        (["udp://127.0.0.1:0", "--rate", 8000, "--out", "/dev/null/x"], 2, "cannot be written"),
    ],
)
def test_wrong_use_is_one_line_and_its_exit_code(
    bundle: Path, arguments: list[object], code: int, message: str
) -> None:
    result = call("stream", bundle, *arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]


def test_a_file_that_breaks_ends_with_what_was_heard(bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    import soundfile

    path = tmp_path / "cut.flac"
    soundfile.write(path, noise(10 * runtime.audio.clip_samples), runtime.audio.sample_rate)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = call("stream", bundle, path)
    assert result.exit_code == 1
    found = lines(result.stdout)
    assert found[-1]["kind"] == "summary" and found[-1]["windows"] >= 3
    assert "cut.flac" in result.stderr.splitlines()[-1]
