"""top_k: the best rows of an array for each query."""

import pickle

import numpy as np
import pytest
from ctxembed import _core as cx
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import cosine_order, dot_oracle, hamming_oracle, int8, packed, ranked


def oracle(queries, rows, k, metric, mask=None):
    """Return ids and scores by numpy and Python's integers."""
    ids = np.arange(len(rows)) if mask is None else np.flatnonzero(mask)
    rows = rows[ids]
    if metric == "hamming":
        return ranked(hamming_oracle(queries, rows), ids, k)
    if metric == "dot":
        return ranked(dot_oracle(queries, rows), ids, k, descending=True)
    order = [cosine_order(query, rows, np.arange(len(rows)))[:k] for query in queries]
    columns = min(k, len(rows))
    order = np.array(order, dtype=np.int64).reshape(len(queries), columns)
    return ids[order], np.take_along_axis(cx.cosine(queries, rows), order, axis=1)


def assert_matches(matches, expected):
    ids, scores = matches
    assert ids.dtype == np.int64
    assert scores.dtype == expected[1].dtype
    assert np.array_equal(ids, expected[0])
    assert np.array_equal(scores, expected[1])


@settings(max_examples=80, deadline=None)
@given(
    metric=st.sampled_from(["hamming", "dot", "cosine"]),
    q=st.integers(1, 12),
    n=st.integers(0, 300),
    width=st.integers(1, 80),
    k=st.integers(1, 320),
    few=st.booleans(),
    allowed=st.none() | st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_top_k_matches_a_full_sort(metric, q, n, width, k, few, allowed, seed):
    rng = np.random.default_rng(seed)
    low, high = (-1, 2) if few else (-128, 128)  # few distinct values: ties, zero vectors, equal cosines
    queries, rows = int8(rng, q, width, low=low, high=high), int8(rng, n, width, low=low, high=high)
    if metric == "hamming":
        queries, rows = queries.view(np.uint8), rows.view(np.uint8)
    mask = None if allowed is None else rng.random(n) < allowed
    matches = cx.top_k(queries, rows, k, metric=metric, mask=mask)
    assert_matches(matches, oracle(queries, rows, k, metric, mask))
    assert matches.exact is True


@pytest.mark.parametrize("metric", ["hamming", "dot", "cosine"])
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_the_number_of_threads_does_not_change_the_result(rng, metric, queries):
    rows = int8(rng, 20_000, 32, low=-2, high=3)
    queries = int8(rng, queries, 32, low=-2, high=3)
    mask = rng.random(len(rows)) < 0.7
    if metric == "hamming":
        queries, rows = queries.view(np.uint8), rows.view(np.uint8)
    for mask_or_none in (None, mask):
        one, two, eight = (
            cx.top_k(queries, rows, 100, metric=metric, mask=mask_or_none, threads=threads) for threads in (1, 2, 8)
        )
        automatic = cx.top_k(queries, rows, 100, metric=metric, mask=mask_or_none)
        for other in (two, eight, automatic):
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.scores, other.scores)


def test_ties_go_to_the_lower_row():
    rows = np.ones((50_000, 8), np.int8)
    for threads in (1, 2, 8):
        assert cx.top_k(rows[0], rows, 7, threads=threads).ids.tolist() == list(range(7))
        assert cx.top_k(rows[0], rows, 7, metric="dot", threads=threads).ids.tolist() == list(range(7))
        bits = rows.view(np.uint8)
        assert cx.top_k(bits[0], bits, 7, threads=threads).ids.tolist() == list(range(7))


def test_cosines_equal_in_float32_are_ordered_by_their_exact_value():
    # Rows (x, 127, 127, ...) and the query (1, 1, ...): 20 different cosines within 1e-7 of 1, later rows better.
    dims = 131_071
    rows = np.full((20, dims), 127, np.int8)
    rows[:, 0] = np.arange(107, 127)
    query = np.ones(dims, np.int8)
    matches = cx.top_k(query, rows, 20)
    assert matches.ids.tolist() == list(range(19, -1, -1))
    assert len(set(matches.scores.tolist())) < 5
    assert (np.diff(matches.scores) <= 0).all()


def test_parallel_rows_of_different_lengths_tie():
    rows = np.array([[3, 6], [1, 2], [2, 4], [-1, -2], [0, 0], [50, 100]], np.int8)
    assert cx.top_k(np.array([1, 2], np.int8), rows, 6).ids.tolist() == [0, 1, 2, 5, 4, 3]
    assert cx.top_k(np.array([0, 0], np.int8), rows, 6).ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_k_larger_than_the_number_of_rows_gives_all_rows(rng):
    rows = packed(rng, 5, 8)
    assert cx.top_k(rows[:2], rows, 9).ids.shape == (2, 5)
    assert cx.top_k(rows[0], rows, 10**30).ids.shape == (5,)
    mask = np.array([True, False, True, False, False])
    assert sorted(cx.top_k(rows[0], rows, 9, mask=mask).ids.tolist()) == [0, 2]
    nothing = cx.top_k(rows[:2], rows, 9, mask=np.zeros(5, bool))
    assert nothing.ids.shape == nothing.scores.shape == (2, 0)
    empty = cx.top_k(rows[:2], rows[:0], 3)
    assert empty.ids.shape == (2, 0)
    assert cx.top_k(rows[:0], rows, 3).ids.shape == (0, 3)


def test_more_matches_than_fit_in_memory_raise_an_error():
    rows = np.zeros((40_000_000, 1), np.uint8)
    with pytest.raises(ValueError, match="40000000 matches for each of 1000000 queries do not fit in memory"):
        cx.top_k(np.zeros((1_000_000, 1), np.uint8), rows, 10**9)


def test_the_default_metric_depends_on_the_dtype(rng):
    rows = int8(rng, 50, 16)
    assert np.array_equal(cx.top_k(rows[:3], rows, 5).scores, cx.top_k(rows[:3], rows, 5, metric="cosine").scores)
    bits = rows.view(np.uint8)
    assert np.array_equal(cx.top_k(bits[:3], bits, 5).scores, cx.top_k(bits[:3], bits, 5, metric="hamming").scores)


def test_numpy_integers_are_accepted_as_ints(rng):
    rows = packed(rng, 9, 8)
    assert cx.top_k(rows[0], rows, np.int64(3), threads=np.int32(2)).ids.shape == (3,)


ROWS = np.zeros((4, 8), np.int8)
BITS = ROWS.view(np.uint8)
BAD = [
    ("k zero", ROWS, 0, {}, ValueError, "k must be at least 1, got 0"),
    ("k negative", ROWS, -3, {}, ValueError, "k must be at least 1, got -3"),
    ("k very negative", ROWS, -(10**30), {}, ValueError, "k must be at least 1, got -1000"),
    ("k bool", ROWS, True, {}, TypeError, "k must be an int, got True"),
    ("k float", ROWS, 2.0, {}, TypeError, "k must be an int, got 2.0"),
    ("k None", ROWS, None, {}, TypeError, "k must be an int, got None"),
    ("threads zero", ROWS, 1, {"threads": 0}, ValueError, "threads must be at least 1, got 0"),
    ("threads bool", ROWS, 1, {"threads": True}, TypeError, "threads must be an int, got True"),
    ("threads str", ROWS, 1, {"threads": "2"}, TypeError, "threads must be an int, got '2'"),
    (
        "mask NaN",
        ROWS,
        1,
        {"mask": np.array([1, np.nan, 0, 0])},
        TypeError,
        r"mask must have dtype bool.* or int64 \(ids\), got float64",
    ),
    ("mask int", ROWS, 1, {"mask": np.ones(4, np.uint8)}, TypeError, "mask must have dtype bool.*, got uint8"),
    ("mask list", ROWS, 1, {"mask": [True] * 4}, TypeError, r"mask\[0\] .*, got True: .*numpy.array\(mask\)"),
    ("mask long", ROWS, 1, {"mask": np.ones(5, bool)}, ValueError, r"shape \(4,\), got \(5,\)"),
    ("mask 2-D", ROWS, 1, {"mask": np.ones((4, 1), bool)}, ValueError, "mask must be C-contiguous with 1 dimension"),
    ("mask strided", ROWS, 1, {"mask": np.ones(8, bool)[::2]}, ValueError, "mask must be C-contiguous"),
    ("metric unknown", ROWS, 1, {"metric": "l2"}, ValueError, "'dot' or 'asymmetric', got \"l2\""),
    ("metric int", ROWS, 1, {"metric": 3}, TypeError, "metric must be 'hamming', .* or 'asymmetric', got 3"),
    ("hamming of int8", ROWS, 1, {"metric": "hamming"}, TypeError, "needs a database of dtype uint8.*got int8"),
    ("cosine of bits", BITS, 1, {"metric": "cosine"}, TypeError, "needs a database of dtype int8, got uint8"),
    ("dot of bits", BITS, 1, {"metric": "dot"}, TypeError, "needs a database of dtype int8, got uint8"),
    ("floats", ROWS.astype(np.float32), 1, {}, TypeError, "int8 or uint8, got float32"),
    ("masked rows", np.ma.masked_equal(ROWS, 3), 1, {}, TypeError, "database must be an array without a mask"),
    ("masked mask", ROWS, 1, {"mask": np.ma.ones(4, bool)}, TypeError, "mask must be an array without a mask"),
]


@pytest.mark.parametrize(("data", "k", "options", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_argument_raises_an_error_that_names_its_value(data, k, options, error, message):
    with pytest.raises(error, match=message):
        cx.top_k(data[:1], data, k, **options)


def test_queries_must_have_the_dtype_of_the_database():
    with pytest.raises(TypeError, match="queries must have dtype int8, got uint8"):
        cx.top_k(BITS[:1], ROWS, 1)


def test_a_memory_mapped_array_is_accepted(tmp_path, rng):
    """numpy.memmap is a subclass of ndarray; only masked arrays are rejected."""
    rows = packed(rng, 9, 8)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert type(mapped) is np.memmap
    assert np.array_equal(cx.top_k(mapped[:2], mapped, 3).ids, cx.top_k(rows[:2], rows, 3).ids)


def test_any_nonzero_byte_of_a_mask_is_true():
    mask = np.frombuffer(b"\x02\x00\xff\x00", dtype=bool)
    assert cx.top_k(ROWS[0], ROWS, 4, mask=mask).ids.tolist() == [0, 2]


class TestMatches:
    def test_matches_unpack_and_have_a_length_and_a_repr(self, rng):
        rows = packed(rng, 9, 8)
        matches = cx.top_k(rows[:2], rows, 3)
        ids, scores = matches
        assert ids is matches.ids
        assert scores is matches.scores
        assert len(matches) == 2
        assert repr(matches) == "Matches(queries=2, k=3, scores=int32, exact=True)"
        alone = cx.top_k(rows[0], rows, 3)
        assert len(alone) == 3
        assert repr(alone) == "Matches(k=3, scores=int32, exact=True)"

    def test_matches_pickle(self, rng):
        rows = int8(rng, 9, 8)
        matches = cx.top_k(rows[:2], rows, 3)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(matches, protocol))
            assert np.array_equal(again.ids, matches.ids)
            assert np.array_equal(again.scores, matches.scores)
            assert again.exact is matches.exact

    def test_matches_are_frozen(self, rng):
        matches = cx.top_k(BITS[0], BITS, 1)
        with pytest.raises(AttributeError):
            matches.exact = False
        with pytest.raises(AttributeError):
            matches.ids = None

    def test_the_constructor_checks_its_arguments(self):
        ids = np.zeros(3, np.int64)
        with pytest.raises(TypeError, match="ids must have dtype int64, got int32"):
            cx.Matches(ids.astype(np.int32), np.zeros(3, np.int32))
        with pytest.raises(TypeError, match="scores must have dtype int32 or float32, got float64"):
            cx.Matches(ids, np.zeros(3))
        with pytest.raises(ValueError, match=r"same shape.*\[3\] and \[2\]"):
            cx.Matches(ids, np.zeros(2, np.int32))
