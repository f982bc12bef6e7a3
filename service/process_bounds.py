"""Bounds of a process that works on what somebody else has sent: the system keeps to them."""

import resource
from pathlib import Path


def bound_memory(num_bytes: int) -> None:
    """Let this process take as much memory beside what it has now; more raises MemoryError."""
    _set_soft(resource.RLIMIT_DATA, _pages(5) * resource.getpagesize() + num_bytes)


def bound_cpu(seconds: float) -> None:
    """End this process when it has taken so much more of a processor's time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set_soft(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + seconds) + 1)


def resident_bytes() -> int:
    """Memory that this process holds; where the system does not say so, the most it ever held."""
    pages = _pages(1)
    if pages:
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pages(place: int) -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[place])
    except OSError:  # no Linux
        return 0


def _set_soft(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
