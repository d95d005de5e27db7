"""The user's cache folder: where each system has it, or where the user wants it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaimoe_runtime.caching import cache_folder


@pytest.mark.parametrize(
    ("platform", "variables", "wanted"),
    [
        ("linux", {}, ".cache/xaimoe-audio/calibrations"),
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/xaimoe-audio/calibrations"),
        ("darwin", {}, "Library/Caches/xaimoe-audio/calibrations"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/xaimoe-audio/calibrations"),
        ("linux", {"XAIMOE_CACHE": "/own"}, "/own/calibrations"),
    ],
)
def test_the_cache_folder(
    platform: str, variables: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XAIMOE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder("calibrations") == Path.home() / wanted
