"""Files that take their place whole: kills, full disks, permissions, and what killed processes leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xaimoe_runtime import OutputError, temporary, writing
from xaimoe_runtime.temporary import STALE_S, TEMPORARY, remove_left_behind, temporary_name
from xaimoe_runtime.writing import (
    cannot_be_written,
    check_folder_writable,
    check_writable,
    describe_os_error,
    replacing,
)

posix = pytest.mark.skipif(os.name == "nt", reason="needs signals, modes and file locks of POSIX")


@pytest.fixture(autouse=True)
def first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the folders that this process has cleaned."""
    monkeypatch.setattr(temporary, "_cleaned", set())


@pytest.fixture
def umask() -> Iterator[None]:
    earlier = os.umask(0o027)
    yield
    os.umask(earlier)


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


KILLED = """
import os, signal, sys
from pathlib import Path
from xaimoe_runtime.writing import replacing
moment = getattr(os, sys.argv[2])
setattr(os, sys.argv[2], lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
with replacing(Path(sys.argv[1])) as file:
    file.write(b"new" * 100_000)
"""


@posix
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_leaves_the_earlier_file_whole_and_the_next_process_removes_the_temporary_one(
    tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "a.bin"
    out.write_bytes(b"old")
    assert run(KILLED, out, moment).returncode == -9
    assert out.read_bytes() == b"old"
    (left,) = set(tmp_path.iterdir()) - {out}
    assert TEMPORARY.fullmatch(left.name), "or the next run cannot recognise it"
    with replacing(tmp_path / "another.bin") as file:
        file.write(b"next")
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", "another.bin"}


LIVE = """
import sys
from pathlib import Path
from xaimoe_runtime.writing import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"whole")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@posix
def test_a_temporary_file_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "a.bin"
    command = [sys.executable, "-c", LIVE, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "writing\n"
        (part,) = tmp_path.iterdir()
        with replacing(tmp_path / "b.bin") as file:
            file.write(b"b")
        assert part.exists()
        process.stdin.write("\n")
        process.stdin.flush()
    assert out.read_bytes() == b"whole"


@posix
def test_without_file_locks_only_what_is_a_day_old_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(temporary.fcntl, "flock", no_locks)
    new, old, other = (tmp_path / temporary_name("a"), tmp_path / temporary_name("a"), tmp_path / ".mine.part")
    for path in (new, old, other):
        path.touch()
    os.utime(old, (time.time() - STALE_S - 1,) * 2)
    remove_left_behind(tmp_path)
    assert set(tmp_path.iterdir()) == {new, other}


@posix
def test_folders_left_behind_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").touch()
    left = tmp_path / "out" / temporary_name("bundle")
    left.mkdir(parents=True)
    (left / "graph.onnx").touch()
    (tmp_path / "out" / temporary_name("link")).symlink_to(kept)
    remove_left_behind(tmp_path / "out")
    assert not left.exists()
    assert (kept / "a").exists()


@posix
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: None) -> None:
    with replacing(tmp_path / "a") as file:
        file.write(b"a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@posix
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").touch(mode=0o600)
    with replacing(tmp_path / "a") as file:
        file.write(b"a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


FULL = """
import resource, signal, sys
from pathlib import Path
from xaimoe_runtime.errors import OutputError
from xaimoe_runtime.writing import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with replacing(Path(sys.argv[1])) as file:
        try:
            file.write(bytes(1 << 20))
        except OSError as error:
            raise {raised}
except OutputError as error:
    print(error)
"""


@posix
@pytest.mark.parametrize("raised", ["error", "RuntimeError('of the library') from None", "SystemError"])
def test_a_write_that_fails_is_named_whatever_a_library_makes_of_it(tmp_path: Path, raised: str) -> None:
    out = tmp_path / "a.bin"
    out.write_bytes(b"old")
    ran = run(FULL.format(raised=raised), out)
    assert ran.stdout.startswith(f"{out}: cannot be written (File too large); "), ran.stderr
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@posix
def test_a_write_that_fails_is_noticed_where_a_library_says_nothing(tmp_path: Path) -> None:
    swallowed = FULL.replace("            raise {raised}", "            pass")
    ran = run(swallowed, tmp_path / "a.bin")
    assert "a.bin: cannot be written (File too large)" in ran.stdout, ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_named_and_what_to_do() -> None:
    message = r"^/dev/full: cannot be written \(No space left on device\); free some"
    with pytest.raises(OutputError, match=message), replacing(Path("/dev/full")) as file:
        file.write(b"a")


@posix
def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    with replacing(Path("/dev/null")) as file:
        file.write(b"a")
    assert Path("/dev/null").is_char_device()


@posix
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        with replacing(pipe) as file:
            file.write(b"records")
        assert reader.stdout is not None
        assert reader.stdout.read() == b"records"
    assert pipe.is_fifo()


@posix
def test_too_few_descriptors_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(writing, "_create", none_left)
    message = r"a: cannot be written \(Too many open files\); raise the limit .*ulimit -n"
    with pytest.raises(OutputError, match=message), replacing(tmp_path / "a"):
        pass


@pytest.mark.skipif(not Path("/proc/1").exists(), reason="needs a folder to which not even root can write")
def test_a_read_only_folder_is_noticed_before_the_work() -> None:
    folder = Path("/proc/1")
    with pytest.raises(OutputError, match=r"^/proc/1/new/a\.csv: cannot be written \("):
        check_writable(folder / "new" / "a.csv")
    for place in (folder, folder / "new"):
        with pytest.raises(OutputError, match=rf"^{place}: cannot be written \("):
            check_folder_writable(place)


def test_checking_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.csv")
    check_folder_writable(tmp_path / "new")
    check_folder_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="a: found a file, expected a folder"):
        check_folder_writable(tmp_path / "a")


def test_a_name_that_is_too_long_is_noticed_before_the_work(tmp_path: Path) -> None:
    with replacing(tmp_path / ("é" * 120)) as file:  # 240 bytes: the temporary file's name must not be longer
        file.write(b"a")
    with pytest.raises(OutputError, match=r"File name too long.*choose a shorter name"):
        check_writable(tmp_path / ("a" * 300))


@pytest.mark.parametrize("number", sorted(writing.ADVICE))
def test_each_error_of_the_system_says_what_to_do(number: int) -> None:
    message = str(cannot_be_written(Path("a.csv"), OSError(number, os.strerror(number))))
    assert message == f"a.csv: cannot be written ({os.strerror(number)}); {writing.ADVICE[number]}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space there"),
        (PermissionError(13, "Permission denied", "a.csv"), "a.csv: Permission denied; check the permissions"),
        (OSError(24, "Too many open files", "b.wav"), "b.wav: Too many open files; raise the limit of open files"),
        (OSError(5, "strange", "x"), "x: strange; check the disk"),
        (OSError("of no kind"), "of no kind"),
    ],
)
def test_other_errors_of_the_system_are_said_in_words(error: OSError, words: str) -> None:
    assert describe_os_error(error).startswith(words)
