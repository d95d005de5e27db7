"""Many recordings to JSON Lines: one record each, one for what failed, and a summary that adds up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from data import noise, write_wav

from xaimoe_runtime import ConfigError, Runtime
from xaimoe_runtime.console import write_records
from xaimoe_runtime.files import FileClassifier, printable
from xaimoe_runtime.published import SCHEMAS
from xaimoe_runtime.records import ErrorRecord, Record
from xaimoe_runtime.writing import replacing

VALIDATOR = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "records.schema.json").read_bytes()))


def classify(runtime: Runtime, paths: list[Path], tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    """The records of the paths, written, read back and held against the published schema."""
    out = tmp_path / "records.jsonl"
    write_records(FileClassifier(runtime, **options).records(paths), out)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    for record in records:
        VALIDATOR.validate(record)
    return records


@pytest.fixture
def recording(runtime: Runtime, tmp_path: Path) -> Path:
    """Two channels of noise, two and a half clips long, at the model's rate."""
    frames = noise(5 * runtime.audio.clip_samples).reshape(-1, 2) * np.float32([1, 0.01])
    return write_wav(tmp_path / "recording.wav", frames, runtime.audio.sample_rate)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A recording with a sample in the middle, after several windows, that is not finite."""
    samples = noise(160_000)
    samples[80_000] = np.nan
    return write_wav(tmp_path / "broken.wav", samples)


# Records -------------------------------------------------------------------------------------------------------------


def test_a_recording_gives_one_record_and_the_run_a_summary(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    result, summary = classify(runtime, [recording], tmp_path)
    seconds = 2.5 * runtime.audio.clip_samples / runtime.audio.sample_rate
    assert (result["kind"], result["path"], result["windows"]) == ("result", str(recording), 3)
    assert (result["start_s"], result["end_s"]) == pytest.approx((0, seconds))
    assert list(result["scores"]) == list(runtime.labels)
    assert result["labels"] == [max(result["scores"], key=result["scores"].get)]
    assert (result["degraded"], result["late"], result["channel"]) == (False, False, None)
    assert summary["kind"] == "summary"


def test_a_recordings_scores_are_the_mean_over_its_windows(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    *heard, result, _ = classify(runtime, [recording], tmp_path, windows=True)
    assert [record["kind"] for record in heard] == ["window"] * 3
    for label, score in result["scores"].items():
        assert score == pytest.approx(np.mean([record["scores"][label] for record in heard]), abs=2e-6)
    for figure in ("ms", "pairs"):
        assert result[figure] == pytest.approx(sum(record[figure] for record in heard), abs=0.01)


def test_windows_are_those_of_infer_file(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    records = classify(runtime, [recording], tmp_path, windows=True, hop_s=0.5, routing="dense")
    heard = [record for record in records if record["kind"] == "window"]
    wanted = list(runtime.infer_file(recording, hop_s=0.5, routing="dense"))
    assert [r["start_s"] for r in heard] == pytest.approx([w.start_s for w in wanted], abs=1e-6)
    for record, window in zip(heard, wanted, strict=True):
        assert list(record["scores"].values()) == pytest.approx(window.result.scores.tolist(), abs=2e-6)
        assert record["labels"] == list(window.result.labels)
        assert record["pairs"] == window.result.trace.pairs[0]


def test_each_channel_gets_its_own_record(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    *results, _ = classify(runtime, [recording], tmp_path, channel="each")
    assert [(record["kind"], record["channel"]) for record in results] == [("result", 0), ("result", 1)]
    for channel, record in enumerate(results):
        (alone, _) = classify(runtime, [recording], tmp_path, channel=str(channel))
        assert alone["scores"] == record["scores"]
    assert results[0]["scores"] != results[1]["scores"]


def test_an_unsure_answer_is_unknown(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    *heard, result, _ = classify(runtime, [recording], tmp_path, min_score=1.0, windows=True)
    assert [record["labels"] for record in [*heard, result]] == [["unknown"]] * 4


def test_a_short_recording_says_how_short_it_was(runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "short.wav", noise(4_000), 16_000)
    result, _ = classify(runtime, [path], tmp_path)
    assert (result["end_s"], result["windows"]) == (0.25, 1)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"routing": "all"}, "routing: found 'all'"),
        ({"channel": "left"}, "channel: found 'left'"),
        ({"hop_s": 0.0}, "hop: found 0 s"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_any_file_is_read(
    runtime: Runtime, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        FileClassifier(runtime, **options)


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_file_that_fails_gets_an_error_and_the_rest_goes_on(
    runtime: Runtime, recording: Path, broken: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.wav"
    records = classify(runtime, [broken, recording, missing], tmp_path, windows=True)
    assert [record["kind"] for record in records] == ["error", *["window"] * 3, "result", "error", "summary"]
    for record, path in ((records[0], broken), (records[-2], missing)):
        assert (record["error"], record["path"]) == ("AudioError", str(path))
        assert record["message"].startswith(str(path))


def test_a_channel_that_a_file_lacks_is_that_files_error(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    mono = write_wav(tmp_path / "mono.wav", noise(1_000))
    error, result, _ = classify(runtime, [mono, recording], tmp_path, channel="1")
    assert (error["kind"], result["channel"]) == ("error", 1)
    assert "found 1 channel(s), expected channel 1" in error["message"]


def test_an_error_without_a_path_gets_it(runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "loud.wav", noise(4_000, level=1e30))
    error, _ = classify(runtime, [path], tmp_path)
    assert error["message"].startswith(f"{path}: ")
    assert "not finite" in error["message"]


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_whose_name_is_not_text_does_not_end_the_run(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write_wav(tmp_path / "a.wav", noise(1_000)).rename(odd)
    first, second, _ = classify(runtime, [odd, recording], tmp_path)
    assert "caf" in first["path"]
    assert second["kind"] == "result"


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_printable_keeps_different_names_different() -> None:
    names = [b"a\\xff.flac", b"a\xff.flac", "a\ufffdff.flac".encode(), "a\ufffd.flac".encode(), "caf\u00e9".encode()]
    texts = [printable(os.fsdecode(name)) for name in names]
    assert texts == [
        "a\\xff.flac",
        "a\ufffdff.flac",
        "a\ufffdef\ufffdbf\ufffdbdff.flac",
        "a\ufffdef\ufffdbf\ufffdbd.flac",
        "caf\u00e9",
    ]
    for name, text in zip(names, texts, strict=True):
        back = re.sub(b"\xef\xbf\xbd([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
        assert back == name


def test_headerless_samples_do_not_end_the_run(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(1_000))
    assert [r["kind"] for r in classify(runtime, [raw, recording], tmp_path)] == ["error", "result", "summary"]


# Summary -------------------------------------------------------------------------------------------------------------


def test_the_summary_adds_up(runtime: Runtime, recording: Path, tmp_path: Path) -> None:
    paths = [recording, tmp_path / "missing.wav", write_wav(tmp_path / "short.wav", noise(8_000), 16_000)]
    *records, summary = classify(runtime, paths, tmp_path, windows=True)
    windows = [record for record in records if record["kind"] == "window"]
    results = [record for record in records if record["kind"] == "result"]
    assert (summary["files"], summary["errors"], summary["windows"]) == (3, 1, len(windows))
    assert summary["audio_s"] == pytest.approx(sum(r["end_s"] - r["start_s"] for r in results), abs=1e-5)
    p50 = np.percentile([w["ms"] for w in windows], 50, method="inverted_cdf")
    assert summary["p50_ms"] == pytest.approx(p50, rel=0.006, abs=0.002)
    p95 = np.percentile([w["ms"] for w in windows], 95, method="inverted_cdf")
    assert summary["p95_ms"] == pytest.approx(p95, rel=0.006, abs=0.002)
    possible = len(windows) * runtime.manifest.patches.grid.count * len(runtime.experts)
    assert summary["pair_share"] == pytest.approx(sum(w["pairs"] for w in windows) / possible, abs=1e-6)
    assert (summary["source"], summary["provider"], summary["routing"]) == (runtime.name, "cpu", "routed")


def test_a_run_without_a_single_answer_has_a_summary(runtime: Runtime, tmp_path: Path) -> None:
    _, summary = classify(runtime, [tmp_path / "missing.wav"], tmp_path)
    figures = [summary[name] for name in ("files", "errors", "windows", "audio_s", "p50_ms", "p95_ms", "pair_share")]
    assert figures == [1, 1, 0, 0, 0, 0, 0]


def test_the_summary_leaves_out_what_has_no_record(runtime: Runtime, broken: Path, tmp_path: Path) -> None:
    _, summary = classify(runtime, [broken], tmp_path)
    assert (summary["windows"], summary["audio_s"]) == (0, 0)


def test_progress_is_told_once_a_file(runtime: Runtime, tmp_path: Path) -> None:
    done: list[None] = []
    paths = [write_wav(tmp_path / "a.wav", noise(1_000)), tmp_path / "missing.wav"]
    list(FileClassifier(runtime).records(paths, advance=lambda: done.append(None)))
    assert len(done) == 2


# Writing -------------------------------------------------------------------------------------------------------------

ERROR = ErrorRecord(path="a.wav", error="AudioError", message="a.wav: no such file")


def test_records_are_written_a_line_each_and_errors_counted(tmp_path: Path) -> None:
    out = tmp_path / "new" / "records.jsonl"
    assert write_records([ERROR, ERROR], out) == 2
    assert [json.loads(line)["path"] for line in out.read_text().splitlines()] == ["a.wav", "a.wav"]


def test_a_run_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def breaks() -> Iterator[Record]:
        yield ERROR
        raise RuntimeError("power cut")

    out = tmp_path / "records.jsonl"
    out.write_text("old\n")
    with pytest.raises(RuntimeError, match="power cut"):
        write_records(breaks(), out)
    assert out.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [out]


def test_the_new_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a.bin"
    with replacing(out) as file:
        file.write(b"half")
        file.flush()
        assert not out.exists()
    assert out.read_bytes() == b"half"


@pytest.mark.skipif(os.name == "nt", reason="no such modes there")
def test_others_may_read_the_new_file(tmp_path: Path) -> None:
    write_records([ERROR], tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "records.jsonl"
    with pytest.raises(ConfigError, match=r"records\.jsonl: cannot be written"):
        write_records([ERROR], out)


def test_a_folder_is_no_place_for_records(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ConfigError, match="folder: found a folder, expected the name of a file"):
        write_records([ERROR], folder)
    assert list(tmp_path.iterdir()) == [folder]
