"""Limits for a process that handles untrusted input, enforced by the operating system."""

import resource
from pathlib import Path


def bound_memory(num_bytes: int) -> None:
    """Let this process allocate `num_bytes` more; beyond that it raises MemoryError."""
    _set_soft(resource.RLIMIT_DATA, _pages(5) * resource.getpagesize() + num_bytes)


def bound_cpu(seconds: float) -> None:
    """End this process after `seconds` more of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)


def resident_bytes() -> int:
    """Resident memory of this process; on systems without /proc its peak."""
    pages = _pages(1)
    if pages:
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pages(column: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[column])
    except OSError:  # not Linux
        return 0


def _set_soft(number: int, limit: int) -> None:
    _, hard = resource.getrlimit(number)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(number, (soft, hard))
