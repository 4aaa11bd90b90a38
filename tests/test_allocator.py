"""Freed blocks of a CPU are used again, where the C library can do so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from utilities.training import allocator

BLOCK = 64 * 2**20  # bytes, above what glibc keeps of its own accord

# Tensors of one size, one after the other: how many pages the system had to find for them. The first ones may each
# extend the heap, until a free piece is large enough for the size and its alignment; later ones use that again.
BLOCKS_IN_TURN = f"""
import resource, sys
import torch
from utilities.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(48):
    block = torch.ones({BLOCK}, dtype=torch.uint8)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_freed_blocks_are_used_again() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", BLOCKS_IN_TURN, how], check=True, capture_output=True).stdout)
        for how in ("kept", "returned")
    )
    assert kept < returned / 2


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
