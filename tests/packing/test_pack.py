"""Packing: every request keeps every limit, and a packing reported as optimal is optimal."""

from __future__ import annotations

import itertools
import pickle
import signal
import threading
import tracemalloc

import numpy as np
import pytest
from ctxembed import Limits, Packing, _core, pack
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_families import FAMILIES, both_exact

from tests import short_memory
from tests.threads import once_released

ORDERS = ("any", "input", "window")


def check(packing: Packing, tokens, chunks, limits: Limits) -> None:
    """Assert that every document is in exactly one request, and that every request keeps every limit."""
    n = len(tokens)
    chunks = np.ones(n, dtype=np.int64) if chunks is None else np.asarray(chunks)
    costs = np.asarray(tokens) + chunks - 1
    assert packing.request_of.dtype == np.int64
    assert packing.request_of.shape == (n,)
    assert sorted(itertools.chain.from_iterable(r.tolist() for r in packing.requests)) == list(range(n))
    firsts = []
    for number, request in enumerate(packing.requests):
        assert request.dtype == np.int64
        assert (np.diff(request) > 0).all()
        assert (packing.request_of[request] == number).all()
        assert 1 <= len(request) <= limits.documents
        assert chunks[request].sum() <= limits.chunks
        assert costs[request].sum() <= limits.tokens
        firsts.append(int(request[0]))
    assert firsts == sorted(firsts)
    assert packing.lower_bound <= len(packing.requests)
    if packing.optimal:
        assert packing.lower_bound == len(packing.requests)


def fewest(costs, chunks, limits: Limits) -> int:
    """Find the optimum by exhaustive search: each document into every open request, or into a new one."""
    best = len(costs)

    def place(i: int, rooms: list[list[int]]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if i == len(costs):
            best = len(rooms)
            return
        seen = set()
        for room in rooms:
            key = tuple(room)
            if key in seen or room[0] < costs[i] or room[1] < chunks[i] or room[2] < 1:
                continue
            seen.add(key)
            room[0] -= costs[i]
            room[1] -= chunks[i]
            room[2] -= 1
            place(i + 1, rooms)
            room[0] += costs[i]
            room[1] += chunks[i]
            room[2] += 1
        rooms.append([limits.tokens - costs[i], limits.chunks - chunks[i], limits.documents - 1])
        place(i + 1, rooms)
        rooms.pop()

    place(0, [])
    return best


def fewest_contiguous(costs, chunks, limits: Limits) -> int:
    """Find the optimum of contiguous requests by dynamic programming."""
    fewest_of = [0]
    for end in range(1, len(costs) + 1):
        options = []
        for start in range(end - 1, max(-1, end - 1 - limits.documents), -1):
            if sum(costs[start:end]) > limits.tokens or sum(chunks[start:end]) > limits.chunks:
                break
            options.append(fewest_of[start] + 1)
        fewest_of.append(min(options))
    return fewest_of[-1]


@st.composite
def small_instances(draw):
    tokens_limit = draw(st.integers(4, 60))
    chunks_limit = draw(st.integers(2, 12))
    documents_limit = draw(st.integers(1, 5))
    n = draw(st.integers(1, 9))
    chunks = draw(st.lists(st.integers(1, min(chunks_limit, tokens_limit)), min_size=n, max_size=n))
    tokens = [draw(st.integers(1, tokens_limit - count + 1)) for count in chunks]
    limits = Limits(
        documents=documents_limit, chunks=chunks_limit, tokens_per_document=tokens_limit, tokens=tokens_limit
    )
    return tokens, chunks, limits


@settings(max_examples=300, deadline=None)
@given(small_instances(), st.sampled_from([0, 0.01]))
def test_small_instances_keep_the_limits_and_bounds_never_exceed_the_optimum(instance, effort):
    tokens, chunks, limits = instance
    costs = [t + c - 1 for t, c in zip(tokens, chunks, strict=True)]
    optimum = fewest(costs, chunks, limits)
    for order in ORDERS:
        packing = pack(tokens, chunks, limits=limits, order=order, effort=effort)
        check(packing, tokens, chunks, limits)
        assert optimum <= len(packing.requests)
        if order != "input":
            assert packing.lower_bound <= optimum
            if packing.optimal:
                assert len(packing.requests) == optimum


@settings(max_examples=200, deadline=None)
@given(small_instances())
def test_small_instances_are_packed_optimally_with_some_effort(instance):
    tokens, chunks, limits = instance
    costs = [t + c - 1 for t, c in zip(tokens, chunks, strict=True)]
    packing = pack(tokens, chunks, limits=limits, effort=0.05)
    assert len(packing.requests) == fewest(costs, chunks, limits)


@settings(max_examples=200, deadline=None)
@given(small_instances())
def test_input_order_gives_the_fewest_contiguous_requests(instance):
    tokens, chunks, limits = instance
    costs = [t + c - 1 for t, c in zip(tokens, chunks, strict=True)]
    packing = pack(tokens, chunks, limits=limits, order="input")
    assert packing.optimal
    assert len(packing.requests) == fewest_contiguous(costs, chunks, limits)
    assert all((np.diff(request) == 1).all() for request in packing.requests)


@pytest.mark.parametrize("family", FAMILIES)
def test_effort_never_makes_a_packing_worse(family):
    for n in (60, 250):
        case = FAMILIES[family](np.random.default_rng(n), n)
        plain = pack(case.tokens, case.chunks, limits=case.limits, effort=0)
        better = pack(case.tokens, case.chunks, limits=case.limits, effort=0.1)
        for packing in (plain, better):
            check(packing, case.tokens, case.chunks, case.limits)
            if case.optimum is not None:
                assert packing.lower_bound <= case.optimum <= len(packing.requests)
        assert len(better.requests) <= len(plain.requests)
        assert better.lower_bound >= plain.lower_bound


@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_are_packed_with_a_proven_optimum(family):
    for n in (60, 120, 250, 1000):
        for seed in range(3):
            case = FAMILIES[family](np.random.default_rng([seed, n]), n)
            packing = pack(case.tokens, case.chunks, limits=case.limits, effort=5.0)
            check(packing, case.tokens, case.chunks, case.limits)
            assert packing.optimal, (n, seed, packing)


@pytest.mark.parametrize(
    ("family", "n", "seed", "effort"),
    [
        # Few documents a request and no token to spare: too many tight subsets for a plain search.
        ("cut_few", 80, 1003, 1.0),
        ("cut_few", 80, 1004, 1.0),
        ("cut_few", 80, 1006, 1.0),
        ("cut_few", 80, 1007, 1.0),
        # A search with a wrong early branch does not recover, so it must restart.
        ("triplets", 100, 1001, 0.05),
        ("triplets", 100, 1009, 0.05),
        ("triplets", 120, 1008, 0.05),
        # Requests must be filled in tokens and in chunks at once.
        ("both_tight", 60, 1005, 1.0),
        ("both_tight", 60, 1008, 1.0),
        ("both_tight", 60, 1009, 1.0),
        ("both_tight", 80, 1001, 1.0),
        ("both_tight", 80, 1004, 1.0),
        ("both_tight", 80, 1010, 1.0),
    ],
)
def test_instances_that_once_took_a_request_too_many_are_packed_optimally(family, n, seed, effort):
    case = FAMILIES[family](np.random.default_rng([seed, n]), n)
    packing = pack(case.tokens, case.chunks, limits=case.limits, effort=effort)
    check(packing, case.tokens, case.chunks, case.limits)
    assert len(packing.requests) == case.optimum


def test_the_same_call_gives_the_same_packing_on_a_busy_machine():
    case = both_exact(np.random.default_rng(5), 240)
    # The budget of steps ends the search, because no optimum is found.
    alone = pack(case.tokens, case.chunks, limits=case.limits, effort=0.2)
    assert not alone.optimal
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(pack(case.tokens, case.chunks, limits=case.limits, effort=0.2)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone.request_of, one.request_of) for one in found)


def test_the_window_bounds_the_distance_between_documents_of_a_request():
    limits = Limits(documents=4, tokens=1000, tokens_per_document=1000)
    tokens = np.random.default_rng(1).integers(1, 300, 5000)
    packing = pack(tokens, limits=limits, order="window")
    check(packing, tokens, None, limits)
    for number, request in enumerate(packing.requests):
        packed_before = sum(len(r) for r in packing.requests[:number])
        # At most eight full requests of documents are read beyond those already packed.
        assert request[-1] < packed_before + 8 * limits.documents
    assert len(packing.requests) <= len(pack(tokens, limits=limits, order="input").requests)


def test_separators_count_as_tokens():
    limits = Limits(tokens=100, tokens_per_document=100)
    assert len(pack([50, 50], limits=limits).requests) == 1
    assert len(pack([50, 50], [1, 2], limits=limits).requests) == 2


def test_no_documents_give_no_requests():
    for empty in ([], (), np.array([]), np.zeros(0, dtype=np.int32)):
        for order in ORDERS:
            packing = pack(empty, order=order)
            assert (packing.requests, packing.lower_bound, packing.optimal) == ([], 0, True)
            assert packing.request_of.shape == (0,)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4"])
def test_every_integer_dtype_is_accepted(dtype):
    counts = np.array([100, 20, 3], dtype=dtype)
    assert len(pack(counts, counts[::-1].copy().astype(dtype)).requests) == 1
    assert len(pack(counts[::2]).request_of) == 2


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([1, 2.5], TypeError, r"token_counts\[1\] must be an int, got 2.5"),
        ([1, float("nan")], TypeError, r"token_counts\[1\] must be an int, got nan"),
        ([True, 2], TypeError, r"token_counts\[0\] must be an int, got True"),
        (["3"], TypeError, r"token_counts\[0\] must be an int, got '3'"),
        ("123", TypeError, "token_counts must be a sequence of ints, got str"),
        (7, TypeError, "token_counts must be a sequence of ints, got int"),
        (np.array([1.0, 2.5]), TypeError, r"dtype float64: token_counts\[1\] = 2.5"),
        (np.array([True]), TypeError, r"token_counts\[0\] must be an int, got True"),
        (np.ones((2, 2), dtype=int), ValueError, r"one dimension, got shape \(2, 2\)"),
        (
            np.ma.array([3, 4], mask=[0, 1]),
            TypeError,
            "token_counts must be an array without a mask, got a MaskedArray",
        ),
        ([3, 0], ValueError, r"token_counts\[1\] must be at least 1, got 0"),
        ([3, -1], ValueError, r"token_counts\[1\] must be at least 1, got -1"),
        ([1, 2**70], ValueError, r"token_counts\[1\] = 1180591620717411303424 does not fit int64"),
        (np.array([1, 2**64 - 1], dtype=np.uint64), ValueError, r"token_counts\[1\] = 18446744073709551615"),
        ([32_001], ValueError, "document 0 costs 32001 tokens, more than limits.tokens_per_document = 32000"),
    ],
)
def test_invalid_token_counts_are_rejected_by_position(counts, error, message):
    with pytest.raises(error, match=message):
        pack(counts)


def test_invalid_chunk_counts_are_rejected_by_position():
    with pytest.raises(ValueError, match=r"one entry a document: expected 2, got 1"):
        pack([1, 2], [1])
    with pytest.raises(ValueError, match=r"chunk_counts\[1\] must be at least 1, got 0"):
        pack([1, 2], [1, 0])
    with pytest.raises(ValueError, match=r"document 0 has 16001 chunks, more than limits.chunks = 16000"):
        pack([20_000], [16_001])
    with pytest.raises(ValueError, match=r"document 0 costs 32001 tokens \(31999 and 2 separators\)"):
        pack([31_999], [3])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": "random"}, ValueError, "order must be 'any', 'input' or 'window', got \"random\""),
        ({"order": 3}, TypeError, "order must be"),
        ({"effort": -1}, ValueError, "effort must be a finite number of seconds >= 0, got -1"),
        ({"effort": float("nan")}, ValueError, "effort .* got nan"),
        ({"effort": float("inf")}, ValueError, "effort .* got inf"),
        ({"effort": "1"}, TypeError, "effort must be a number of seconds, got '1'"),
        ({"effort": True}, TypeError, "effort must be a number of seconds, got True"),
        ({"limits": 5}, TypeError, "limits must be a ctxembed.Limits, got 5"),
    ],
)
def test_invalid_options_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        pack([1, 2], **options)


def test_a_packing_is_frozen_and_pickles():
    packing = pack([60, 50, 40], limits=Limits(tokens=100))
    with pytest.raises(AttributeError):
        packing.lower_bound = 1
    with pytest.raises(ValueError, match="read-only"):
        packing.request_of[0] = 1
    again = pickle.loads(pickle.dumps(packing))
    assert repr(again) == repr(packing) == "Packing(requests=2, documents=3, lower_bound=2, optimal=True)"
    assert [r.tolist() for r in again.requests] == [r.tolist() for r in packing.requests] == [[0, 2], [1]]


def test_the_input_is_not_changed():
    counts = np.array([5, 3, 9])
    pack(counts)
    assert counts.tolist() == [5, 3, 9]


def test_the_order_of_a_million_documents_does_not_change_the_number_of_requests():
    rng = np.random.default_rng(3)
    random = rng.integers(1, 32_001, 1_000_000)
    packings = [pack(tokens, effort=0) for tokens in (random, np.sort(random), np.sort(random)[::-1].copy())]
    found = [(len(packing), packing.lower_bound) for packing in packings]
    assert found == [found[0]] * 3


@pytest.mark.parametrize(
    ("tokens", "requests"),
    [
        (np.full(1_000_000, 25_000), 250_000),
        (np.ones(1_000_000, dtype=np.int64), 1954),  # 512 a request
        (np.where(np.arange(1_000_000) % 2, 1, 32_000), 166_667),
    ],
)
def test_a_million_documents_of_one_or_two_sizes_are_packed_optimally(tokens, requests):
    packing = pack(tokens, effort=0)
    assert (len(packing), packing.lower_bound) == (requests, requests)


def test_many_documents_bound_by_tokens_and_chunks_leave_little_room():
    rng = np.random.default_rng(1)
    chunks = rng.integers(1, 1000, 20_000)
    tokens = np.minimum(np.ceil(rng.lognormal(7.8, 1.06, 20_000)).astype(np.int64), 32_000 - chunks)
    packing = pack(tokens, chunks)
    check(packing, tokens, chunks, Limits())
    # Best-fit by tokens alone takes a fifth more requests than the bound, contiguous requests a twentieth.
    assert len(packing) < 1.03 * packing.lower_bound


@pytest.mark.parametrize("by_chunks", [False, True])
def test_many_documents_bound_by_their_number_and_another_limit_leave_little_room(by_chunks):
    sizes = np.ceil(np.random.default_rng(2).lognormal(2, 1, 60_000)).clip(1, 150).astype(np.int64)
    chunks = sizes if by_chunks else None
    limits = Limits(documents=10, chunks=150) if by_chunks else Limits(documents=10, tokens=150)
    packing = pack(sizes, chunks, limits=limits)
    check(packing, sizes, chunks, limits)
    # Best-fit packs small documents last, where their number fills requests: a tenth more than the bound.
    assert len(packing) < 1.03 * packing.lower_bound


def test_effort_ends_with_many_documents():
    # A gap to the bound remains here, but none of the emptiest requests can be saved.
    counts = np.random.default_rng(0).integers(1, 32_001, 300_000)
    check(pack(counts, effort=0.2), counts, None, Limits())


def test_a_million_documents_take_little_memory():
    counts = np.random.default_rng(4).integers(1, 32_001, 1_000_000)
    tracemalloc.start()
    packing = pack(counts, effort=0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # tracemalloc sees the arrays: the request of each document, the documents of each request, and the offsets.
    assert held < 20e6
    assert len(packing.request_of) == 1_000_000


def test_ctrl_c_interrupts_a_long_search():
    case = both_exact(np.random.default_rng(0), 500)
    with pytest.raises(KeyboardInterrupt), once_released(lambda: signal.raise_signal(signal.SIGINT)):
        pack(case.tokens, case.chunks, limits=case.limits, effort=1e6)  # would run into the timeout


def test_concurrent_calls_give_the_same_packing():
    case = FAMILIES["triplets"](np.random.default_rng(7), 120)
    expected = pack(case.tokens, limits=case.limits, effort=1).request_of
    found = [None] * 8

    def work(i: int) -> None:
        found[i] = pack(case.tokens, limits=case.limits, effort=1).request_of

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(expected, one) for one in found)


SHORT = {
    "any": "ctxembed.pack(tokens)",
    "any, chunks": "ctxembed.pack(tokens, chunks)",
    "any, improved": "ctxembed.pack(tokens % 300 + 9_000, effort=0.2, limits=ctxembed.Limits(tokens=32_000))",
    "input": 'ctxembed.pack(tokens, order="input")',
    "window": 'ctxembed.pack(tokens, order="window")',
}


@pytest.mark.parametrize("call", SHORT)
def test_short_memory_is_a_memory_error(call):
    setup = """
rng = np.random.default_rng(1)
tokens, chunks = rng.integers(1_000, 30_000, 200_000), rng.integers(1, 1_000, 200_000)
"""
    assert short_memory.outcomes(setup, SHORT[call])[0] == "MemoryError"


def test_counts_that_are_not_aligned_are_copied():
    memory = np.zeros(8 * 100 + 1, np.uint8)
    counts = memory[1:].view(np.int64)
    counts[:] = np.arange(1, 101)
    assert not counts.flags.aligned
    aligned = counts.copy()
    assert pack(counts, counts).request_of.tolist() == pack(aligned, aligned).request_of.tolist()
    with pytest.raises(ValueError, match="token_counts must be aligned"):
        _core.pack(counts, None, (512, 16_000, 32_000, 120_000), "any", 0.0)
