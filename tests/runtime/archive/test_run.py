"""Whole runs: formats, processes, crashes, and what is left when they are interrupted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import soundfile
from data import bursts, write_wav
from data.commands import call

from xaimoe_runtime import BundleError, ConfigError, ProviderError, Runtime
from xaimoe_runtime.archive import parts as parts_module
from xaimoe_runtime.archive.parts import Parts
from xaimoe_runtime.archive.pool import classify_all
from xaimoe_runtime.archive.run import OpenBundle
from xaimoe_runtime.archive.tables import check_format
from xaimoe_runtime.files import Classified, FileClassifier, FileOptions, failed, state_of
from xaimoe_runtime.published import SCHEMAS
from xaimoe_runtime.tally import Tally

COMMAND = [sys.executable, "-c", "from xaimoe_runtime.cli import run; run()", "infer"]
TIMES = ("ms", "p50_ms", "p95_ms")


def read(path: Path) -> list[dict[str, Any]]:
    """Records without what a clock measured."""
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Twelve recordings, one of which is broken, one shorter than a clip and one much longer."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for i in range(12):
        write_wav(folder / f"{i:02}.wav", bursts(16_000 * (8 if i == 5 else 1), seed=i, level=0.1))
    (folder / "03.wav").write_bytes(b"RIFFnothing")
    write_wav(folder / "07.wav", bursts(2_000, level=0.1))
    return folder


@pytest.fixture
def wanted(bundle: Path, archive: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """What a run in one go writes."""
    out = tmp_path / "wanted.jsonl"
    assert call("infer", bundle, archive, "--out", out).exit_code == 1
    return read(out)


# Formats -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_output_and_nothing_else(wanted: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [r["kind"] for r in wanted] == ["result"] * 3 + ["error"] + ["result"] * 8 + ["summary"]
    assert wanted[-1]["files"] == 12 and wanted[-1]["errors"] == 1
    assert wanted[-1]["windows"] == sum(r.get("windows", 0) for r in wanted[:-1])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "wanted.jsonl"]


def test_a_table_has_a_row_for_each_record(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path, runtime: Runtime
) -> None:
    out = tmp_path / "table.csv"
    result = call("infer", bundle, archive, "--out", out, "--windows")
    assert result.exit_code == 1
    assert json.loads(result.stderr.splitlines()[-1])["kind"] == "summary"
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    results = [row for row in rows if row["kind"] == "result"]
    assert [row["path"] for row in results] == [r["path"] for r in wanted if r["kind"] == "result"]
    for row, record in zip(results, [r for r in wanted if r["kind"] == "result"], strict=True):
        assert row["labels"] == "|".join(record["labels"])
        assert {label: float(row[f"score:{label}"]) for label in runtime.labels} == record["scores"]
        assert float(row["score"]) == max(record["scores"].values())
    (error,) = [row for row in rows if row["kind"] == "error"]
    assert error["path"].endswith("03.wav") and "not readable" in error["message"] and error["score"] == ""
    assert len([row for row in rows if row["kind"] == "window"]) == wanted[-1]["windows"]


def test_a_parquet_has_the_same_rows_with_types(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    monkeypatch.setattr("xaimoe_runtime.archive.tables.ROWS", 5)  # several groups of rows
    out = tmp_path / "table.parquet"
    assert call("infer", bundle, archive, "--out", out).exit_code == 1
    rows = parquet.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [r["path"] for r in wanted[:-1]]
    assert isinstance(rows[0]["windows"], int) and isinstance(rows[0]["late"], bool)
    assert rows[3]["score"] is None and rows[3]["error"] == "AudioError"


def test_infer_counts_what_folders_hold_besides_and_names_those_it_cannot_search(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.wav", "a/closed/2.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(tmp_path / name, bursts(4_000, level=0.1))
    (tmp_path / "a" / "._1.wav").write_bytes(b"\0\5\26\7")
    (tmp_path / "a" / "log.txt").write_text("x", encoding="utf-8")
    scandir = os.scandir

    def refuse(path: str | Path) -> Any:  # root may search every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for out in ([], ["--out", tmp_path / "out.jsonl"]):
        result = call("infer", bundle, tmp_path / "a", *out)
        assert result.exit_code == 1
        lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8") if out else result.stdout
        first, error, summary = map(json.loads, lines.splitlines())
        assert first["kind"] == "result" and first["path"].endswith("1.wav")
        assert error["path"] == str(tmp_path / "a" / "closed")
        assert "a folder that cannot be searched (Permission denied)" in error["message"]
        assert summary["skipped"] == {"._*": 1, ".txt": 1} and summary["errors"] == 1
        assert "not taken from folders: 1 ._*, 1 .txt" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_infer_keeps_files_apart_whose_names_differ_in_bytes_that_are_not_text(bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "names", tmp_path / "out.jsonl"
    folder.mkdir()
    for name, samples in ((b"a\\xff.wav", 4_000), (b"a\xff.wav", 8_000)):
        write_wav(tmp_path / "x.wav", bursts(samples, level=0.1)).rename(folder / os.fsdecode(name))
    assert call("infer", bundle, folder, "--out", out).exit_code == 0
    written = read(out)
    assert sorted((Path(r["path"]).name, r["end_s"]) for r in written[:-1]) == [
        ("a\\xff.wav", 0.25),
        ("a\ufffdff.wav", 0.5),
    ]


def test_infer_keeps_the_messages_of_decoders_out_of_its_records(bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.sds", bursts(4_000, level=0.1), 16_000, format="SDS", subtype="PCM_16")
    content = bytearray((tmp_path / "a.sds").read_bytes())
    for start in range(21, len(content) - 127, 127):
        content[start + 1] ^= 0x55  # the first bytes of each packet: libsndfile prints to stdout that they are wrong
    (tmp_path / "a.sds").write_bytes(content)
    done = subprocess.run([*COMMAND, str(bundle), str(tmp_path / "a.sds")], capture_output=True, text=True, timeout=120)
    kinds = [json.loads(line)["kind"] for line in done.stdout.splitlines()]
    assert kinds[-1] == "summary" and len(kinds) == 2
    assert "decoders printed" in done.stderr and "\nError " not in done.stderr


def test_other_formats_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'\.xls', expected \.jsonl, \.csv, \.parquet"):
        check_format(tmp_path / "a.xls")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[scale\]"):
        check_format(tmp_path / "a.parquet")


def test_the_best_labels_alone(bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "top.jsonl"
    call("infer", bundle, archive, "--out", out, "--top-k", 2)
    for record, whole in zip(read(out), wanted, strict=True):
        if record["kind"] == "result":
            best = sorted(whole["scores"].values(), reverse=True)[:2]
            assert list(record["scores"].values()) == best
            assert record["labels"] == whole["labels"]


def test_a_trace_says_how_it_came_about(bundle: Path, archive: Path, tmp_path: Path, runtime: Runtime) -> None:
    out = tmp_path / "trace.jsonl"
    call("infer", bundle, archive / "05.wav", "--out", out, "--trace", "--budget-ms", 1000)
    schema = json.loads((SCHEMAS / "records.schema.json").read_bytes())
    *windows, result, _ = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert "trace" not in result and len(windows) == result["windows"]
    answers = list(runtime.infer_file(archive / "05.wav"))
    for record, answer in zip(windows, answers, strict=True):
        jsonschema.validate(record, schema)
        trace = record["trace"]
        assert list(trace["attributes"]) == list(runtime.attribute_names)
        assert trace["saliency"] == pytest.approx(answer.result.trace.saliency[0].tolist(), abs=1e-5)
        assert len(trace["run"]) == record["pairs"]
        gates = answer.result.trace.gates[0]
        for patch, expert, gate in trace["run"]:
            assert gate == pytest.approx(float(gates[patch, runtime.experts.index(expert)]), abs=1e-5)
        assert trace["predicted_ms"].keys() == trace["ms"].keys()


def test_batches_change_nothing_but_the_time(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "batches.jsonl"
    call("infer", bundle, archive, "--out", out, "--batch-size", 3)
    for record, other in zip(read(out), wanted, strict=True):
        if record["kind"] == "result":
            assert record["scores"] == pytest.approx(other["scores"], abs=2e-5)
            assert {**record, "scores": 0} == {**other, "scores": 0}


# Processes -----------------------------------------------------------------------------------------------------------


def test_several_processes_write_the_same(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "two.jsonl"
    assert call("infer", bundle, archive, "--out", out, "--workers", 2).exit_code == 1
    assert read(out) == wanted
    printed = call("infer", bundle, archive, "--workers", 2)
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [r["kind"] for r in lines] == [r["kind"] for r in wanted]


class Deadly(FileClassifier):
    """Dies of one file, as a process does that has no memory left."""

    def __init__(self) -> None:
        """Without an engine."""

    def classify(self, path: Path) -> Classified:
        if path.name == "deadly":
            os._exit(9)
        return Classified([], Tally(files=1))


def test_a_file_that_kills_its_process_costs_only_itself() -> None:
    paths = [Path(f"{i}") for i in range(5)] + [Path("deadly")] + [Path(f"{i}") for i in range(5, 10)]
    found = list(classify_all(Deadly, paths, 2))
    assert sorted(str(path) for path, _ in found) == sorted(map(str, paths))
    errors = {str(path): c.records[0].message for path, c in found if c.tally.errors}  # type: ignore[union-attr]
    assert list(errors) == ["deadly"]
    assert "deadly: the process that classified it died" in errors["deadly"]


class Unable(Deadly):
    """Whose processes cannot begin."""

    def __init__(self) -> None:
        """Without memory."""
        raise MemoryError("no room")


def test_processes_that_cannot_begin_end_the_run_at_once() -> None:
    with pytest.raises(BundleError, match="could not begin: MemoryError: no room"):
        list(classify_all(Unable, [Path(f"{i}") for i in range(5)], 2))


def test_a_file_with_an_unforeseen_fault_costs_only_itself(
    runtime: Runtime, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = FileClassifier(runtime)

    def full(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(classifier, "_file", full)
    (record, summary) = classifier.records([archive / "00.wav"])
    assert "MemoryError: no room" in record.message and summary.errors == 1  # type: ignore[union-attr]


def test_a_process_that_dies_between_two_files_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool may be found broken by the next ``submit`` and not by a result."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    submit, turns = ProcessPoolExecutor.submit, iter(range(1000))

    def broken(self: Any, *arguments: Any) -> Any:
        if next(turns) == 3:
            raise BrokenProcessPool("a child died")
        return submit(self, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    paths = [Path(f"{i}") for i in range(8)]
    found = list(classify_all(Deadly, paths, 1))
    assert sorted(str(path) for path, _ in found) == sorted(map(str, paths))
    assert not any(c.tally.errors for _, c in found)


def test_a_bundle_that_cannot_be_opened_is_an_error_at_once(bundle_copy: Path) -> None:
    (bundle_copy / "manifest.json").unlink()
    assert call("infer", bundle_copy, "a.wav", "--workers", 2).exit_code == 3


# Crashes -------------------------------------------------------------------------------------------------------------


def begun(bundle: Path, archive: Path, out: Path, *options: object) -> subprocess.Popen[bytes]:
    """A run whose every file is a part, in a process of its own."""
    code = (
        "import xaimoe_runtime.archive.parts as p, xaimoe_runtime.files as f, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "p.FLUSH_FILES = 1\n"
        "classify = f.FileClassifier.classify\n"
        "def slow(self, path):\n    time.sleep(0.15)\n    return classify(self, path)\n"
        "f.FileClassifier.classify = slow\n"
        "from xaimoe_runtime.cli import run; run()"
    )
    arguments = ["infer", bundle, archive, "--out", out, *options]
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_after_a_kill_nothing_is_lost_or_doubled(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out, turns = tmp_path / "killed.jsonl", 0
    folder = tmp_path / "killed.jsonl.parts"
    done = 0
    for turns in range(3):
        with begun(bundle, archive, out, *(["--resume"] if turns else [])) as process:
            wait_for(lambda done=done: len(list(folder.glob("part-*"))) >= done + 3)  # type: ignore[misc]
            process.kill()
        assert not out.exists()
        done = len(list(folder.glob("part-*")))
    result = call("infer", bundle, archive, "--out", out)
    assert result.exit_code == 2 and "--resume to go on" in result.stderr
    assert call("infer", bundle, archive, "--out", out, "--resume").exit_code == 1
    assert read(out) == wanted
    assert not folder.exists()


def interrupt(process: subprocess.Popen[bytes], out: Path) -> str:
    """Ctrl-C once two parts are there; what is said."""
    wait_for(lambda: len(list(out.with_name(f"{out.name}.parts").glob("part-*"))) >= 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = process.stderr.read().decode()
    assert process.wait(60) == 130
    assert "--resume goes on" in err and "Traceback" not in err
    assert not out.exists()
    return err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_cleanly_and_the_run_goes_on(
    bundle: Path, archive: Path, wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "stopped.jsonl"
    with begun(bundle, archive, out) as process:
        interrupt(process, out)
    assert call("infer", bundle, archive, "--out", out, "--resume").exit_code == 1
    assert read(out) == wanted


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_several_processes_too(bundle: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "long", tmp_path / "stopped.jsonl"
    folder.mkdir()
    for i in range(16):
        write_wav(folder / f"{i}.wav", bursts(160_000, seed=i, level=0.1))
    with begun(bundle, folder, out, "--workers", 2, "--hop", 0.02) as process:
        interrupt(process, out)
    parts = Parts(out, json.loads((tmp_path / "stopped.jsonl.parts" / "run.json").read_bytes()), resume=True)
    done = [path for path in folder.iterdir() if parts.done(path)]
    parts.close()
    assert 2 <= len(done) < 16


def test_a_bundle_that_is_replaced_while_it_runs_is_noticed(
    bundle: Path, bundle_copy: Path, archive: Path, runtime: Runtime
) -> None:
    make = OpenBundle(bundle_copy, FileOptions(), digest="0" * 64)
    with pytest.raises(BundleError, match="another bundle than the run began with"):
        list(classify_all(make, sorted(archive.iterdir()), 1))
    same = OpenBundle(bundle_copy, FileOptions(), digest=runtime.manifest.digest)
    assert len(list(classify_all(same, sorted(archive.iterdir())[:2], 1))) == 2


def interrupted(out: Path, fingerprint: dict[str, Any], paths: list[Path]) -> None:
    parts = Parts(out, fingerprint, resume=False)
    for path in paths:
        done = Classified([], Tally(files=1), state_of(path))
        parts.add(path, failed(path, "odd") if path.name == "03.wav" else done)
    parts.flush()
    parts.close()


def test_what_has_changed_or_failed_is_done_again(archive: Path, tmp_path: Path) -> None:
    paths, out = sorted(archive.iterdir()), tmp_path / "a.jsonl"
    interrupted(out, {"model": "a"}, paths)
    write_wav(paths[0], bursts(5_000))
    paths[1].unlink()
    parts = Parts(out, {"model": "a"}, resume=True)
    assert [path.name for path in paths if not parts.done(path)] == ["00.wav", "01.wav", "03.wav"]
    parts.close()


def test_a_run_with_other_options_does_not_go_on(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    interrupted(out, {"model": "a", "hop_s": None}, [])
    with pytest.raises(ConfigError, match=r"hop_s 0\.5 instead of None.*remove .*a\.jsonl\.parts"):
        Parts(out, {"model": "a", "hop_s": 0.5}, resume=True)
    (tmp_path / "a.jsonl.parts" / "run.json").write_bytes(b"{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Parts(out, {"model": "a"}, resume=True)


def test_a_part_that_was_cut_short_counts_as_far_as_it_goes(archive: Path, tmp_path: Path) -> None:
    paths, out = sorted(archive.iterdir()), tmp_path / "a.jsonl"
    interrupted(out, {}, paths)
    (part,) = (tmp_path / "a.jsonl.parts").glob("part-*")
    part.write_bytes(part.read_bytes()[:-40])
    parts = Parts(out, {}, resume=True)
    assert [path.name for path in paths if not parts.done(path)] == ["03.wav", "11.wav"]
    parts.close()


def test_parts_of_a_run_that_was_whole_are_not_taken_for_a_new_ones(archive: Path, tmp_path: Path) -> None:
    paths, out = sorted(archive.iterdir()), tmp_path / "a.jsonl"
    interrupted(out, {"model": "old"}, paths)
    (tmp_path / "a.jsonl.parts" / "run.json").unlink()  # killed while it removed them
    parts = Parts(out, {"model": "new"}, resume=True)
    assert not any(parts.done(path) for path in paths)
    parts.close()


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    first = Parts(tmp_path / "a.jsonl", {}, resume=False)
    with pytest.raises(ConfigError, match="another run is writing there"):
        Parts(tmp_path / "a.jsonl", {}, resume=True)
    first.close()
    Parts(tmp_path / "a.jsonl", {}, resume=True).close()


def test_a_part_is_written_every_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "FLUSH_FILES", 3)
    parts = Parts(tmp_path / "a.jsonl", {}, resume=False)
    for i in range(7):
        parts.add(Path(f"{i}"), Classified([], Tally(files=1)))
    assert len(list(parts.folder.glob("part-*"))) == 2
    monkeypatch.setattr(parts_module, "FLUSH_S", 0.0)
    parts.add(Path("7"), Classified([], Tally(files=1)))
    assert len(list(parts.folder.glob("part-*"))) == 3
    assert parts.tally([Path(f"{i}") for i in range(8)]).files == 8
    parts.remove()


def test_an_output_that_cannot_be_written_is_an_error_before_any_work(bundle: Path, archive: Path) -> None:
    result = call("infer", bundle, archive, "--out", "/dev/null/a.jsonl")
    assert result.exit_code == 2 and "cannot be written" in result.stderr


def test_traces_need_json_lines(bundle: Path, archive: Path, tmp_path: Path) -> None:
    result = call("infer", bundle, archive, "--trace", "--out", tmp_path / "a.csv")
    assert result.exit_code == 2 and "expected a file ending in .jsonl" in result.stderr


def test_resume_needs_a_file_to_go_on_with(bundle: Path, archive: Path) -> None:
    result = call("infer", bundle, archive, "--resume")
    assert result.exit_code == 2 and "--out" in result.stderr


def test_a_full_disk_keeps_what_was_done(bundle: Path, archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "a.jsonl"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("xaimoe_runtime.archive.tables.write", full)
        result = call("infer", bundle, archive, "--out", out)
    assert result.exit_code == 2 and "No space left" in result.stderr and not out.exists()
    shutil.copytree(tmp_path / "a.jsonl.parts", tmp_path / "copy")
    assert call("infer", bundle, archive, "--out", out, "--resume").exit_code == 1
    assert len(read(out)) == 13
