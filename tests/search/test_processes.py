"""What happens around a search: other paths of the kernels, signals, forks, memory, documentation."""

import doctest
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import ctxembed
import numpy as np
import pytest
from ctxembed import _core as cx

from .conftest import int8, packed

EVERYTHING = """
import hashlib, sys
import numpy as np
from ctxembed import _core as cx
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for width in (1, 7, 64, 100, 128, 1024):
    rows = rng.integers(-128, 128, (700, width), dtype=np.int8)
    rows[::5] = rows[0] // 2
    for count in (1, 3, 6, 20):
        queries = rng.integers(-128, 128, (count, width), dtype=np.int8)
        bits, query_bits = rows.view(np.uint8), queries.view(np.uint8)
        index = cx.Index(width)
        index.add(rows)
        for array in (
            cx.hamming(query_bits, bits), cx.dot(queries, rows), cx.cosine(queries, rows),
            *cx.top_k(query_bits, bits, 50), *cx.top_k(queries, rows, 50), *cx.top_k(queries, rows, 50, metric="dot"),
            *index.search(queries, 50), *index.search(queries, 50, stage="binary"),
            *index.search(queries, 50, metric="asymmetric"), *index.search(queries, 9, stage="two-stage", oversample=9),
            *index.search(queries, 9, dimensions=(width + 1) // 2), *index.search(queries, 9, mask=np.arange(50)),
            index.search_range(queries, 0.1).ids, index.search_range(queries, 9, metric="asymmetric").scores,
            *index.near_duplicates(0.9), *index.near_duplicates(width // 4, metric="hamming"),
            index.calibrate(queries, 9).recalls,
        ):
            digest.update(array.tobytes())
print(dict(cx.isa_paths())["dot"], digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bytes():
    digests = {}
    for isa in ("scalar", "avx2", "avx512", "amx"):
        run = subprocess.run(
            [sys.executable, "-c", EVERYTHING],
            env=os.environ | {"CTXEMBED_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        used, digest = run.stdout.split()
        digests[used] = digest
    assert "scalar" in digests
    assert len(set(digests.values())) == 1, digests
    assert all(len(digest) == hashlib.sha256().digest_size * 2 for digest in digests.values())


ENDLESS = """
import numpy as np
from ctxembed import _core as cx
rows = np.zeros((1_000_000, 64), np.uint8)
print("ready", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


INDEX = "index = cx.Index(64); index.add(rows.view(np.int8)); print('go', flush=True);"
LONG = {
    "top_k": "print('go', flush=True); cx.top_k(np.zeros((100_000, 64), np.uint8), rows, 10, threads={threads})",
    "near_duplicates": f"{INDEX} index.near_duplicates(0.5, threads={{threads}})",
    "near_duplicates of bits": f"{INDEX} index.near_duplicates(-1, metric='hamming', threads={{threads}})",
    "calibrate": f"{INDEX} index.calibrate(np.ones((100_000, 64), np.int8), 10, threads={{threads}})",
    "two stages": f"{INDEX} index.search(np.ones((100_000, 64), np.int8), 10, stage='two-stage', threads={{threads}})",
    "search_range": f"{INDEX} index.search_range(np.ones((100_000, 64), np.int8), 2.0, threads={{threads}})",
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", LONG)
def test_ctrl_c_ends_a_long_search_within_a_second(threads, call):
    call = LONG[call].format(threads=threads)
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS.format(call=call)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            assert process.stdout.readline() == "go\n"
            time.sleep(0.7)
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - start < 1
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_what_a_signal_handler_raises_comes_out_of_the_search_soon():
    class Custom(Exception):  # noqa: N818 - not an error
        pass

    def handler(signum, frame):
        raise Custom

    rows = np.zeros((400_000, 64), np.uint8)
    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    start = time.monotonic()
    try:
        with pytest.raises(Custom):
            cx.top_k(np.zeros((100_000, 64), np.uint8), rows, 10)
        assert time.monotonic() - start < 1.2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def test_a_signal_handler_may_use_the_index_that_is_being_searched(rng):
    index = cx.Index(64)
    index.add(int8(rng, 60_000, 64))
    added = []

    def handler(signum, frame):
        added.append(len(index.add(np.ones((2, 64), np.int8))))

    old = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        found = index.search(int8(rng, 20_000, 64), 5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert added == [2]
    assert len(index) == 60_002
    assert found.ids.max() < 60_000


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_a_search_finds_the_same(rng):
    rows = packed(rng, 60_000, 128)
    expected = cx.top_k(rows[:20], rows, 5, threads=4)
    child = os.fork()
    if child == 0:
        found = cx.top_k(rows[:20], rows, 5, threads=4)
        os._exit(0 if np.array_equal(found.ids, expected.ids) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_two_stages_and_pairs_finds_the_same(rng):
    index = cx.Index(64)
    index.add(int8(rng, 20_000, 64))
    queries = int8(rng, 20, 64)

    def everything():
        recalls = index.calibrate(queries, 5, threads=4).recalls
        stages = index.search(queries, 5, stage="two-stage", threads=4)
        return [recalls, stages.ids, index.near_duplicates(0.6, threads=4).ids]

    expected = everything()
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(everything(), expected, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_does_not_grow_with_searches_nor_with_queries_times_rows():
    code = """
import resource
import numpy as np
from ctxembed import _core as cx
rows = np.random.default_rng(0).integers(0, 256, (100_000, 32), dtype=np.uint8)
cx.top_k(rows[:2000], rows, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(3):
    cx.top_k(rows[:4000], rows, 10)
for _ in range(2000):
    cx.top_k(rows[0], rows[:2000], 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    # All scores of the large searches would be 1.6 GB.
    assert int(run.stdout) < 20_000


def test_other_threads_run_while_a_search_does(rng):
    rows, turns, done = packed(rng, 300_000, 128), [], threading.Event()

    def count():
        while not done.is_set():
            turns.append(time.monotonic())
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    start = time.monotonic()
    cx.top_k(rows[:300], rows, 10, threads=1)
    end = time.monotonic()
    done.set()
    counter.join()
    assert sum(start < turn < end for turn in turns) > 5


PUBLIC = [
    *("hamming", "dot", "cosine", "top_k", "Matches", "Index", "BinaryIndex"),
    *("RangeMatches", "Pairs", "Calibration"),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_in_the_documentation_run(name, monkeypatch):
    for public in PUBLIC:
        monkeypatch.setattr(ctxembed, public, getattr(cx, public), raising=False)
    text = getattr(cx, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
