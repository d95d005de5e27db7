"""The errors a user can meet, and the exit code each one ends a command with."""

from __future__ import annotations


class XaimoeError(Exception):
    """Base of all errors raised on purpose; its message names what was found, what was expected and what to do."""

    exit_code = 2


class AudioError(XaimoeError, ValueError):
    """A recording cannot be used: unreadable, empty, or with samples that are not finite."""

    exit_code = 1


class ConfigError(XaimoeError, ValueError):
    """An option or a combination of options makes no sense."""

    exit_code = 2


class OutputError(ConfigError, OSError):
    """A file or folder cannot be written: no space, no permission, no descriptors, or no such place."""


class DatasetError(XaimoeError, ValueError):
    """A dataset cannot be trained or evaluated on."""

    exit_code = 2


class BundleError(XaimoeError, ValueError):
    """A bundle or checkpoint is refused: incomplete, altered, of another schema, or not as promised."""

    exit_code = 3


class ProviderError(XaimoeError, RuntimeError):
    """The execution provider that was asked for is missing, or ONNX Runtime itself is."""

    exit_code = 4


EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C."""
