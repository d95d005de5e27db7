"""Decodes mutated recordings in a process that is watched: none may crash it, take long, or take much memory.

Run by hand, from the root of the repository:

    PYTHONPATH=tests python tests/fuzz/recordings.py --count 100000 --seed 0

Each mutation is named by the seed and its number, so that one that fails can be made again (``--first N --count 1``);
it is kept in ``--keep``, too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from data.damaged import encoded, flac_of_unknown_length, id3, mp3, ogg_without_end, tone, wav

MAX_CPU_S = 5.0
"""Time of the processor that one recording may take."""
MAX_WALL_S = 60.0
"""Time by the clock, on a machine that is busy with other things."""
MAX_MEMORY_BYTES = 500_000_000
"""Data that the process may hold."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
"""That break what is computed from a header's fields."""


def seeds() -> dict[str, bytes]:
    """Whole recordings of the containers and codings that are read."""
    sound, short = tone(0.3), tone(0.1, seed=1)
    stereo = np.stack([sound, sound], 1)
    found = {
        f"{kind} {subtype}": encoded(sound if i % 2 else stereo, kind=kind, subtype=subtype)
        for i, (kind, subtype) in enumerate(
            [
                ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
                ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"),
                ("AIFF", "FLOAT"), ("AIFF", "IMA_ADPCM"), ("AU", "PCM_16"), ("AU", "ALAW"), ("CAF", "PCM_16"),
                ("CAF", "ALAC_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
                ("MP3", "MPEG_LAYER_III"), ("NIST", "PCM_16"), ("VOC", "PCM_16"), ("SVX", "PCM_16"),
                ("VOC", "ULAW"), ("SDS", "PCM_16"), ("AVR", "PCM_16"), ("WVE", "ALAW"), ("MAT4", "PCM_16"),
                ("XI", "DPCM_16"), ("MAT5", "FLOAT"), ("PVF", "PCM_16"), ("MPC2K", "PCM_16"), ("IRCAM", "PCM_16"),
            ]
        )
    }  # fmt: skip
    found["WAV GSM"] = encoded(sound, 8_000, "WAV", "GSM610")
    found["WAV never finished"] = wav(sound, 0)
    found["WAV joined"] = wav(sound) + wav(short)
    found["FLAC of unknown length"] = flac_of_unknown_length(sound)
    found["FLAC of unknown length, padded"] = flac_of_unknown_length(sound) + bytes(5_000)
    found["FLAC joined"] = encoded(sound, kind="FLAC") + encoded(short, kind="FLAC")
    found["OGG chained"] = encoded(sound, kind="OGG") + encoded(short, kind="OGG")
    found["OGG without end"] = ogg_without_end(encoded(sound, kind="OGG"))
    found["MP3 without count"] = mp3(sound, 16_000, info=False)
    found["MP3 with a tag"] = mp3(sound, 16_000, info=False) + b"LYRICSBEGIN" + b"la " * 2_000 + b"LYRICSEND"
    found["MP3 joined"] = mp3(sound, 16_000) + id3() + mp3(short, 16_000, info=False)
    return found


def mutate(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One to four changes of a recording."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(changed)
        if size < 8:
            break
        # Half of the changes are near the beginning, where headers are.
        at = int(rng.integers(min(size, 200))) if rng.random() < 0.5 else int(rng.integers(size))
        kind = rng.integers(9)
        if kind == 0:
            for place in rng.integers(0, size, rng.integers(1, 30)):
                changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at] = int(rng.integers(256))
        elif kind == 2:
            number = int(rng.choice(NUMBERS)) if rng.random() < 0.7 else int(rng.integers(1 << 32))
            changed[at : at + 4] = struct.pack(rng.choice(["<I", ">I"]), number)
        elif kind == 3:
            del changed[at:]
        elif kind == 4:
            del changed[at : at + int(rng.integers(1, 300))]
        elif kind == 5:
            changed[at:at] = rng.bytes(int(rng.integers(1, 300)))
        elif kind == 6:
            other = others[rng.integers(len(others))]
            changed[at:] = other[min(at, len(other)) :]
        elif kind == 7:
            changed += changed[at : at + int(rng.integers(1, 5_000))]
        else:
            changed += others[rng.integers(len(others))]
    return bytes(changed)


def work(connection: Connection, folder: str) -> None:
    """Decode the recordings that come, until none do; answer with the outcome, time and memory of each."""
    from xaimoe_runtime.audio import open_recording, read_blocks, windows
    from xaimoe_runtime.errors import AudioError
    from xaimoe_runtime.schema import AudioSpec

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # what decoders say of broken files
    spec = AudioSpec(sample_rate=16_000, clip_samples=16_000, frame_hop=160, window_hop=16_000)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    path = Path(folder) / "recording"
    while (data := connection.recv()) is not None:
        path.write_bytes(data)
        began = time.process_time()
        try:
            recording = open_recording(path)
            for _ in windows(read_blocks(recording, spec.sample_rate), spec, recording.samplerate):
                pass
            completeness = recording.completeness
            outcome = "complete" if completeness is None or completeness.complete else "incomplete"
        except AudioError:
            outcome = "refused"
        except MemoryError:
            outcome = "memory"
        except Exception as error:  # noqa: BLE001  any other error is a finding
            outcome = f"{type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        connection.send((outcome, time.process_time() - began, peak))


class Worker:
    """A process that decodes, started again after it was ended."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        self.connection, end = context.Pipe()
        self.process = context.Process(target=work, args=(end, self.folder), daemon=True)
        self.process.start()
        end.close()

    def decode(self, data: bytes) -> tuple[str, float, int]:
        """Return the outcome, the seconds of processor time, and the most bytes that the process held so far."""
        try:
            self.connection.send(data)
            if self.connection.poll(MAX_WALL_S):
                answer: tuple[str, float, int] = self.connection.recv()
                return answer
            outcome = "hang"
        except (EOFError, OSError):
            outcome = "crash"
        self.process.kill()
        self.process.join()
        self.start()
        return outcome, 0.0, 0


def say(text: str) -> None:
    """Write a line of the report at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the mutations that the arguments name; 1 if any was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="mutations")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-recordings"), help="folder for what fails")
    options = parser.parse_args()
    originals = seeds()
    names, outcomes, slowest, most, findings = list(originals), Counter[str](), 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        for number in range(options.first, options.first + options.count):
            rng = np.random.default_rng([options.seed, number])
            name = names[number % len(names)]
            data = mutate(originals[name], list(originals.values()), rng)
            outcome, seconds, peak = worker.decode(data)
            slowest, most = max(slowest, seconds), max(most, peak)
            outcomes[outcome] += 1
            if outcome not in ("complete", "incomplete", "refused") or seconds > MAX_CPU_S:
                findings += 1
                options.keep.mkdir(exist_ok=True)
                (options.keep / f"{options.seed}-{number}").write_bytes(data)
                say(f"{number} ({name}): {outcome}, {seconds:.2f} s")
            if (number + 1) % 10_000 == 0:
                say(f"{number + 1}: {dict(outcomes)}, slowest {slowest:.2f} s, {most / 1e6:.0f} MB")
        worker.connection.send(None)
    sums = f"{dict(outcomes)}; slowest {slowest:.2f} s, most {most / 1e6:.0f} MB"
    say(f"{options.count} mutations, {findings} findings: {sums}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
