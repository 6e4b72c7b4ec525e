"""Searches and processes: instruction sets, signals, forks, memory, other threads; examples in docstrings."""

import doctest
import hashlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import _core as cx

from tests.threads import once_released, releases_the_interpreter

from .conftest import int8, packed

ROOT = Path(__file__).resolve().parents[2]

ALL_RESULTS = """
import hashlib, sys
import numpy as np
from ctxembed import _core as cx
rng = np.random.default_rng(5)
digest = hashlib.sha256()
for width in (1, 7, 64, 100, 128, 1024):
    rows = rng.integers(-128, 128, (700, width), dtype=np.int8)
    rows[::5] = rows[0] // 2
    for count in (1, 3, 6, 20, 130):
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


def test_every_instruction_set_gives_the_same_results():
    digests = {}
    for isa in cx.isa_names():
        run = subprocess.run(
            [sys.executable, "-c", ALL_RESULTS],
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


# Each search takes longer than the timeout of the test. Another thread prints "searching" once it is under way.
ENDLESS = """
import numpy as np
from ctxembed import _core as cx
from tests.threads import once_released
rows = np.zeros((1_000_000, 64), np.uint8)
queries = np.zeros((2_000_000, 64), np.uint8)
index = cx.Index(64)
index.add(rows.view(np.int8))
try:
    with once_released(lambda: print("searching", flush=True)):
        {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
CALLS = {
    "top_k": "cx.top_k(queries, rows, 10, threads={threads})",
    "near_duplicates": "index.near_duplicates(0.5, threads={threads})",
    "near_duplicates of bits": "index.near_duplicates(-1, metric='hamming', threads={threads})",
    "calibrate": "index.calibrate(queries.view(np.int8), 10, threads={threads})",
    "two stages": "index.search(queries.view(np.int8), 10, stage='two-stage', threads={threads})",
    "search_range": "index.search_range(queries.view(np.int8), 2.0, threads={threads})",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_interrupts_a_search(threads, call):
    program = ENDLESS.format(call=CALLS[call].format(threads=threads))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == "searching\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert process.wait() == 0
        finally:
            process.kill()


@contextmanager
def sigalrm_handler(handler):
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.timeout(60)
def test_a_search_raises_what_a_signal_handler_raises():
    class Custom(Exception):  # noqa: N818 - not an error
        pass

    def handler(signum, frame):
        raise Custom

    rows, queries = np.zeros((400_000, 64), np.uint8), np.zeros((4_000_000, 64), np.uint8)  # minutes of work
    with (
        sigalrm_handler(handler),
        pytest.raises(Custom),
        once_released(lambda: signal.raise_signal(signal.SIGALRM)),
    ):
        cx.top_k(queries, rows, 10)


def test_a_signal_handler_can_add_to_the_index_that_is_being_searched(rng):
    index = cx.Index(64)
    index.add(int8(rng, 60_000, 64))
    queries = int8(rng, 20_000, 64)
    added = []

    def handler(signum, frame):
        added.append(len(index.add(np.ones((2, 64), np.int8))))

    with sigalrm_handler(handler), once_released(lambda: signal.raise_signal(signal.SIGALRM)):
        found = index.search(queries, 5)
    assert added == [2]
    assert len(index) == 60_002
    assert found.ids.max() < 60_000


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_search(rng):
    rows = packed(rng, 60_000, 128)
    expected = cx.top_k(rows[:20], rows, 5, threads=4)
    child = os.fork()
    if child == 0:
        found = cx.top_k(rows[:20], rows, 5, threads=4)
        os._exit(0 if np.array_equal(found.ids, expected.ids) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_calibrate_and_find_duplicates(rng):
    index = cx.Index(64)
    index.add(int8(rng, 20_000, 64))
    queries = int8(rng, 20, 64)

    def results():
        recalls = index.calibrate(queries, 5, threads=4).recalls
        stages = index.search(queries, 5, stage="two-stage", threads=4)
        return [recalls, stages.ids, index.near_duplicates(0.6, threads=4).ids]

    expected = results()
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(results(), expected, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_does_not_grow_with_the_number_of_searches_or_scores():
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
    # All scores of one large search would take 1.6 GB.
    assert int(run.stdout) < 20_000


def test_other_threads_run_while_a_search_does(rng):
    rows = packed(rng, 50_000, 128)
    index = cx.Index(128)
    index.add(rows.view(np.int8))
    assert releases_the_interpreter(lambda: cx.top_k(rows[:20], rows, 10, threads=1))
    assert releases_the_interpreter(lambda: index.search(rows[:20].view(np.int8), 10, threads=1))


PUBLIC = [
    *("hamming", "dot", "cosine", "top_k", "Matches", "Index", "BinaryIndex"),
    *("RangeMatches", "Pairs", "Calibration"),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_examples_run(name, monkeypatch):
    for public in PUBLIC:
        monkeypatch.setattr(ctxembed, public, getattr(cx, public), raising=False)
    text = getattr(cx, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
