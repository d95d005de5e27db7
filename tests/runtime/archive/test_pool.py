"""Processes side by side: where the system does not let them, and what they leave to their parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xaimoe_runtime import ConfigError, trial
from xaimoe_runtime.archive import pool


@pytest.mark.parametrize(
    "error",
    [OSError(30, "Read-only file system"), PermissionError(13, "Permission denied"), ImportError("no semaphores")],
)
def test_without_shared_memory_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def no_semaphores(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(pool, "ProcessPoolExecutor", no_semaphores)
    with pytest.raises(ConfigError, match=r"workers: .*/dev/shm; make /dev/shm writable, .* or use --workers 1"):
        list(pool.classify_all(lambda: None, [Path("a.wav")], 2))  # type: ignore[arg-type, return-value]


def _report() -> Any:
    raise ConfigError(f"warnings left to the parent: {trial._is_helper}")


def test_a_process_leaves_warnings_about_the_bundle_to_its_parent() -> None:
    with pytest.raises(ConfigError, match="warnings left to the parent: True"):
        list(pool.classify_all(_report, [Path("a.wav")], 1))
    assert not trial._is_helper
