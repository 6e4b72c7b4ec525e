"""Index.remove and Index.vectors; filters by id, prefixes and metrics of a search."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ctxembed import _core as cx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.threads import in_threads

from .conftest import asymmetric_oracle, bits_of, cosine_order, dot_oracle, hamming_oracle, int8, packed, ranked


def assert_holds(index, ids, rows):
    """Assert that the index has these ids, in this order, with these rows."""
    assert len(index) == len(ids)
    assert np.array_equal(index.vectors(ids), rows)
    if len(ids):
        order = cosine_order(rows[0], rows, ids)
        assert np.array_equal(index.search(rows[0], len(ids)).ids, order)
        mask = np.zeros(len(ids), bool)
        mask[-1] = True  # masks follow the order of insertion
        assert index.search(rows[0], 1, mask=mask).ids.tolist() == [ids[-1]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), own=st.booleans(), steps=st.lists(st.sampled_from("aar"), max_size=12))
def test_an_index_behaves_like_a_list_under_additions_and_removals(tmp_path_factory, seed, own, steps):
    rng = np.random.default_rng(seed)
    index, ids, rows = cx.Index(20), np.empty(0, np.int64), np.empty((0, 20), np.int8)
    for step in steps:
        if step == "a":
            fresh = int8(rng, int(rng.integers(0, 9)), 20)
            given_ids = rng.permutation(10**6)[: len(fresh)].astype(np.int64) + 10**6 * len(ids) if own else None
            added = index.add(fresh, given_ids)
            ids, rows = np.concatenate([ids, added]), np.concatenate([rows, fresh])
        else:
            gone = rng.random(len(ids)) < rng.random()
            index.remove(rng.permutation(ids[gone]))
            ids, rows = ids[~gone], rows[~gone]
        assert_holds(index, ids, rows)
    path = tmp_path_factory.mktemp("index") / "index"
    index.save(path)
    for mmap in (False, True):
        again = cx.Index.open(path, mmap=mmap, verify=True)
        assert_holds(again, ids, rows)
        more = again.add(np.ones((2, 20), np.int8))
        assert not set(more.tolist()) & set(ids.tolist())
        again.remove(more)
        assert_holds(again, ids, rows)


def test_rows_are_removed_from_every_kind_of_segment(rng, tmp_path):
    """More than 64 MB added at once, and a mapped file, both have several segments."""
    rows = int8(rng, 140_000, 1024)
    index = cx.Index(1024)
    index.add(rows)
    gone = np.unique(rng.integers(0, 140_000, 500))
    kept = np.setdiff1d(np.arange(140_000), gone)
    index.remove(gone)
    index.save(tmp_path / "index")
    mapped = cx.Index.open(tmp_path / "index")
    some = rng.choice(kept, 30)
    for either in (index, mapped):
        assert len(either) == len(kept)
        assert np.array_equal(either.vectors(some), rows[some])
        assert np.array_equal(either.search(rows[some], 1).ids[:, 0], some)
    mapped.remove(some[:1])
    assert mapped.search(rows[some[0]], 1).ids[0] != some[0]
    expected = cx.top_k(rows[:4], rows, 9, mask=kept)
    assert np.array_equal(index.search(rows[:4], 9).ids, expected.ids)


def test_a_binary_index_removes_rows_and_returns_vectors(rng):
    rows = packed(rng, 300, 4)
    index = cx.BinaryIndex(32)
    ids = index.add(rows)
    gone, kept = ids[::2].copy(), ids[1::2].copy()
    index.remove(gone)
    assert np.array_equal(index.vectors(kept), rows[1::2])
    expected, _ = ranked(hamming_oracle(rows[1:2], rows[1::2]), kept, 300)
    assert np.array_equal(index.search(rows[1], 300).ids, expected[0])


def test_a_failed_removal_removes_nothing(rng):
    index = cx.Index(8)
    index.add(int8(rng, 5, 8))
    for ids, message in (
        ([0, 9], r"ids\[1\] = 9 is not in the index"),
        ([3, 2, 3], r"ids must be unique: ids\[0\] and ids\[2\] are both 3"),
    ):
        with pytest.raises(ValueError, match=message):
            index.remove(np.array(ids))
    with pytest.raises(TypeError, match="ids must have dtype int64, got int32"):
        index.remove(np.array([1], np.int32))
    with pytest.raises(ValueError, match=r"ids\[1\] = -1 is not in the index"):
        index.vectors(np.array([1, -1]))
    assert len(index) == 5
    index.remove(np.empty(0, np.int64))
    assert index.vectors(np.empty(0, np.int64)).shape == (0, 8)
    assert index.vectors(np.array([1, 1])).shape == (2, 8)


@pytest.mark.parametrize("own_ids", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_filter_by_ids_equals_a_mask(rng, own_ids, share):
    rows, queries = int8(rng, 5000, 48), int8(rng, 9, 48)
    index = cx.Index(48)
    ids = rng.permutation(50_000)[:5000].astype(np.int64) - 9 if own_ids else np.arange(5000)
    index.add(rows[:2000], ids[:2000])
    index.add(rows[2000:], ids[2000:])
    mask = rng.random(5000) < share
    listed = rng.permutation(np.concatenate([ids[mask], ids[mask][:5], [10**12, -(10**12)]]))
    for count in (1, 9):
        for options in ({}, {"metric": "dot"}, {"stage": "binary"}, {"stage": "two-stage"}):
            a = index.search(queries[:count], 12, mask=mask, **options)
            b = index.search(queries[:count], 12, mask=listed, **options)
            assert a.ids.shape == (count, min(12, mask.sum()))
            assert np.array_equal(a.ids, b.ids)
            assert np.array_equal(a.scores, b.scores)
            assert set(a.ids.ravel()) <= set(ids[mask])
        expected = cx.top_k(queries[:count], rows, 12, mask=mask)
        assert np.array_equal(index.search(queries[:count], 12, mask=mask).scores, expected.scores)
        assert np.array_equal(cx.top_k(queries[:count], rows, 12, mask=np.flatnonzero(mask)).ids, expected.ids)


def test_an_empty_filter_finds_nothing(rng):
    index = cx.Index(8)
    index.add(int8(rng, 50, 8))
    queries = int8(rng, 3, 8)
    for mask in (np.zeros(50, bool), np.empty(0, np.int64), np.array([99])):
        for stage in ("exact", "two-stage", "binary"):
            assert index.search(queries, 5, stage=stage, mask=mask).ids.shape == (3, 0)
        for threads in (None, 3):
            assert index.count(queries, -1.0, mask=mask, threads=threads).tolist() == [0, 0, 0]
            assert len(index.search_range(queries, -1.0, mask=mask, threads=threads).ids) == 0
            assert cx.top_k(queries, queries, 5, mask=np.empty(0, np.int64), threads=threads).ids.shape == (3, 0)


@pytest.mark.parametrize("dims", [1, 7, 8, 64, 129, 200])
@pytest.mark.parametrize("count", [1, 20])
def test_a_search_by_prefix_equals_a_search_of_shorter_vectors(rng, dims, count):
    """Searching the first dimensions equals searching an index of them alone; cosines use the norms of the prefix."""
    rows, queries = int8(rng, 1500, 200), int8(rng, count, 200)
    rows[5], rows[6, :dims] = 0, 0
    short, short_queries = rows[:, :dims].copy(), queries[:, :dims].copy()
    index, own = cx.Index(200), cx.Index(dims)
    index.add(rows)
    own.add(short)
    for metric in ("cosine", "dot", "asymmetric", "hamming"):
        if metric == "hamming" and dims % 8 and dims < 200:
            with pytest.raises(ValueError, match=f"dimensions must be a multiple of 8.*got {dims}"):
                index.search(queries, 10, metric=metric, dimensions=dims)
            continue
        expected = own.search(short_queries, 10, metric=metric)
        for given_queries in (queries, short_queries):
            found = index.search(given_queries, 10, metric=metric, dimensions=dims)
            assert np.array_equal(found.ids, expected.ids)
            assert np.array_equal(found.scores, expected.scores)
    two = index.search(queries, 10, stage="two-stage", oversample=1000, dimensions=dims)
    assert two.exact
    assert np.array_equal(two.ids, own.search(short_queries, 10).ids)
    if dims >= 64:
        two = index.search(queries, 10, stage="two-stage", oversample=100, dimensions=dims)
        assert not two.exact
        assert np.isin(two.ids, own.search(short_queries, 10).ids).mean() > 0.9


def test_a_search_by_prefix_of_bits_equals_a_search_of_fewer_bits(rng):
    rows, queries = packed(rng, 900, 25), packed(rng, 5, 25)
    index = cx.BinaryIndex(200)
    index.add(rows)
    found = index.search(queries, 9, dimensions=64)
    expected = cx.top_k(queries[:, :8].copy(), rows[:, :8].copy(), 9)
    assert np.array_equal(found.ids, expected.ids)
    vectors = int8(rng, 5, 200)
    found = index.search(vectors, 9, dimensions=61)
    ids, scores = ranked(asymmetric_oracle(vectors[:, :61], rows), np.arange(900), 9, descending=True)
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.scores, scores)


@pytest.mark.parametrize("dims", [8, 100, 128, 136, 384, 1000, 1024, 2560])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_every_metric_matches_the_reference(rng, dims, count):
    rows, queries = int8(rng, 400, dims), int8(rng, count, dims)
    rows[10], rows[11], rows[12:15] = -128, 127, 0
    queries[0] = -128
    index = cx.Index(dims)
    index.add(rows)
    bits = bits_of(rows)
    for metric, scores in (
        ("dot", dot_oracle(queries, rows)),
        ("hamming", hamming_oracle(bits_of(queries), bits)),
        ("asymmetric", asymmetric_oracle(queries, bits)),
    ):
        ids, expected = ranked(scores, np.arange(400), 25, descending=metric != "hamming")
        found = index.search(queries, 25, metric=metric)
        assert np.array_equal(found.ids, ids)
        assert np.array_equal(found.scores, expected)
        assert found.exact
    ids, expected = ranked(asymmetric_oracle(queries, bits), np.arange(400), 25, descending=True)
    plain = cx.top_k(queries, bits, 25, metric="asymmetric")
    assert np.array_equal(plain.ids, ids)
    assert np.array_equal(plain.scores, expected)
    assert not index.search(queries, 25, metric="asymmetric", stage="binary").exact
    if dims % 8 == 0:
        own = cx.BinaryIndex(dims)
        own.add(bits)
        assert np.array_equal(own.search(queries, 25).ids, ids)
        assert np.array_equal(own.search(queries, 25, metric="asymmetric").scores, expected)


def test_a_concurrent_search_sees_whole_removals(rng):
    """Each removal takes two equal vectors: a search finds both or neither."""
    pairs = np.repeat(int8(rng, 300, 32), 2, axis=0)
    index = cx.Index(32)
    index.add(pairs)

    def remove_or_search(number):
        if number < 4:
            for pair in range(number, 300, 4):
                index.remove(np.array([2 * pair, 2 * pair + 1]))
            return
        while len(index):
            ids = index.search(pairs[0], 1000).ids
            assert set(ids.tolist()) == {i ^ 1 for i in ids.tolist()}

    in_threads(8, remove_or_search)
    assert len(index) == 0


LOW_MEMORY = """
import resource
import numpy as np
from ctxembed import _core as cx
rows = np.ones((100_000, 1024), np.int8)
index = cx.Index(1024)
index.add(rows[:1000])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20), used + (60 << 20)))
for ids in (None, np.arange(100_000) * 7 + 5000):
    try:
        index.add(rows, ids)
    except MemoryError as error:
        print("MemoryError", len(index), bool(str(error)))
print(len(index), index.add(rows[:1]).tolist(), index.search(rows[0], 1).ids.tolist())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_an_addition_that_does_not_fit_in_memory_raises_memory_error_and_adds_nothing():
    run = subprocess.run([sys.executable, "-c", LOW_MEMORY], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines() == ["MemoryError 1000 True"] * 2 + ["1000 [1000] [0]"]


def test_ids_may_be_lists_tuples_and_strided_arrays():
    rows = np.eye(8, 64, dtype=np.int8)
    index = cx.Index(64)
    assert index.add(rows, list(range(10, 18))).tolist() == list(range(10, 18))
    assert index.vectors((12, 10)).tolist() == rows[[2, 0]].tolist()
    assert index.search(rows[0], 8, mask=[11, 10]).ids.tolist() == [10, 11]
    assert index.search(rows[0], 8, mask=[np.int64(11), np.uint8(10)]).ids.tolist() == [10, 11]
    assert index.search(rows[0], 8, mask=np.arange(10, 18)[::4]).ids.tolist() == [10, 14]
    index.remove([10, 17])
    index.remove(np.arange(11, 17)[::2])
    assert sorted(index.search(rows[1], 8).ids.tolist()) == [12, 14, 16]
    with pytest.raises(TypeError, match=r"mask\[1\] must be an int of 64 bits, got True"):
        index.search(rows[0], 1, mask=[12, True])
    with pytest.raises(TypeError, match=r"ids\[0\] must be an int of 64 bits, got np.True_"):
        index.remove([np.True_])
