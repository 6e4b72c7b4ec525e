"""Results of shards, merged, against one index with all rows."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from ctxembed import _core as cx
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import bits_of, int8


def shards_of(rows, ids, parts, rng, kind=cx.Index):
    """Distribute rows over indexes at random; a shard may be empty."""
    whole = kind(rows.shape[1] * (1 if kind is cx.Index else 8))
    whole.add(rows, ids)
    shard_of = rng.integers(0, parts, len(rows))
    shards = []
    for part in range(parts):
        shard = kind(whole.dims)
        shard.add(rows[shard_of == part], ids[shard_of == part])
        shards.append(shard)
    return whole, shards


def assert_same(merged, expected):
    assert np.array_equal(merged.ids, expected.ids)
    assert merged.scores.dtype == expected.scores.dtype
    assert merged.scores.tobytes() == expected.scores.tobytes()
    assert merged.metric == expected.metric
    assert np.array_equal(merged.keys, expected.keys)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    width=st.sampled_from([1, 3, 8, 64]),
    count=st.integers(1, 120),
    parts=st.integers(1, 5),
    spread=st.sampled_from([1, 2, 127]),
    k=st.integers(1, 130),
    single=st.booleans(),
)
def test_merged_shards_are_one_index(seed, width, count, parts, spread, k, single):
    rng = np.random.default_rng(seed)
    rows = int8(rng, count, width, low=-spread, high=spread)
    whole, shards = shards_of(rows, rng.permutation(count * 3)[:count], parts, rng)
    queries = int8(rng, width) if single else int8(rng, 3, width)
    for options in (
        {},
        {"metric": "dot"},
        {"metric": "hamming"},
        {"metric": "asymmetric"},
        {"stage": "binary"},
        {"mask": np.arange(0, count * 3, 2)},
        {"dimensions": (width + 1) // 2},
    ):
        expected = whole.search(queries, k, **options)
        merged = cx.merge_top_k([shard.search(queries, k, **options) for shard in shards], k)
        assert_same(merged, expected)
        assert merged.exact == expected.exact
        assert merged.complete == expected.complete
    bits, shards = shards_of(bits_of(rows), np.arange(count), parts, rng, cx.BinaryIndex)
    for vectors in (queries, bits_of(np.atleast_2d(queries))):
        if vectors.dtype == np.int8 and bits.dims != width:
            continue
        assert_same(cx.merge_top_k([s.search(vectors, k) for s in shards], k), bits.search(vectors, k))


def test_rows_that_float32_cannot_tell_apart_are_merged_in_their_true_order(rng):
    """Cosines that round to the same float32 are ranked by the integers they come from."""
    rows = np.full((4000, 1024), 100, dtype=np.int8)
    rows[np.arange(4000), rng.integers(0, 1024, 4000)] = 99 + rng.integers(0, 3, 4000)
    query = rng.integers(90, 110, 1024, dtype=np.int8)
    whole, shards = shards_of(rows, rng.permutation(4000), 4, rng)
    expected = whole.search(query, 500)
    assert len(np.unique(expected.scores)) < 10
    assert_same(cx.merge_top_k([shard.search(query, 500) for shard in shards], 500), expected)


def test_results_survive_a_pickle_and_a_second_merge(rng):
    rows = int8(rng, 300, 16, low=-2, high=2)
    whole, shards = shards_of(rows, rng.permutation(300), 4, rng)
    queries = int8(rng, 5, 16)
    for options in ({}, {"metric": "dot"}, {"metric": "hamming"}):
        expected = whole.search(queries, 20, **options)
        found = [pickle.loads(pickle.dumps(shard.search(queries, 20, **options))) for shard in shards]
        halves = [cx.merge_top_k(found[:2], 20), cx.merge_top_k(found[2:], 20)]
        assert_same(cx.merge_top_k(halves, 20), expected)
        shifted = [
            cx.Matches(part.ids + 1000, part.scores, part.exact, part.metric, part.keys, part.complete)
            for part in found
        ]
        assert np.array_equal(cx.merge_top_k(shifted, 20).ids, expected.ids + 1000)


def test_keys_are_products_and_squared_norms(rng):
    rows = int8(rng, 50, 8)
    query = int8(rng, 8)
    found = cx.top_k(query, rows, 50)
    wide = rows[found.ids].astype(np.int64)
    assert found.keys.shape == (50, 2)
    assert np.array_equal(found.keys[:, 0], wide @ query.astype(np.int64))
    assert np.array_equal(found.keys[:, 1], (wide * wide).sum(axis=1))
    products = cx.top_k(query, rows, 3, metric="dot")
    assert products.keys is products.scores
    assert products.metric == "dot"


def test_ranges_merge(rng):
    rows = int8(rng, 400, 16, low=-2, high=2)
    whole, shards = shards_of(rows, rng.permutation(400), 3, rng)
    queries = int8(rng, 4, 16, low=-2, high=2)
    for radius, metric in ((0.3, "cosine"), (5, "dot"), (6, "hamming")):
        expected = whole.search_range(queries, radius, metric=metric)
        found = [pickle.loads(pickle.dumps(s.search_range(queries, radius, metric=metric))) for s in shards]
        merged = cx.merge_ranges(found)
        assert np.array_equal(merged.offsets, expected.offsets)
        assert_same(merged, expected)
        best = cx.merge_ranges(found, 3)
        for query in range(4):
            assert np.array_equal(best[query][0], expected[query][0][:3])


class TestRefusals:
    @pytest.fixture
    def parts(self, rng):
        _, shards = shards_of(int8(rng, 40, 8), np.arange(40), 2, rng)
        queries = int8(rng, 2, 8)
        return [shard.search(queries, 5) for shard in shards], shards, queries

    def test_a_part_that_may_lack_rows(self, parts):
        with pytest.raises(ValueError, match=r"matches\[0\] holds the best 5 rows.*search it with k=6"):
            cx.merge_top_k(parts[0], 6)
        _, shards, queries = parts
        assert cx.merge_top_k([shard.search(queries, 40) for shard in shards], 1000).complete

    def test_an_id_of_two_parts(self, parts):
        with pytest.raises(ValueError, match="part 0 and part 1 both have the id"):
            cx.merge_top_k([parts[0][0], parts[0][0]], 5)

    def test_other_metrics_and_queries(self, parts):
        found, shards, queries = parts
        with pytest.raises(ValueError, match=r"matches\[1\] is ranked by \"dot\", and matches\[0\] by \"cosine\""):
            cx.merge_top_k([found[0], shards[1].search(queries, 5, metric="dot")], 5)
        with pytest.raises(ValueError, match=r"matches\[1\] is of 1 queries, and matches\[0\] of 2 queries"):
            cx.merge_top_k([found[0], shards[1].search(queries[:1], 5)], 5)
        with pytest.raises(ValueError, match=r"matches\[1\] is of one query without a row axis"):
            cx.merge_top_k([found[0], shards[1].search(queries[0], 5)], 5)

    def test_results_without_keys(self, parts):
        bare = cx.Matches(parts[0][0].ids, parts[0][0].scores)
        assert bare.keys is None
        with pytest.raises(ValueError, match=r"matches\[1\] has no exact keys"):
            cx.merge_top_k([parts[0][1], bare], 5)

    def test_other_arguments(self, parts):
        with pytest.raises(ValueError, match="at least one Matches is needed"):
            cx.merge_top_k([], 5)
        with pytest.raises(TypeError, match="a list of Matches is needed"):
            cx.merge_top_k(parts[0][0], 5)
        with pytest.raises(TypeError, match="part 1 must be a Matches, got 'x'"):
            cx.merge_top_k([parts[0][0], "x"], 5)
        with pytest.raises(ValueError, match="k must be at least 1"):
            cx.merge_top_k(parts[0], 0)

    def test_keys_that_do_not_fit(self, parts):
        ids, scores = parts[0][0]
        keys = parts[0][0].keys
        with pytest.raises(ValueError, match="metric 'cosine' needs keys"):
            cx.Matches(ids, scores, True, "cosine")
        with pytest.raises(ValueError, match="keys need the metric"):
            cx.Matches(ids, scores, True, None, keys)
        with pytest.raises(ValueError, match=r"of shape \[2, 5, 2\]"):
            cx.Matches(ids, scores, True, "cosine", keys[:1])
        with pytest.raises(TypeError, match="scores of metric 'dot' must have dtype int32"):
            cx.Matches(ids, scores, True, "dot")
        with pytest.raises(ValueError, match="keys must hold inner products of 32 bits"):
            cx.Matches(ids, scores, True, "cosine", keys + 2**40)
        products = np.zeros((2, 5), np.int32)
        with pytest.raises(ValueError, match="keys of metric 'dot' must be the scores"):
            cx.Matches(ids, products, True, "dot", products + 1)


def test_stages_of_shards_select_what_one_index_selects(rng):
    """The parts of a two-stage search, put together by hand."""
    rows = int8(rng, 600, 24, low=-2, high=2)
    ids = rng.permutation(1000)[:600]
    whole = cx.Index(24)
    whole.add(rows, ids)
    bounds = [0, 200, 210, 600]
    shards = []
    for start, end in pairwise(bounds):
        shard = cx.Index(24)
        shard.add(rows[start:end], ids[start:end])
        assert np.array_equal(cx.ids_of_rows(shard), ids[start:end])
        shards.append(shard)
    queries, k, candidates = int8(rng, 7, 24), 4, 40
    first = [cx.first_stage(shard, queries, candidates)[0] for shard in shards]
    assert [cx.first_stage(shard, queries, candidates)[1] for shard in shards] == [200, 10, 390]
    found = []
    for number, (shard, part) in enumerate(zip(shards, first, strict=True)):
        counts = np.zeros(7, np.int64)
        for query in range(7):
            order = sorted((d, n, i) for n, p in enumerate(first) for i, d in enumerate(p.scores[query].tolist()))
            counts[query] = sum(n == number for _, n, _ in order[:candidates])
        found.append(cx.second_stage(shard, queries, k, part.ids, counts, metric="cosine"))
    merged = cx.merge_ranges(found, k)
    expected = whole.search(queries, k, stage="two-stage", oversample=candidates // k)
    assert not expected.exact
    assert np.array_equal(merged.ids.reshape(7, k), expected.ids)
    with pytest.raises(ValueError, match="rows must be from 0 to 9, got 10"):
        cx.second_stage(shards[1], queries[:1], 1, np.array([[10]]), np.array([1]), metric="dot")
    with pytest.raises(ValueError, match="counts must be from 0 to 1"):
        cx.second_stage(shards[1], queries[:1], 1, np.array([[9]]), np.array([2]), metric="dot")
