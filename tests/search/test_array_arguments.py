"""Arrays as arguments of searches and changes: layouts, empty arrays, and arrays that change during the call."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from ctxembed import _core as cx
from numpy.lib.stride_tricks import as_strided

from .conftest import bits_of, int8

ROWS = np.random.default_rng(7).integers(-128, 128, (40, 16), dtype=np.int8)
BITS = bits_of(ROWS)
IDS = np.arange(100, 140)
CHOSEN = np.array([131, 104, 117, 128, 109])


class Plain(np.ndarray):
    """A subclass that changes nothing."""


class Hostile(np.ndarray):
    """A subclass whose methods give other arrays."""

    def copy(self, order="C"):
        return np.zeros(3, np.float32)

    def view(self, *_):
        return np.zeros(3, np.uint8)

    def __array__(self, *_, **__):
        return np.zeros(3)


def misaligned(array):
    buffer = bytes(5) + array.tobytes()
    odd = np.frombuffer(buffer, array.dtype, offset=5).reshape(array.shape)
    assert not odd.flags.aligned
    return odd


def misaligned_and_strided(array):
    fields = np.zeros(len(array), np.dtype([("flag", np.int8), ("id", array.dtype)]))
    fields["id"] = array
    return fields["id"]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


SAME_VALUES = {
    "misaligned": misaligned,
    "misaligned and strided": misaligned_and_strided,
    "read-only": read_only,
    "strided": strided,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "subclass": lambda array: array.view(Plain),
    "hostile subclass": lambda array: array.copy().view(Hostile),
    "hostile strided subclass": lambda array: strided(array).view(Hostile),
    "long long": lambda array: array.astype(np.longlong),
    "list of numpy ints": lambda array: [*array],
    "tuple": lambda array: tuple(array.tolist()),
}


def filled(kind):
    index = kind(16)
    index.add(ROWS if kind is cx.Index else BITS, IDS)
    return index


def queries(kind):
    return ROWS[:3] if kind is cx.Index else BITS[:3]


def removed(kind, ids):
    index = filled(kind)
    index.remove(ids)
    return index.search(queries(kind), 40).ids


def added(kind, ids):
    index = kind(16)
    rows = ROWS if kind is cx.Index else BITS
    assert index.add(rows[:5], ids).tolist() == CHOSEN.tolist()
    return index.search(queries(kind), 40).ids


def within(kind, **options):
    return filled(kind).search_range(queries(kind), -1.0 if kind is cx.Index else 16, **options).ids


CALLS_WITH_IDS = {
    "add": added,
    "remove": removed,
    "vectors": lambda kind, ids: filled(kind).vectors(ids),
    "search": lambda kind, ids: filled(kind).search(queries(kind), 9, mask=ids).ids,
    "two stages": lambda kind, ids: filled(kind).search(ROWS[:3], 2, mask=ids, stage="two-stage", oversample=2).ids,
    "binary": lambda kind, ids: filled(kind).search(queries(kind), 9, mask=ids, stage="binary").ids,
    "search_range": lambda kind, ids: within(kind, mask=ids),
    "count": lambda kind, ids: filled(kind).count(queries(kind), -1.0 if kind is cx.Index else 16, mask=ids),
    "top_k": lambda kind, ids: cx.top_k(queries(kind), ROWS if kind is cx.Index else BITS, 9, mask=ids).ids,
}


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
@pytest.mark.parametrize("call", CALLS_WITH_IDS)
@pytest.mark.parametrize("layout", SAME_VALUES)
def test_ids_are_read_from_an_array_of_any_layout(kind, call, layout):
    ids = CHOSEN if call != "top_k" else CHOSEN - 100
    expected = CALLS_WITH_IDS[call](kind, ids)
    assert expected.size
    assert np.array_equal(CALLS_WITH_IDS[call](kind, SAME_VALUES[layout](ids)), expected)


def test_a_row_may_be_named_by_an_array_of_stride_zero():
    repeated = np.broadcast_to(np.int64(104), 5)
    assert np.array_equal(filled(cx.Index).vectors(repeated), ROWS[[4] * 5])
    assert filled(cx.Index).search(ROWS[0], 9, mask=repeated).ids.tolist() == [104]
    with pytest.raises(ValueError, match=r"ids\[0\] and ids\[1\] are both 104"):
        filled(cx.Index).remove(repeated)


OTHER_ARRAYS = {
    "int32": (CHOSEN.astype(np.int32), TypeError, "int32"),
    "uint64": (CHOSEN.astype(np.uint64), TypeError, "uint64"),
    "float64": (CHOSEN.astype(np.float64), TypeError, "float64"),
    "big-endian": (CHOSEN.astype(">i8"), TypeError, ">i8"),
    "misaligned int32": (misaligned(CHOSEN.astype(np.int32)), TypeError, "int32"),
    "misaligned big-endian": (misaligned(CHOSEN.astype(">i8")), TypeError, ">i8"),
    "objects": (CHOSEN.astype(object), TypeError, "object"),
    "times": (CHOSEN.astype("m8[s]"), TypeError, "timedelta64"),
    "0-d": (np.array(104), ValueError, "1 dimension, got 0"),
    "2-d": (CHOSEN[None, :], ValueError, "1 dimension, got 2"),
    "misaligned 2-d": (misaligned(CHOSEN[None, :].copy()), ValueError, "1 dimension, got 2"),
}


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
@pytest.mark.parametrize("call", CALLS_WITH_IDS)
@pytest.mark.parametrize("other", OTHER_ARRAYS)
def test_an_array_that_is_not_of_ids_is_refused(kind, call, other):
    array, error, message = OTHER_ARRAYS[other]
    with pytest.raises(error, match=f"^(ids|mask) must have .*{message}"):
        CALLS_WITH_IDS[call](kind, array)


NO_IDS = {
    "float64": np.array([]),
    "objects": np.array([], dtype=object),
    "int32": np.array([], np.int32),
    "big-endian": np.array([], ">i8"),
    "text": np.array([], dtype="U5"),
    "int64": np.empty(0, np.int64),
    "strided": np.empty((0, 3))[:, 1],
    "misaligned": np.frombuffer(bytes(5), np.int64, 0, 5),
    "list": [],
    "tuple": (),
}


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
@pytest.mark.parametrize("empty", NO_IDS)
def test_an_empty_array_of_any_dtype_holds_no_ids(kind, empty):
    ids, index = NO_IDS[empty], filled(kind)
    index.remove(ids)
    assert len(index) == 40
    assert index.vectors(ids).shape == (0, 16 if kind is cx.Index else 2)
    assert index.add(queries(kind)[:0], ids).tolist() == []
    for stage in ("exact", "two-stage", "binary"):
        assert index.search(queries(kind), 3, mask=ids, stage=stage).ids.shape == (3, 0)
    assert index.search(queries(kind)[0], 3, mask=ids).ids.shape == (0,)
    assert within(kind, mask=ids).tolist() == []
    assert index.count(queries(kind), 1, mask=ids).tolist() == [0, 0, 0]
    assert cx.top_k(ROWS[:3], ROWS, 3, mask=ids).ids.shape == (3, 0)
    with pytest.raises(ValueError, match="ids must have one entry per vector: 3 vectors, 0 ids"):
        index.add(queries(kind), ids)


def test_an_empty_boolean_array_is_a_mask_of_no_rows():
    mask = np.array([], bool)
    assert cx.Index(16).search(ROWS[0], 3, mask=mask).ids.shape == (0,)
    for call in (lambda: filled(cx.Index).search(ROWS[0], 3, mask=mask), lambda: cx.top_k(ROWS, ROWS, 3, mask=mask)):
        with pytest.raises(ValueError, match=r"mask must have one entry per row: shape \(40,\), got \(0,\)"):
            call()
    filled(cx.Index).remove(mask)  # as ids, it holds none


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (0, 0, 0)])
def test_an_empty_array_of_ids_has_one_dimension(shape):
    for call in (filled(cx.Index).remove, filled(cx.Index).vectors):
        with pytest.raises(ValueError, match=f"ids must have 1 dimension, got {len(shape)}"):
            call(np.empty(shape))
    with pytest.raises(ValueError, match=f"mask must have 1 dimension, got {len(shape)}"):
        filled(cx.Index).search(ROWS[0], 3, mask=np.empty(shape))


def test_the_offsets_of_range_matches_are_read_from_an_array_of_any_layout():
    ids, scores = np.arange(3), np.zeros(3, np.float32)
    for offsets in (misaligned(np.array([0, 1, 3])), np.array([0, 9, 1, 9, 3])[::2], np.array([3, 1, 0])[::-1]):
        found = cx.RangeMatches(offsets, ids, scores)
        assert [part.tolist() for part, _ in found] == [[0], [1, 2]]
    with pytest.raises(TypeError, match="offsets must have dtype int64, got >i8"):
        cx.RangeMatches(np.array([0, 1, 3], ">i8"), ids, scores)


CALLS_WITH_VECTORS = {
    "add": lambda rows: cx.Index(16).add(rows),
    "search": lambda rows: filled(cx.Index).search(rows, 3),
    "two stages": lambda rows: filled(cx.Index).search(rows, 3, stage="two-stage", oversample=2),
    "search_range": lambda rows: filled(cx.Index).search_range(rows, 0.5),
    "count": lambda rows: filled(cx.Index).count(rows, 0.5),
    "calibrate": lambda rows: filled(cx.Index).calibrate(rows, 3),
    "int8 queries for bits": lambda rows: filled(cx.BinaryIndex).search(rows, 3),
    "top_k": lambda rows: cx.top_k(rows, ROWS, 3),
    "top_k database": lambda rows: cx.top_k(ROWS[0], rows, 3),
    "dot": lambda rows: cx.dot(rows, ROWS),
    "cosine": lambda rows: cx.cosine(ROWS, rows),
}


@pytest.mark.parametrize("call", CALLS_WITH_VECTORS)
def test_vectors_of_another_layout_are_refused(call):
    for rows, message in (
        (strided(ROWS), "must be C-contiguous"),
        (ROWS[::-1], "must be C-contiguous"),
        (np.asfortranarray(ROWS), "must be C-contiguous"),
        (as_strided(ROWS, (40, 16), (0, 1)), "must be C-contiguous"),
        (ROWS[None], "must have 1 or 2 dimensions, got 3"),
        (ROWS[0, 0, ...], "must have 1 or 2 dimensions, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            CALLS_WITH_VECTORS[call](rows)
    with pytest.raises(TypeError, match="must have dtype .*int8"):
        CALLS_WITH_VECTORS[call](misaligned(ROWS.astype(np.float32)))


@pytest.mark.parametrize("call", CALLS_WITH_VECTORS)
@pytest.mark.parametrize("layout", ["read-only", "subclass", "hostile subclass"])
def test_vectors_may_be_read_only_or_of_a_subclass(call, layout):
    found, expected = CALLS_WITH_VECTORS[call](SAME_VALUES[layout](ROWS)), CALLS_WITH_VECTORS[call](ROWS)
    assert str(found) == str(expected)


def test_a_mask_of_a_subclass_is_read_as_an_array():
    mask = np.arange(40) % 3 == 0
    expected = cx.top_k(ROWS[0], ROWS, 40, mask=mask).ids
    for layout in ("read-only", "subclass", "hostile subclass"):
        assert np.array_equal(cx.top_k(ROWS[0], ROWS, 40, mask=SAME_VALUES[layout](mask)).ids, expected)


@contextmanager
def changing(change):
    """Run ``change(number)`` on another thread again and again while the block runs."""
    stop = threading.Event()

    def run():
        number = 0
        while not stop.is_set():
            change(number)
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(8)
    rows = int8(rng, 30_000, 64)
    index = cx.Index(64)
    index.add(rows)
    bits = cx.BinaryIndex(64)
    bits.add(bits_of(rows))
    return rows, index, bits


SEARCHES_WITH_MASK = {
    "search": lambda rows, index, bits, mask: index.search(rows[:3], 30_000, mask=mask),
    "one query": lambda rows, index, bits, mask: index.search(rows[0], 30_000, mask=mask),
    "two stages": lambda rows, index, bits, mask: index.search(rows[:3], 50, stage="two-stage", mask=mask),
    "two stages of all": lambda rows, index, bits, mask: index.search(rows[0], 999, stage="two-stage", mask=mask),
    "range": lambda rows, index, bits, mask: index.search_range(rows[:3], -2.0, mask=mask),
    "count": lambda rows, index, bits, mask: index.count(rows[:3], -2.0, mask=mask),
    "bits": lambda rows, index, bits, mask: bits.search(rows[:3], 30_000, mask=mask),
    "top_k": lambda rows, index, bits, mask: cx.top_k(rows[:3], rows, 30_000, mask=mask),
}


@pytest.mark.parametrize("call", SEARCHES_WITH_MASK)
@pytest.mark.parametrize("share", [0.001, 0.12, 0.6])
def test_a_mask_may_change_during_a_search(large, call, share):
    masks = np.random.default_rng(9).random((2, 30_000)) < np.array([[share], [share / 3]])
    mask = masks[0].copy()
    with changing(lambda number: mask.__setitem__(slice(None), masks[number % 2])):
        for _ in range(40):
            found = SEARCHES_WITH_MASK[call](*large, mask)
            if call != "count":
                allowed = np.flatnonzero(masks.any(axis=0))
                assert np.isin(found.ids, allowed).all()


def test_ids_may_change_during_a_search_and_a_change(large):
    rows, index, _ = large
    both = np.arange(0, 30_000, 7), np.arange(1, 30_000, 7)[:4286]
    ids = both[0].copy()
    with changing(lambda number: ids.__setitem__(slice(None), both[number % 2])):
        for _ in range(40):
            found = index.search(rows[0], 30_000, mask=ids).ids
            assert (found % 7 <= 1).all()
            assert index.vectors(ids).shape == (4286, 64)
            again = cx.Index(64)
            try:
                given = again.add(rows[:4286], ids)
            except ValueError as error:  # half of the ids were changed when they were copied
                assert "ids must be unique" in str(error)  # noqa: PT017 - only some calls raise
                continue
            assert np.array_equal(again.vectors(given), rows[:4286])
            copy = given.copy()
            again.remove(given)
            assert len(again) == 0
            again.add(rows[:4286], copy)  # the ids are free again


def test_rows_that_change_while_they_are_added_get_their_own_bits_and_norms(rng):
    values = int8(rng, 2, 4000, 64)
    values[1] //= 16
    rows = values[0].copy()
    with changing(lambda number: rows.__setitem__(slice(None), values[number % 2])):
        for _ in range(60):
            index, again = cx.Index(64), cx.Index(64)
            ids = index.add(rows)
            again.add(index.vectors(ids))
            for options in ({}, {"stage": "binary"}, {"metric": "asymmetric"}):
                ours, theirs = (each.search(values[0, :2], 4000, **options) for each in (index, again))
                assert np.array_equal(ours.ids, theirs.ids)
                assert np.array_equal(ours.scores, theirs.scores)


def test_queries_that_change_during_a_search_give_the_scores_of_one_copy(large):
    rows, index, bits = large
    values = np.stack([rows[:8], rows[8:16] // 16])
    queries = values[0].copy()
    with changing(lambda number: queries.__setitem__(slice(None), values[number % 2])):
        for _ in range(40):
            for stage in ("exact", "two-stage"):
                found = index.search(queries, 20, stage=stage)
                assert (np.abs(found.scores) <= 1).all()
                assert (np.diff(found.scores, axis=1) <= 0).all()
            within = index.search_range(queries, 0.3)
            assert ((within.scores >= 0.3) & (within.scores <= 1)).all()
            assert (np.diff(bits.search(queries, 20).scores, axis=1) <= 0).all()
            assert cx.top_k(queries, rows, 20).ids.shape == (8, 20)
            assert cx.top_k(queries[0], rows, 20, metric="dot").ids.shape == (20,)


def test_arrays_of_plain_searches_may_change_during_the_call(large):
    """They are not copied: scores may mix old and new values, but nothing else happens."""
    values = np.stack([large[0], large[0] // 16])
    rows, bits = values[0].copy(), bits_of(values[0])
    with changing(lambda number: (rows.__setitem__(slice(None), values[number % 2]), bits.__ior__(number % 256))):
        for _ in range(10):
            for count in (1, 5):
                assert cx.top_k(rows[:count], rows, 3000).ids.shape == (count, 3000)
                assert cx.top_k(rows[:count], rows, 30_000, metric="dot").ids.shape == (count, 30_000)
                assert cx.top_k(rows[:count], bits, 30, metric="asymmetric").ids.shape == (count, 30)
                assert cx.top_k(bits[:count], bits, 30_000).ids.shape == (count, 30_000)
                assert cx.cosine(rows[:count], rows).shape == (count, 30_000)
                assert cx.dot(rows[:count], rows).shape == (count, 30_000)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_another_thread_may_change_the_shape_of_queries_during_a_search(large):
    rows, index, _ = large
    queries = rows[:8].copy()
    with changing(lambda number: setattr(queries, "shape", [(8, 64), (4, 128), (512,)][number % 3])):
        for _ in range(200):
            try:
                found = index.search(queries, 3)
                assert found.ids.shape == (8, 3)
            except ValueError as error:
                assert "queries must have 64 columns" in str(error)  # noqa: PT017 - only some calls raise


class Changes:
    """An int whose conversion runs an action first."""

    def __init__(self, value, action):
        self.value, self.action = value, action

    def __index__(self):
        self.action()
        return self.value

    def __float__(self):
        return float(self.__index__())


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_the_shape_of_queries_may_change_while_other_arguments_are_converted(rng):
    rows = int8(rng, 8, 16)
    index, bits = cx.Index(16), cx.BinaryIndex(16)
    index.add(rows)
    bits.add(bits_of(rows))

    def calls(queries, packed, action):
        one, least, ids = Changes(1, action), Changes(0, action), [Changes(3, action)]
        yield lambda: index.search(queries, one)
        yield lambda: index.search(queries, 2, mask=ids)
        yield lambda: index.search(queries, 2, threads=one)
        yield lambda: index.search(queries, 2, dimensions=Changes(8, action))
        yield lambda: index.search(queries, 2, stage="two-stage", oversample=one)
        yield lambda: index.search_range(queries, least)
        yield lambda: index.calibrate(queries, one, least)
        yield lambda: index.add(queries, [Changes(n + 100, action) for n in range(8)])
        yield lambda: bits.search(packed, one)
        yield lambda: bits.search_range(packed, least)
        yield lambda: bits.count(packed, least, mask=ids)
        yield lambda: cx.top_k(queries, rows, one)
        yield lambda: cx.top_k(queries, rows, 1, mask=ids)

    for number in range(13):
        queries, packed = rows.copy(), bits_of(rows)

        def reshape(queries=queries, packed=packed):
            queries.shape, packed.shape = (4, 32), (2, 8)

        call = list(calls(queries, packed, reshape))[number]
        with pytest.raises(ValueError, match=r"columns|width|recall|one entry per vector"):
            call()


@pytest.mark.parametrize("kind", [cx.Index, cx.BinaryIndex])
def test_a_conversion_may_change_the_index_that_is_called(kind):
    index, query = filled(kind), queries(kind)[0]

    def change():
        index.remove(index.search(query, 1).ids)

    index.remove([Changes(120, change), 121])
    assert len(index) == 37
    assert index.vectors([Changes(130, change)]).shape[0] == 1
    assert index.search(query, Changes(99, change), mask=[Changes(n, change) for n in (122, 123)]).ids.size <= 2
    assert index.add(query, [Changes(500, change)]).tolist() == [500]
    assert len(index) == 33
    with pytest.raises(KeyError, match="own"):
        index.remove([Changes(1, lambda: {}["own"])])
    with pytest.raises(KeyError, match="own"):
        index.search(query, Changes(1, lambda: {}["own"]))
