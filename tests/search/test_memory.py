"""Searches and changes with little memory: MemoryError, or a result, but never the end of the process."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")

CALLS = {
    "filter by ids": "index.search(rows[0], 10, mask=ids, threads=1)",
    "filter by a list": "index.search(rows[0], 10, mask=listed, threads=1)",
    "filter of bits": "bits.search(packed[0], 10, mask=ids, threads=1)",
    "filter of an array": "cx.top_k(rows[0], rows, 10, mask=ids, threads=1)",
    "mask": "index.search(rows[0], 10, mask=mask, threads=1)",
    "many matches": "index.search(rows[0], len(rows), threads=1)",
    "two stages": "index.search(rows[:9], 1000, stage='two-stage', oversample=50, threads=1)",
    "many queries": "index.search(many, 1, mask=[1], threads=1)",
    "many queries by bits": "index.search(many, 1, metric='asymmetric', dimensions=9, mask=[1], threads=1)",
    "many ranges": "index.search_range(many, 2.0, mask=[1], threads=1)",
    "many counts": "index.count(many, 2.0, mask=[1], threads=1)",
    "a range of all": "index.search_range(rows[:5], -1.0, threads=1)",
    "calibration": "index.calibrate(rows[:20], 2000, threads=1)",
    "duplicates": "small.near_duplicates(-2.0, threads=1)",
    "nearest duplicates": "small.near_duplicates(-2.0, limit=300_000, threads=1)",
    "wide queries": "cx.top_k(wide, wide[:2], 1, threads=1)",
    "wide products": "cx.dot(wide, wide[:2])",
    "cosines": "cx.cosine(many, rows[:3])",
    "vectors": "index.vectors(order)",
    "removal": "index.remove(order[:50_000])",
    "addition": "index.add(rows, order + 100_000)",
    "addition of bits": "bits.add(packed, order + 100_000)",
    "opening": "cx.Index.open(path, mmap=False)",
}

PROGRAM = """
import os, resource, sys
import numpy as np
from ctxembed import _core as cx
calls, path = eval(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
rows = rng.integers(-128, 128, (100_000, 16), dtype=np.int8)
many, wide = np.tile(rows, (3, 1)), np.ones((40, 131_071), np.int8)
packed = np.packbits(rows >= 0, axis=1, bitorder="little")
order, mask = rng.permutation(100_000), rng.random(100_000) < 0.5
ids = np.arange(1_000_000)
listed = ids.tolist()
index, bits, small = cx.Index(16), cx.BinaryIndex(16), cx.Index(16)
index.add(rows, order), bits.add(packed), small.add(rows[:1000])
index.save(path)
for name, call in calls.items():
    outcomes = []
    for room in (0, 256 << 10, 1 << 20, 4 << 20, 12 << 20, 40 << 20, 1 << 30):
        child = os.fork()
        if child == 0:
            outcome = 3
            try:
                used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + room
                resource.setrlimit(resource.RLIMIT_AS, (used, used))
                eval(call)
                outcome = 0
            except MemoryError:
                outcome = 1
            except ValueError as error:
                outcome = 1 if "do not fit in memory" in str(error) else 2
            finally:
                os._exit(outcome)
        outcomes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(name, outcomes, sep=": ", flush=True)
"""


@pytest.mark.timeout(120)
def test_a_call_that_does_not_fit_in_memory_raises_memory_error(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(CALLS), str(tmp_path / "index")],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    outcomes = dict(line.split(": ") for line in run.stdout.splitlines())
    assert outcomes.keys() == CALLS.keys()
    refused = 0
    for name, text in outcomes.items():
        codes = [int(code) for code in text.strip("[]").split(", ")]
        assert set(codes) <= {0, 1}, (name, codes, run.stderr[-2000:])
        assert codes[-1] == 0, (name, codes)  # a gigabyte is enough
        refused += codes[0]
    assert refused > len(CALLS) // 2  # the others found room in memory that was freed before
