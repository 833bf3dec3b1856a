"""Large blocks that are freed go back to the system: the resident memory of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from pocketstep_device.budget import resident_mb
from pocketstep_device.heap import return_large_blocks

if sys.argv[1] == "return":
    assert return_large_blocks()
np.ones(2 << 20, np.uint8)  # freed at once: from now on glibc keeps blocks of that size, if nobody told it
before = resident_mb()
large, small = [], []
for number in range(32):
    large.append(np.ones(1 << 20, np.uint8))
    small.append(np.ones(64 << 10, np.uint8))  # between them, and stays
del large
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("how", "least", "most"), [("return", 0.0, 8.0), ("keep", 24.0, 64.0)])
def test_freed_blocks_go_back_where_that_was_asked_for(how: str, least: float, most: float) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert least <= float(done.stdout) <= most
