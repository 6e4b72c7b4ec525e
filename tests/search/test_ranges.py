"""search_range, count and near_duplicates, compared with numpy and with Python's integers."""

import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from ctxembed import _core as cx

from .conftest import asymmetric_oracle, bits_of, dot_oracle, hamming_oracle, int8, packed

EDGES = [0, 1, 7, 8, 9, 127, 128, 129, 1024, 1025, 3000]


def all_scores(metric, queries, rows):
    if metric == "hamming":
        return hamming_oracle(bits_of(queries), bits_of(rows))
    if metric == "asymmetric":
        return asymmetric_oracle(queries, bits_of(rows))
    return dot_oracle(queries, rows) if metric == "dot" else cx.cosine(queries, rows)


def assert_ranges(found, scores, ids, near, *, descending):
    """Assert that each query has exactly its near rows, best first, ties by id."""
    assert len(found) == len(scores)
    for query, (row, kept) in enumerate(zip(scores, near, strict=True)):
        keys = -row[kept].astype(np.float64) if descending else row[kept]
        order = np.lexsort((ids[kept], keys))
        got_ids, got_scores = found[query]
        assert got_ids.tolist() == ids[kept][order].tolist()
        assert np.array_equal(got_scores, row[kept][order])


@pytest.mark.parametrize("n", EDGES)
@pytest.mark.parametrize(
    ("metric", "radius"), [("cosine", 0.1), ("cosine", -2.0), ("dot", 9000), ("hamming", 15), ("asymmetric", 300)]
)
def test_a_range_has_exactly_the_rows_within_the_radius(rng, n, metric, radius):
    rows, queries = int8(rng, n, 40), int8(rng, 6, 40)
    rows[1::3] = rows[:1] if n else rows[1::3]
    ids = rng.permutation(5 * n)[:n].astype(np.int64) - n
    index = cx.Index(40)
    for start in range(0, n, 700):
        index.add(rows[start : start + 700], ids[start : start + 700])
    scores = all_scores(metric, queries, rows)
    near = scores <= radius if metric == "hamming" else scores >= radius
    for threads in (1, 3):
        found = index.search_range(queries, radius, metric=metric, threads=threads)
        assert_ranges(found, scores, ids, near, descending=metric != "hamming")
        assert index.count(queries, radius, metric=metric, threads=threads).tolist() == near.sum(axis=1).tolist()
    alone = index.search_range(queries[0], radius, metric=metric)
    assert alone.offsets.tolist() == [0, near[0].sum()]
    assert index.count(queries[0], radius, metric=metric) == near[0].sum()


def test_ranges_respect_filters_and_prefixes(rng):
    rows, queries = int8(rng, 2000, 64), int8(rng, 5, 64)
    index = cx.Index(64)
    index.add(rows)
    short, short_queries = rows[:, :24].copy(), queries[:, :24].copy()
    for share in (0.01, 0.2, 0.8):
        mask = rng.random(2000) < share
        for metric, radius in (("cosine", 0.1), ("dot", 5000), ("hamming", 10), ("asymmetric", 100)):
            scores = all_scores(metric, short_queries, short)
            near = (scores <= radius if metric == "hamming" else scores >= radius) & mask
            for given in (mask, np.flatnonzero(mask)):
                found = index.search_range(queries, radius, metric=metric, mask=given, dimensions=24)
                assert_ranges(found, scores, np.arange(2000), near, descending=metric != "hamming")


def test_a_binary_index_takes_packed_and_int8_queries(rng):
    rows, bits, vectors = packed(rng, 1500, 16), packed(rng, 4, 16), int8(rng, 4, 128)
    index = cx.BinaryIndex(128)
    index.add(rows)
    scores = hamming_oracle(bits, rows)
    assert_ranges(index.search_range(bits, 55), scores, np.arange(1500), scores <= 55, descending=False)
    assert index.count(bits, 55).tolist() == (scores <= 55).sum(axis=1).tolist()
    scores = asymmetric_oracle(vectors, rows)
    assert_ranges(index.search_range(vectors, 900), scores, np.arange(1500), scores >= 900, descending=True)
    assert index.count(vectors, 900).tolist() == (scores >= 900).sum(axis=1).tolist()
    assert index.count(bits[0], 0) == 0


def test_a_zero_query_has_cosine_zero_with_every_row(rng):
    index = cx.Index(16)
    index.add(int8(rng, 50, 16))
    zero = np.zeros(16, np.int8)
    assert index.count(zero, 0.0) == 50
    assert index.count(zero, 1e-300) == 0


def test_rows_of_minus_128_match_themselves():
    rows = np.full((300, 1024), -128, np.int8)
    index = cx.Index(1024)
    index.add(rows)
    assert index.count(rows[0], 1.0) == 300
    assert index.count(rows[0], 128 * 128 * 1024, metric="dot") == 300
    assert index.count(rows[0], 128 * 1024, metric="asymmetric") == 300
    assert index.count(rows[0], 0, metric="hamming") == 300


def pairs_oracle(metric, rows, ids, threshold):
    """Return the score of each near pair of ids, by Python's integers."""
    found = {}
    for i, a in enumerate(rows.tolist()):
        for j, b in enumerate(rows[:i].tolist()):
            if metric == "hamming":
                score = sum((x >= 0) != (y >= 0) for x, y in zip(a, b, strict=True))
                near = score <= threshold
            else:
                score = sum(x * y for x, y in zip(a, b, strict=True))
                near = score >= threshold
            if metric == "cosine":
                square = sum(x * x for x in a) * sum(y * y for y in b)
                # No cosine is so close to the threshold that its float32 lies on the other side.
                near = bool(square) and score > 0 and Fraction(score * score, square) >= Fraction(threshold) ** 2
            if near:
                found[min(ids[i], ids[j]), max(ids[i], ids[j])] = score
    return found


@pytest.mark.parametrize(("metric", "threshold"), [("cosine", 0.6001), ("dot", 60), ("hamming", 2)])
@pytest.mark.parametrize("n", [0, 1, 2, 255, 256, 300])
def test_near_duplicates_match_two_nested_loops(rng, metric, threshold, n):
    rows = int8(rng, n, 12, low=-5, high=6)
    ids = (rng.permutation(9 * n)[:n] - n).astype(np.int64)
    index = cx.Index(12)
    index.add(rows[: n // 3], ids[: n // 3])
    index.add(rows[n // 3 :], ids[n // 3 :])
    expected = pairs_oracle(metric, rows, ids.tolist(), threshold)
    for threads in (1, 2, 5):
        pairs = index.near_duplicates(threshold, metric=metric, threads=threads)
        assert list(map(tuple, pairs.ids.tolist())) == sorted(expected)
        if metric != "cosine":
            assert pairs.scores.tolist() == [expected[pair] for pair in sorted(expected)]
        assert len(pairs) == len(expected)


@pytest.mark.parametrize(("metric", "threshold"), [("cosine", 0.2001), ("dot", 20), ("hamming", 4)])
@pytest.mark.parametrize("limit", [1, 10, 500, 10**30])
def test_a_limit_keeps_the_nearest_pairs_ordered_by_id(rng, metric, threshold, limit):
    rows = int8(rng, 300, 12, low=-5, high=6)
    rows[100:120] = rows[:20]
    rows[120:140] = rows[:20] // 2
    ids = (rng.permutation(3000)[:300] - 300).astype(np.int64)
    index = cx.Index(12)
    index.add(rows, ids)
    scores = pairs_oracle(metric, rows, ids.tolist(), threshold)
    place = {id_: row for row, id_ in enumerate(ids.tolist())}

    def key(pair):
        a, b = (rows[place[id_]].tolist() for id_ in pair)
        if metric == "cosine":
            square = sum(x * x for x in a) * sum(y * y for y in b)
            return -Fraction(scores[pair] ** 2, square), pair
        return scores[pair] if metric == "hamming" else -scores[pair], pair

    expected = sorted(sorted(scores, key=key)[:limit])
    for threads in (1, 2, 5):
        pairs = index.near_duplicates(threshold, metric=metric, limit=limit, threads=threads)
        assert list(map(tuple, pairs.ids.tolist())) == expected
    if metric == "hamming":
        bits = cx.BinaryIndex(16)
        bits.add(np.packbits(np.pad(rows, ((0, 0), (0, 4))) >= 0, axis=1, bitorder="little"), ids)
        assert list(map(tuple, bits.near_duplicates(threshold, limit=limit).ids.tolist())) == expected


def test_memory_is_bounded_when_pairs_are_limited():
    """All 32 million pairs of 8,000 equal rows would take a gigabyte."""
    code = """
import resource
import numpy as np
from ctxembed import _core as cx
index = cx.Index(16)
index.add(np.ones((8_000, 16), np.int8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pairs = index.near_duplicates(0.5, limit=3, threads=2)
assert pairs.ids.tolist() == [[0, 1], [0, 2], [0, 3]]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert int(run.stdout) < 40_000


def test_near_duplicates_are_found_across_tiles(rng):
    """Equal rows far apart are found in both kinds of index."""
    rows = int8(rng, 5000, 512)
    twins = rng.permutation(5000)[:40].reshape(20, 2)
    rows[twins[:, 1]] = rows[twins[:, 0]]
    expected = sorted(map(tuple, np.sort(twins, axis=1).tolist()))
    index, bits = cx.Index(512), cx.BinaryIndex(512)
    index.add(rows)
    bits.add(bits_of(rows))
    assert list(map(tuple, index.near_duplicates(0.99).ids)) == expected
    assert index.near_duplicates(0.99).scores.tolist() == [1.0] * 20
    assert list(map(tuple, bits.near_duplicates(0).ids)) == expected
    assert set(expected) <= set(map(tuple, index.near_duplicates(0.99, dimensions=64).ids.tolist()))
    assert set(expected) <= set(map(tuple, bits.near_duplicates(3, dimensions=64).ids.tolist()))


INDEX = cx.Index(8)
INDEX.add(np.ones((3, 8), np.int8))
BITS = cx.BinaryIndex(8)
BITS.add(np.ones((3, 1), np.uint8))
QUERY = np.ones(8, np.int8)
BAD = [
    ("radius str", lambda: INDEX.search_range(QUERY, "1"), TypeError, "radius must be a float, the least cosine"),
    ("radius nan", lambda: INDEX.search_range(QUERY, float("nan")), ValueError, "radius must be a number, got nan"),
    ("radius bool", lambda: INDEX.count(QUERY, True), TypeError, "radius must be a float.*got True"),
    ("float", lambda: INDEX.count(QUERY, 1.5, metric="dot"), TypeError, "an int, the least product, got 1.5"),
    ("distance", lambda: BITS.count(QUERY.view(np.uint8)[:1], 1.5), TypeError, "an int, the largest distance"),
    ("metric", lambda: INDEX.search_range(QUERY, 1, metric="l2"), ValueError, "'hamming' or 'asymmetric', got \"l2\""),
    ("pairs", lambda: INDEX.near_duplicates(1, metric="asymmetric"), ValueError, "'cosine', 'dot' or 'hamming'"),
    ("prefix", lambda: BITS.near_duplicates(1, dimensions=4), ValueError, "multiple of 8.*got 4"),
    ("long", lambda: INDEX.count(QUERY, 1.0, dimensions=9), ValueError, "at most 8, those of the index, got 9"),
]


@pytest.mark.parametrize(("call", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_argument_raises_an_error_that_names_its_value(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_radius_beyond_every_score_is_accepted():
    bits = QUERY.view(np.uint8)[:1]
    assert BITS.count(bits, 10**30) == 3
    assert BITS.count(bits, -(10**30)) == 0
    assert INDEX.count(QUERY, 10**30, metric="dot") == 0


class TestResults:
    def test_range_matches_pickle_and_check_their_arguments(self):
        found = INDEX.search_range(np.stack([QUERY, -QUERY]), 0.5)
        assert repr(found) == "RangeMatches(queries=2, found=3, scores=float32)"
        again = pickle.loads(pickle.dumps(found))
        assert np.array_equal(again.offsets, found.offsets)
        assert np.array_equal(again.ids, found.ids)
        assert [len(ids) for ids, _ in again] == [3, 0]
        assert found[-1][0].tolist() == []
        with pytest.raises(IndexError, match="query 2 is out of range for 2 queries"):
            found[2]
        with pytest.raises(ValueError, match="rise from 0 to the number of ids"):
            cx.RangeMatches(np.array([0, 9]), found.ids, found.scores)
        with pytest.raises(TypeError, match="ids must have dtype int64"):
            cx.RangeMatches(found.offsets, found.scores, found.scores)

    def test_pairs_pickle_and_check_their_arguments(self):
        pairs = INDEX.near_duplicates(0.5)
        assert repr(pairs) == "Pairs(3, scores=float32)"
        ids, scores = pickle.loads(pickle.dumps(pairs))
        assert np.array_equal(ids, pairs.ids)
        assert np.array_equal(scores, pairs.scores)
        with pytest.raises(ValueError, match="two columns"):
            cx.Pairs(np.zeros((3, 3), np.int64), np.zeros(3, np.int32))
