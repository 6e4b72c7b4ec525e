"""Shared scans: which searches share one, which wait, and that each finds what it would find alone."""

from __future__ import annotations

import threading

import ctxembed
import numpy as np
import pytest
from ctxembed._collection.query import SearchOptions
from ctxembed._server.search.scans import ScannedRows, ScanQueue, ScanQueueClosedError, ScanQueueFullError
from hypothesis import given, settings
from hypothesis import strategies as st

DIMS = 64


class GatedIndex:
    """An index of which each search waits until it may begin, and is written down."""

    def __init__(self, index):
        self.index = index
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.searches = []

    def search(self, queries, k, **options):
        self.searches.append((len(queries), k))
        self.begun.release()
        assert self.gate.acquire(timeout=30)
        return self.index.search(queries, k, **options)


class State:
    """What a queue needs of a view."""

    def __init__(self, index):
        self.index = index


def rows(count, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, (count, DIMS), dtype=np.int8)


def options(k, mask=None, stage="exact", oversample=None, dimensions=None):
    return SearchOptions(k, mask, stage, oversample, dimensions)


@pytest.fixture
def index():
    found = ctxembed.Index(DIMS)
    found.add(rows(500))
    return found


@pytest.fixture
def gated(index):
    return GatedIndex(index)


@pytest.fixture
def queue():
    found = ScanQueue(max_waiting=16)
    yield found
    found.close()


class Results(list):
    """Collects scans that are done."""

    def __init__(self):
        super().__init__()
        self.count = threading.Semaphore(0)

    def __call__(self, scan):
        self.append(scan)
        self.count.release()

    def wait(self, count):
        for _ in range(count):
            assert self.count.acquire(timeout=30)
        return [scan.result for scan in self]


def test_a_query_alone_is_scanned_at_once(index, queue):
    query = rows(1, 1)
    found = queue.scan(State(index), query[0], options(3))
    expected = index.search(query, 3)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)
    assert found.queries == 1


def test_queries_that_arrive_while_a_scan_runs_share_the_next(gated, queue):
    state, done, queries = State(gated), Results(), rows(6, 1)
    queue.submit(state, queries[:1], options(3), done)
    assert gated.begun.acquire(timeout=30)
    for query in queries[1:]:
        queue.submit(state, query.reshape(1, -1), options(3), done)
    gated.gate.release(2)
    found = done.wait(6)
    assert gated.searches == [(1, 3), (5, 3)]
    assert [rows.queries for rows in found] == [1, 5, 5, 5, 5, 5]
    expected = gated.index.search(queries, 3)
    assert np.array_equal(np.concatenate([rows.ids for rows in found]), expected.ids)


def test_other_options_another_state_and_another_filter_are_other_scans(gated, index, queue):
    state, done, query = State(gated), Results(), rows(1, 1)
    mask = np.ones(500, np.bool_)
    kinds = [
        (state, options(3)),
        (State(gated), options(3)),
        (state, options(3, mask)),
        (state, options(3, mask.copy())),
        (state, options(3, dimensions=32)),
        (state, options(3, stage="two-stage", oversample=4)),
        (state, options(3, stage="two-stage", oversample=8)),
        (state, options(4, stage="two-stage", oversample=4)),  # k says how many rows the first stage keeps
    ]
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    for state_, options_ in [*kinds, *kinds]:
        queue.submit(state_, query, options_, done)
    gated.gate.release(1 + len(kinds))
    done.wait(1 + 2 * len(kinds))
    assert [count for count, _ in gated.searches] == [1] + [2] * len(kinds)
    del index


def test_a_large_k_shares_no_scan_with_a_small_one_and_the_longest_wait_goes_first(gated, queue):
    state, done, query = State(gated), Results(), rows(1, 1)
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    for k in (400, 2, 5000, 3, 500):
        queue.submit(state, query, options(k), done)
    gated.gate.release(4)
    done.wait(6)
    assert gated.searches == [(1, 1), (2, 500), (2, 3), (1, 5000)]


def test_many_queries_with_a_large_k_are_several_scans_between_those_with_a_small_one(gated):
    queue = ScanQueue()
    state, done, query = State(gated), Results(), rows(1, 1)
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    for _ in range(20):
        queue.submit(state, query, options(10_000), done)
    queue.submit(state, query, options(10), done)
    gated.gate.release(6)
    done.wait(22)
    queue.close()
    # 65,536 rows at most. What is left waits behind the small one.
    assert gated.searches == [(1, 1), (6, 10_000), (1, 10), (6, 10_000), (6, 10_000), (2, 10_000)]


def test_a_cancelled_query_is_not_scanned(gated, queue):
    state, done, query = State(gated), Results(), rows(1, 1)
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    scans = [queue.submit(state, query, options(2), done) for _ in range(3)]
    scans[1].cancel()
    gated.gate.release(2)
    done.wait(3)
    assert gated.searches == [(1, 1), (2, 2)]
    assert scans[1] not in done


class JumpingClock:
    """A clock that a test moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_scan_waits_for_as_many_as_the_last_one_had(gated):
    clock = JumpingClock()
    queue = ScanQueue(monotonic=clock)
    state, done, query = State(gated), Results(), rows(1, 1)
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    for _ in range(3):
        queue.submit(state, query, options(1), done)
    gated.gate.release()
    assert gated.begun.acquire(timeout=30)
    clock.now += 1000  # the scan of three takes so long, and then the clock stands
    gated.gate.release()
    done.wait(4)
    for _ in range(2):
        queue.submit(state, query, options(1), done)
    assert not gated.begun.acquire(timeout=0.2)
    queue.submit(state, query, options(1), done)
    gated.gate.release()
    done.wait(3)
    assert gated.searches == [(1, 1), (3, 1), (3, 1)]
    queue.submit(state, query, options(1), done)
    gated.gate.release()
    queue.close()  # waits for nobody


def test_a_scan_waits_no_longer_than_the_last_one_took(gated):
    queue = ScanQueue()
    state, done, query = State(gated), Results(), rows(1, 1)
    gated.gate.release(100)
    for _ in range(3):
        queue.submit(state, query, options(1), done)
    done.wait(3)
    queue.submit(state, query, options(1), done)  # the others do not come back
    done.wait(1)
    queue.close()


def test_one_query_a_scan_shares_nothing(gated):
    queue = ScanQueue(max_queries=1)
    state, done, query = State(gated), Results(), rows(1, 1)
    for _ in range(3):
        queue.submit(state, query, options(2), done)
    gated.gate.release(3)
    done.wait(3)
    queue.close()
    assert gated.searches == [(1, 2)] * 3


def test_an_error_belongs_to_those_who_shared_the_scan(index, queue):
    with pytest.raises(ValueError, match="dimensions"):
        queue.scan(State(index), rows(1, 1)[0], options(2, dimensions=DIMS + 1))
    assert queue.scan(State(index), rows(1, 1)[0], options(2)).ids.shape == (1, 2)


def test_a_full_queue_takes_no_more(gated, queue):
    state, done, query = State(gated), Results(), rows(1, 1)
    queue.submit(state, query, options(1), done)
    assert gated.begun.acquire(timeout=30)
    for _ in range(16):
        queue.submit(state, query, options(1), done)
    assert len(queue) == 16
    with pytest.raises(ScanQueueFullError):
        queue.submit(state, query, options(1), done)
    gated.gate.release(2)
    done.wait(17)


def test_a_queue_that_closes_scans_what_waits(gated, queue):
    state, done, query = State(gated), Results(), rows(1, 1)
    for _ in range(3):
        queue.submit(state, query, options(1), done)
    gated.gate.release(3)
    queue.close()
    assert len(done) == 3
    with pytest.raises(ScanQueueClosedError):
        queue.submit(state, query, options(1), done)


def test_each_scan_is_reported(index):
    reported = []
    queue = ScanQueue(on_scan=lambda queries, seconds: reported.append((queries, seconds >= 0)))
    queue.scan(State(index), rows(1, 1)[0], options(2))
    queue.close()
    assert reported == [(1, True)]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 1200), st.sampled_from(["all", "half", "few"])), min_size=1, max_size=20),
    near=st.booleans(),
)
def test_whatever_shares_a_scan_each_query_finds_what_it_finds_alone(sizes, near):
    stored = rows(700, 3) if not near else np.tile(rows(7, 3), (100, 1))  # many ties
    index = ctxembed.Index(DIMS)
    index.add(stored)
    masks = {"all": None, "half": np.arange(700) % 2 == 0, "few": np.arange(700) < 5}
    gated = GatedIndex(index)
    queue, state, done, queries = ScanQueue(), State(gated), Results(), rows(len(sizes), 4)
    gated.gate.release(2 * len(sizes))
    scans = [
        queue.submit(state, queries[place : place + 1], options(k, masks[mask]), done)
        for place, (k, mask) in enumerate(sizes)
    ]
    done.wait(len(sizes))
    queue.close()
    for place, (k, mask) in enumerate(sizes):
        alone = index.search(queries[place : place + 1], k, mask=masks[mask])
        found = scans[place].result
        assert isinstance(found, ScannedRows)
        assert np.array_equal(found.ids, alone.ids)
        assert np.array_equal(found.scores, alone.scores)
