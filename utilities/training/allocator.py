"""How the C library keeps the memory of tensors on a CPU."""

from __future__ import annotations

import ctypes

# mallopt(3): numbers of <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**31 - 1  # bytes, the largest that mallopt takes


def keep_freed_memory() -> bool:
    """Let blocks of up to 2 GiB be reused instead of returned to the system; whether the C library took it.

    By default glibc asks the system for every block above 32 MiB and returns it when freed, so that each large
    activation of each step is paged in, and zeroed, anew. Other C libraries have no such setting or know it under other
    names: nothing changes there. In exchange a process keeps between its peaks what it held at the peak, and pieces of
    other sizes raise that peak a little.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no C library of this kind: musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
