"""Index and BinaryIndex in memory: additions, searches, arguments, threads."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from ctxembed import _core as cx

from tests.threads import in_threads

from .conftest import bits_of, cosine_order, hamming_oracle, int8, packed, ranked


@pytest.fixture
def vectors(rng):
    return int8(rng, 700, 100)


def test_an_exact_search_matches_top_k_by_cosine(rng, vectors):
    index = cx.Index(100)
    assert np.array_equal(index.add(vectors), np.arange(700))
    queries = int8(rng, 11, 100)
    found, expected = index.search(queries, 20), cx.top_k(queries, vectors, 20)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)
    assert found.scores.dtype == np.float32
    assert found.exact is True
    assert np.array_equal(index.search(queries[0], 20).ids, expected.ids[0])


def test_a_binary_search_ranks_by_hamming_distance_of_the_signs(rng, vectors):
    vectors[:, :5] = 0  # zero counts as positive
    index = cx.Index(100)
    index.add(vectors)
    queries = int8(rng, 11, 100)
    found = index.search(queries, 20, stage="binary")
    ids, scores = ranked(hamming_oracle(bits_of(queries), bits_of(vectors)), np.arange(700), 20)
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.scores, scores)
    assert found.scores.dtype == np.int32
    assert found.exact is False


def test_given_ids_are_returned_and_break_ties(rng, vectors):
    vectors[:50] = vectors[0]
    ids = rng.permutation(5000)[:700].astype(np.int64) - 2500
    index = cx.Index(100)
    for start in range(0, 700, 130):
        added = index.add(vectors[start : start + 130], ids[start : start + 130])
        assert np.array_equal(added, ids[start : start + 130])
    query = vectors[0]
    assert np.array_equal(index.search(query, 700).ids, cosine_order(query, vectors, ids))
    expected, _ = ranked(hamming_oracle(bits_of(vectors[:1]), bits_of(vectors)), ids, 30)
    assert np.array_equal(index.search(query, 30, stage="binary").ids, expected[0])


def test_a_binary_index_ranks_by_hamming_distance(rng):
    rows, queries = packed(rng, 900, 16), packed(rng, 7, 16)
    index = cx.BinaryIndex(128)
    index.add(rows)
    found, expected = index.search(queries, 12), cx.top_k(queries, rows, 12)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)
    assert found.exact is True
    assert (len(index), index.dims, index.dimensions) == (900, 128, 128)
    assert repr(index) == "<BinaryIndex: 900 packed vectors of 128 dimensions>"


def test_default_ids_continue_from_the_number_of_rows_ever_added(vectors):
    index = cx.Index(100)
    assert index.add(vectors[0]).tolist() == [0]
    assert index.add(vectors[:2]).tolist() == [1, 2]
    assert index.add(vectors[:0]).tolist() == []
    assert index.add(vectors[:2], np.array([100, -1])).tolist() == [100, -1]
    assert index.add(vectors[:1]).tolist() == [5]
    assert len(index) == 6


def test_a_repeated_id_is_rejected_and_nothing_is_added(vectors):
    index = cx.Index(100)
    index.add(vectors[:3])
    with pytest.raises(ValueError, match=r"ids\[1\] = 2 is already in the index"):
        index.add(vectors[:2], np.array([7, 2]))
    with pytest.raises(ValueError, match=r"ids\[0\] and ids\[2\] are both 9"):
        index.add(vectors[:3], np.array([9, 8, 9]))
    with pytest.raises(ValueError, match="2 vectors, 3 ids"):
        index.add(vectors[:2], np.array([9, 8, 7]))
    assert len(index) == 3
    index.add(vectors[:1], np.array([4]))
    with pytest.raises(ValueError, match="default id 4 is already in the index"):
        index.add(vectors[:1])


def test_a_mask_follows_the_order_of_insertion(rng, vectors):
    ids = rng.permutation(700).astype(np.int64)
    index = cx.Index(100)
    index.add(vectors[:300], ids[:300])
    index.add(vectors[300:], ids[300:])
    for share in (0.01, 0.3, 0.9):
        mask = rng.random(700) < share
        expected = cosine_order(vectors[3], vectors[mask], ids[mask])[:15]
        assert np.array_equal(index.search(vectors[3], 15, mask=mask).ids, expected)
    with pytest.raises(ValueError, match=r"shape \(700,\), got \(699,\)"):
        index.search(vectors[3], 1, mask=np.ones(699, bool))


def test_a_search_covers_all_segments(rng):
    """Additions of different sizes, more than 32 MB in all."""
    rows = int8(rng, 40_000, 1024)
    ids = rng.permutation(40_000).astype(np.int64)
    index, start = cx.Index(1024), 0
    for size in (1, 9_000, 17_000, 5, 13_994):
        index.add(rows[start : start + size], None if start == 0 else ids[start : start + size] + 1)
        start += size
    known = np.concatenate([[0], ids[1:] + 1])
    for row in (0, 1, 9_000, 26_000, 26_004, 26_006, 39_999):
        assert index.search(rows[row], 1).ids[0] == known[row]
        assert index.search(rows[row], 1, stage="binary").ids[0] == known[row]
    plain = cx.top_k(rows[:9], rows, 10)
    assert np.array_equal(index.search(rows[:9], 10).ids, known[plain.ids])


def test_an_empty_index_finds_nothing():
    assert cx.Index(8).search(np.ones((2, 8), np.int8), 3).ids.shape == (2, 0)
    assert cx.BinaryIndex(8).search(np.ones(1, np.uint8), 3).ids.shape == (0,)


INDEX = cx.Index(8)
INDEX.add(np.ones((3, 8), np.int8))
BITS = cx.BinaryIndex(8)
BITS.add(np.ones((3, 1), np.uint8))
QUERY = np.ones(8, np.int8)
BAD = [
    ("stage", lambda: INDEX.search(QUERY, 1, stage="fast"), ValueError, "'two-stage' or 'binary', got \"fast\""),
    ("metric", lambda: INDEX.search(QUERY, 1, metric="l2"), ValueError, "'hamming' or 'asymmetric', got \"l2\""),
    ("stage None", lambda: INDEX.search(QUERY, 1, stage=None), TypeError, "stage must be 'exact', .*, got None"),
    ("metric int", lambda: INDEX.search(QUERY, 1, metric=1), TypeError, "metric must be 'cosine', .*, got 1"),
    ("metric None", lambda: INDEX.count(QUERY, 1, metric=None), TypeError, "metric must be 'cosine', .*, got None"),
    ("range", lambda: INDEX.search_range(QUERY, 1, metric=b"dot"), TypeError, "metric must be .*, got b'dot'"),
    ("pairs", lambda: INDEX.near_duplicates(1, metric=1), TypeError, "metric must be .* or 'hamming', got 1"),
    ("limit", lambda: INDEX.near_duplicates(1, limit=0), ValueError, "limit must be at least 1, got 0"),
    ("limit float", lambda: INDEX.near_duplicates(1, limit=2.0), TypeError, "limit must be an int, got 2.0"),
    ("mmap", lambda: cx.Index.open("nowhere", mmap="yes"), TypeError, "mmap must be True or False, got 'yes'"),
    ("verify", lambda: cx.BinaryIndex.open("nowhere", verify=1), TypeError, "verify must be True or False, got 1"),
    ("masked", lambda: INDEX.add(np.ma.array(QUERY)), TypeError, "vectors must be an array without a mask"),
    (
        "masked ids",
        lambda: INDEX.remove(np.ma.array([1])),
        TypeError,
        "ids must be an array without a mask, got a Mask",
    ),
    (
        "bits metric",
        lambda: BITS.search(QUERY, 1, metric=1),
        TypeError,
        "metric must be 'hamming' or 'asymmetric', got 1",
    ),
    ("bits stage", lambda: BITS.search(QUERY, 1, stage="fast"), ValueError, "stage must be 'exact', 'two-stage' or"),
    ("bits oversample", lambda: BITS.search(QUERY, 1, oversample=2), ValueError, "oversample is for stage='two-stage'"),
    ("dimensions", lambda: INDEX.search(QUERY, 1, dimensions=0), ValueError, "dimensions must be at least 1, got 0"),
    ("oversample", lambda: INDEX.search(QUERY, 1, oversample=4), ValueError, "oversample is for stage='two-stage'"),
    ("k", lambda: INDEX.search(QUERY, 0), ValueError, "k must be at least 1, got 0"),
    ("width", lambda: INDEX.search(QUERY[:7].copy(), 1), ValueError, "queries must have 8 columns.*got 7"),
    ("dtype", lambda: INDEX.search(QUERY.view(np.uint8), 1), TypeError, "queries must have dtype int8, got uint8"),
    ("add width", lambda: INDEX.add(QUERY[:7].copy()), ValueError, "vectors must have 8 columns.*got 7"),
    ("add dtype", lambda: INDEX.add(np.ones((1, 8))), TypeError, "vectors must have dtype int8, got float64"),
    ("ids dtype", lambda: INDEX.add(QUERY, np.array([1], np.int32)), TypeError, "ids must have dtype int64, got int32"),
    ("ids 2-D", lambda: INDEX.add(QUERY, np.array([[1]])), ValueError, "ids must have 1 dimension, got 2"),
    ("ids list", lambda: INDEX.add(QUERY, [1.5]), TypeError, r"ids\[0\] must be an int of 64 bits, got 1.5"),
    ("ids list", lambda: INDEX.add(QUERY, [2**63]), TypeError, r"ids\[0\] must be an int of 64 bits"),
    ("ids set", lambda: INDEX.add(QUERY, {1}), TypeError, "ids must be a numpy array or a list of int, got set"),
    ("mask set", lambda: INDEX.search(QUERY, 1, mask={1}), TypeError, "a numpy array or a list of ids, got set"),
    ("threads", lambda: INDEX.search(QUERY, 1, threads=-1), ValueError, "threads must be at least 1, got -1"),
    ("dims zero", lambda: cx.Index(0), ValueError, "dims must be from 1 to 131071, got 0"),
    ("dims huge", lambda: cx.Index(2**200), ValueError, f"dims must be from 1 to 131071, got {2**200}$"),
    ("dims negative", lambda: cx.Index(-(2**200)), ValueError, f"dims must be from 1 to 131071, got -{2**200}$"),
    (
        "dims of many digits",
        lambda: cx.Index(10**5000),
        ValueError,
        "dims must be from 1 to 131071, got an int of 16610",
    ),
    ("dims numpy bool", lambda: cx.Index(np.True_), TypeError, "dims must be an int, got np.True_"),
    ("dims str", lambda: cx.BinaryIndex("8"), TypeError, "dims must be an int, got '8'"),
    ("dims None", lambda: cx.Index(None), TypeError, "dims must be an int, got None"),
    ("bits huge", lambda: cx.BinaryIndex(2**200), ValueError, f"dims must be from 8 to 2147483640, got {2**200}$"),
    ("bits negative", lambda: cx.BinaryIndex(-8), ValueError, "dims must be from 8 to 2147483640, got -8"),
    (
        "k of digits",
        lambda: INDEX.search(QUERY, -(2**20000)),
        ValueError,
        "k must be at least 1, got a negative int of",
    ),
    (
        "threads huge",
        lambda: INDEX.search(QUERY, 1, threads=-(2**200)),
        ValueError,
        "threads must be at least 1, got -16",
    ),
    (
        "dimensions huge",
        lambda: INDEX.search(QUERY, 1, dimensions=2**200),
        ValueError,
        f"dimensions must be at most 8, those of the index, got {2**200}$",
    ),
    ("ids huge", lambda: INDEX.vectors([2**200]), TypeError, rf"ids\[0\] must be an int of 64 bits, got {2**200}$"),
    (
        "mask huge",
        lambda: INDEX.search(QUERY, 1, mask=[-(2**63) - 1]),
        TypeError,
        r"mask\[0\] must be an int of 64 bits",
    ),
    (
        "recall huge",
        lambda: INDEX.calibrate(QUERY, 1, 10**400),
        ValueError,
        "recall must be above 0 and at most 1, got inf",
    ),
    ("recall str", lambda: INDEX.calibrate(QUERY, 1, "1"), TypeError, "recall must be a float, got '1'"),
    (
        "found huge",
        lambda: INDEX.search_range(QUERY, 0.5)[2**200],
        IndexError,
        f"query {2**200} is out of range for 1 q",
    ),
    ("found str", lambda: INDEX.search_range(QUERY, 0.5)["0"], TypeError, "query must be an int, got '0'"),
    ("open int", lambda: cx.Index.open(3), TypeError, "path must be a str or os.PathLike, got 3"),
    ("save bytes", lambda: INDEX.save(b"x"), TypeError, "path must be a str or os.PathLike, got b'x'"),
    (
        "open null",
        lambda: cx.BinaryIndex.open("a\0b"),
        ValueError,
        r"path must not contain a null character, got 'a\\x00b'",
    ),
    ("dims large", lambda: cx.Index(131_072), ValueError, "dims must be from 1 to 131071, got 131072"),
    ("dims float", lambda: cx.Index(8.0), TypeError, "dims must be an int, got 8.0"),
    ("dims bool", lambda: cx.BinaryIndex(True), TypeError, "dims must be an int, got True"),
    ("dims bits", lambda: cx.BinaryIndex(12), ValueError, "dims must be a multiple of 8, got 12"),
]


@pytest.mark.parametrize(("call", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_argument_raises_an_error_that_names_its_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert len(INDEX) == 3


def test_ints_beyond_every_count_are_accepted_where_more_changes_nothing():
    huge = 2**200
    for many in (2**60 + 1, 2**61, 2**62, 2**63 - 1, huge):
        assert INDEX.search(QUERY, many, threads=many).ids.tolist() == [0, 1, 2]
        assert cx.top_k(QUERY, QUERY[None], many, threads=many).ids.tolist() == [0]
        assert INDEX.search(QUERY, 1, stage="two-stage", oversample=many, threads=many).exact
        assert INDEX.calibrate(QUERY, many, threads=many).recall == 1
        assert len(INDEX.near_duplicates(0.5, limit=many, threads=many)) == INDEX.count(QUERY, 0.5, threads=many) == 3
    assert INDEX.search(QUERY, 1, stage="two-stage", oversample=huge).exact
    assert len(INDEX.near_duplicates(-huge, limit=huge)) == 3
    assert INDEX.count(QUERY, huge) == INDEX.count(QUERY, 10**400, metric="dot") == 0
    assert INDEX.count(QUERY, -(10**400)) == BITS.count(QUERY, -huge) == BITS.count(QUERY.view(np.uint8)[:1], huge) == 3
    assert cx.Index(np.int16(8)).dims == cx.BinaryIndex(np.uint64(8)).dims == 8
    assert INDEX.search_range(QUERY, 0.5)[np.int64(-1)][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("index", [cx.Index(8), cx.BinaryIndex(8)])
def test_pickling_an_index_raises_an_error_that_points_to_save(index):
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="save it to a file"):
            attempt(index)


def test_both_kinds_of_index_have_the_same_methods():
    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(cx.Index) == public(cx.BinaryIndex)
    for name in public(cx.Index):
        if callable(getattr(cx.Index, name)):
            ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (cx.Index, cx.BinaryIndex))
            assert [each for each in ours if each != "metric"] == [each for each in theirs if each != "metric"], name


def test_repr_and_len_describe_an_index():
    assert repr(INDEX) == "<Index: 3 int8 vectors of 8 dimensions>"
    assert (len(INDEX), INDEX.dims, INDEX.dimensions) == (3, 8, 8)


def test_searches_on_eight_threads_give_the_same_results(rng):
    rows = int8(rng, 4000, 64)
    index = cx.Index(64)
    index.add(rows)
    queries = int8(rng, 16, 64)
    expected = index.search(queries, 10, threads=1)

    def search(number):
        for _ in range(20):
            found = index.search(queries, 10, threads=1 + number % 3)
            assert np.array_equal(found.ids, expected.ids)
            assert np.array_equal(found.scores, expected.scores)

    in_threads(8, search)


def test_a_concurrent_search_sees_whole_additions(rng):
    """Each addition has two equal vectors: a search finds both or neither."""
    pairs = np.repeat(int8(rng, 400, 32), 2, axis=0)
    index = cx.Index(32)

    def add_or_search(number):
        if number < 4:
            for pair in range(number, 400, 4):
                index.add(pairs[2 * pair : 2 * pair + 2], np.array([2 * pair, 2 * pair + 1]))
            return
        while len(index) < 800:
            ids = index.search(pairs[0], 1000).ids
            assert set(ids) == {i ^ 1 for i in ids.tolist()}
            assert len(set(ids.tolist())) == len(ids)

    in_threads(8, add_or_search)
    assert np.array_equal(np.sort(index.search(pairs[0], 1000).ids), np.arange(800))
