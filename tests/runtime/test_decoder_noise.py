"""The private streams of a command, and the lines of decoders that they keep out of its records."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xaimoe_runtime.decoder_noise import DECODER_LINE, DecoderNoise, private_streams

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are redirected on POSIX alone")

COMMAND = """
import ctypes, os, subprocess, sys
from xaimoe_runtime.decoder_noise import private_streams
libc = ctypes.CDLL(None)
with private_streams():
    print('{"kind": "result"}')
    libc.printf(b"Error A : %02X\\n", 1)  # libsndfile's SDS reader, into the C library's buffer
    os.write(2, b"Note: Trying to resync...\\n" * 300)
    os.write(2, b"[src/libmpg123/layer3.c:INT123_do_layer3():1804] error: dequantization failed!\\n")
    os.write(2, b"[E:onnxruntime:, provider.cc:1] no CUDA\\n")
    os.write(1, b"a library said this\\n")
    subprocess.run([sys.executable, "-c", "import os; os.write(1, b'a child said this' + bytes([10]))"], check=True)
    print('{"kind": "summary"}')
    print("a message", file=sys.stderr)
    sys.exit(7)
"""


def test_private_streams_keep_decoder_lines_out_of_both_streams() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7
    assert done.stdout == '{"kind": "result"}\n{"kind": "summary"}\n'
    lines = done.stderr.splitlines()
    assert sorted(lines[:-1]) == [
        "[E:onnxruntime:, provider.cc:1] no CUDA",
        "a child said this",
        "a library said this",
        "a message",
    ]
    assert lines[-1].startswith("decoders printed 302 line(s), first: ")


def test_private_streams_end_cleanly_when_the_reader_of_stdout_went_away() -> None:
    script = (
        "from xaimoe_runtime.decoder_noise import private_streams\nwith private_streams():\n    print('x' * 100_000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) != 0
        assert process.stderr is not None
        assert "BrokenPipeError" in process.stderr.read()


def test_private_streams_leave_a_captured_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with private_streams():
        assert sys.stdout is before
        sys.stdout.write("line\n")
    assert capsys.readouterr().out == "line\n"


@pytest.mark.parametrize(
    ("line", "is_noise"),
    [
        (b"Note: Illegal Audio-MPEG-Header 0xfffbefc4 at offset 1719.\n", True),
        (
            b"Warning: Xing stream size off by more than 1%, fuzzy seeking may be even more fuzzy than by design!\n",
            True,
        ),
        (b"[src/libmpg123/parse.c:do_readahead():1204] warning: Cannot read next header, a one-frame stream?\n", True),
        (b"Error 7 : 0D\n", True),
        (b"Error: no space left on device\n", False),
        (b"2026-11-28 12:00:00.0 [E:onnxruntime:Default, provider_bridge_ort.cc:2195 TryGetProviderInfo] x\n", False),
        (b"Fatal Python error: Segmentation fault\n", False),
    ],
)
def test_decoder_line_matches_decoders_alone(line: bytes, is_noise: bool) -> None:
    assert bool(DECODER_LINE.match(line)) is is_noise


def test_decoder_noise_describes_nothing_when_nothing_was_caught() -> None:
    noise = DecoderNoise()
    assert noise.describe() == ""
    noise.take(b"Error A : 01\n")
    assert noise.describe() == "decoders printed 1 line(s), first: Error A : 01"
