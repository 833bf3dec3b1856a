"""What becomes of memory that was freed: glibc keeps large blocks for later unless it is told not to."""

from __future__ import annotations

import ctypes
import platform

LARGE = 128 * 1024
"""Bytes from which on a block is the system's own. Glibc begins with this, and raises it to what is freed."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> bool:
    """Lets this process give back what it frees in large blocks at once, as ``MALLOC_MMAP_THRESHOLD_=131072`` does.

    Otherwise samples and statistics come to lie in the heap, between what stays: a learner holds 5 to 15 MiB more. It
    holds for the whole process, so a command calls it for itself, and a library leaves it to its host.

    Returns:
        Whether the C library knows the setting: Linux with glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE))
