"""Freed blocks of a CPU are used again, where the C library can do so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from utilities import allocator

BLOCK = 256 * 2**20  # bytes, far above what glibc keeps of its own accord

# A second tensor of the same size, after the first is gone: how many pages the system had to find for it.
SECOND_BLOCK = f"""
import resource, sys
import torch
from utilities.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = torch.ones({BLOCK}, dtype=torch.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_a_freed_block_is_used_again() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", SECOND_BLOCK, how], check=True, capture_output=True).stdout)
        for how in ("kept", "returned")
    )
    assert kept < 10 < returned  # a huge page of 2 MiB is the largest that one fault brings


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
