"""A cap on what this process may take of the machine's memory."""

from __future__ import annotations

from pathlib import Path

from xaimoe_runtime.errors import ConfigError


def cap_memory(megabytes: int) -> None:
    """From now on the process is refused memory beyond so many megabytes (10^6 bytes) of data: what it then cannot do
    fails with an error instead of taking the machine down, or ends the process where a library (numpy's reductions,
    ONNX Runtime's arena) does not expect a refusal. Where work is to go on, cap a process that another one watches.

    Raises:
        ConfigError: the system cannot do that, or the process has more already.
    """
    try:
        import resource
    except ImportError as error:
        raise ConfigError("--memory-mb: this system cannot cap the memory of a process; leave it out") from error
    held, limit = _data_bytes(), megabytes * 1_000_000
    if held > limit:
        raise ConfigError(f"--memory-mb: found {megabytes}, the process holds {held / 1e6:.0f} MB already; allow more")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _data_bytes() -> int:
    """Data that the process holds, as the kernel counts it for the limit; 0 where it does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    except (OSError, StopIteration):
        return 0
