"""Run a call in a process of its own that may allocate only a little more than it has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMITS = (0, 1, 9, 81)
"""Mebibytes that the call may allocate."""

PROGRAM = """
import ctypes, gc, resource
from pathlib import Path
import numpy as np
import ctxembed
from ctxembed import _core

{setup}
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # what was freed before does not count as room
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (size + int({mebibytes} * 2**20), hard))
try:
    result = {call}
    outcome = "success"
except MemoryError:
    outcome = "MemoryError"
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(outcome)
"""


def outcomes(setup: str, call: str, limits: Iterable[int] = LIMITS) -> list[str]:
    """Return how the call ends at each of the limits: "success" or "MemoryError". Any other end fails the test."""
    found = []
    for mebibytes in limits:
        program = PROGRAM.format(setup=setup, call=call, mebibytes=mebibytes)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
        assert (run.returncode, run.stderr) == (0, ""), f"with {mebibytes} MiB: {run.returncode}\n{run.stderr}"
        found.append(run.stdout.strip())
    return found
