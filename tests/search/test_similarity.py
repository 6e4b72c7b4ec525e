"""hamming, dot and cosine: scores of all pairs of queries and rows."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from ctxembed import _core as cx
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import dot_oracle, hamming_oracle, int8, packed


@settings(max_examples=60, deadline=None)
@given(q=st.integers(0, 20), n=st.integers(0, 40), width=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_hamming_and_dot_match_numpy_for_every_shape(q, n, width, seed):
    rng = np.random.default_rng(seed)
    queries, rows = packed(rng, q, width), packed(rng, n, width)
    distances = cx.hamming(queries, rows)
    assert distances.dtype == np.int32
    assert np.array_equal(distances, hamming_oracle(queries, rows))
    queries, rows = queries.view(np.int8), rows.view(np.int8)
    products = cx.dot(queries, rows)
    assert products.dtype == np.int32
    assert np.array_equal(products, dot_oracle(queries, rows))


def test_a_one_dimensional_query_gives_one_dimensional_scores(rng):
    rows = int8(rng, 70, 33)
    for function, data in [(cx.dot, rows), (cx.cosine, rows), (cx.hamming, rows.view(np.uint8))]:
        alone = function(data[5], data)
        assert alone.shape == (70,)
        assert np.array_equal(alone, function(data[5:6], data)[0])


def test_extreme_values_are_exact_up_to_the_widest_vectors():
    widest = 131_071
    low = np.full((1, widest), -128, np.int8)
    assert cx.dot(low, low)[0, 0] == 128 * 128 * widest == 2_147_467_264
    assert cx.dot(np.full((1, widest), 127, np.int8), low)[0, 0] == -127 * 128 * widest
    assert cx.cosine(low, low)[0, 0] == 1.0
    with pytest.raises(ValueError, match=r"from 1 to 131071 columns.*got 131072"):
        cx.dot(np.zeros((1, widest + 1), np.int8), np.zeros((1, widest + 1), np.int8))


def nearest_float32(product, squares):
    """Return the float32 nearest to product / sqrt(squares), by comparing squares as fractions."""
    if product == 0 or squares == 0:
        return np.float32(0)
    near = np.float32(abs(product) / squares**0.5)
    candidates = [np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(2))]
    exact = Fraction(product * product, squares)
    for value, following in pairwise(candidates):
        middle = (Fraction(float(value)) + Fraction(float(following))) / 2
        if exact < middle * middle:
            return np.copysign(value, np.float32(product))
    return np.copysign(candidates[-1], np.float32(product))


@pytest.mark.parametrize("dims", [1, 2, 3, 64, 1024])
def test_a_cosine_is_the_float32_nearest_to_the_exact_value(rng, dims):
    queries, rows = int8(rng, 20, dims), int8(rng, 60, dims, low=-9, high=10)
    cosines = cx.cosine(queries, rows)
    assert cosines.dtype == np.float32
    products = dot_oracle(queries, rows).tolist()
    own, other = (np.square(x.astype(np.int64)).sum(axis=1).tolist() for x in (queries, rows))
    expected = [[nearest_float32(products[i][j], m * n) for j, n in enumerate(other)] for i, m in enumerate(own)]
    assert np.array_equal(cosines, np.array(expected, np.float32))


def test_a_zero_vector_has_cosine_zero_with_every_row():
    rows = np.array([[0, 0], [1, 2], [-3, 4]], np.int8)
    assert cx.cosine(rows[:1], rows).tolist() == [[0.0, 0.0, 0.0]]
    assert cx.cosine(rows, rows)[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_empty_inputs_give_empty_results():
    some, none = np.zeros((3, 4), np.int8), np.zeros((0, 4), np.int8)
    for function, dtype in [(cx.dot, np.int8), (cx.cosine, np.int8), (cx.hamming, np.uint8)]:
        assert function(some.view(dtype), none.view(dtype)).shape == (3, 0)
        assert function(none.view(dtype), some.view(dtype)).shape == (0, 3)
        assert function(some[0].view(dtype), none.view(dtype)).shape == (0,)


BAD = [
    ([[1, 2]], "list", TypeError, "queries must be a numpy array, got list"),
    (np.zeros((1, 4), np.int16), "dtype", TypeError, "queries must have dtype int8, got int16"),
    (np.zeros((1, 4), np.uint8), "sign", TypeError, "queries must have dtype int8, got uint8"),
    (np.zeros((1, 5), np.int8), "width", ValueError, "same width, got 5 and 4"),
    (np.zeros((1, 8), np.int8)[:, ::2], "strides", ValueError, "queries must be C-contiguous"),
    (np.zeros((1, 1, 4), np.int8), "3-D", ValueError, "1 or 2 dimensions, got 3"),
    (np.zeros((), np.int8), "0-D", ValueError, "1 or 2 dimensions, got 0"),
]


@pytest.mark.parametrize("function", [cx.dot, cx.cosine])
@pytest.mark.parametrize(("queries", "error", "message"), [(q, e, m) for q, _, e, m in BAD], ids=[b[1] for b in BAD])
def test_unsuitable_queries_are_rejected(function, queries, error, message):
    with pytest.raises(error, match=message):
        function(queries, np.zeros((2, 4), np.int8))


def test_an_unsuitable_database_is_rejected():
    query = np.zeros((1, 4), np.int8)
    with pytest.raises(ValueError, match="database must be a matrix"):
        cx.dot(query, query[0])
    with pytest.raises(TypeError, match="database must have dtype uint8, got int8"):
        cx.hamming(query.view(np.uint8), query)
    with pytest.raises(ValueError, match=r"from 1 to .* columns.*got 0"):
        cx.dot(np.zeros((1, 0), np.int8), np.zeros((3, 0), np.int8))
    with pytest.raises(ValueError, match="got 0"):
        cx.hamming(np.zeros((1, 0), np.uint8), np.zeros((3, 0), np.uint8))


def test_inputs_are_not_modified(rng):
    queries, rows = int8(rng, 9, 40), int8(rng, 30, 40)
    before = queries.copy(), rows.copy()
    cx.cosine(queries, rows)
    cx.top_k(queries, rows, 3)
    assert np.array_equal(queries, before[0])
    assert np.array_equal(rows, before[1])


def test_read_only_arrays_are_accepted(rng):
    rows = int8(rng, 30, 40)
    rows.flags.writeable = False
    assert cx.dot(rows[:2], rows).shape == (2, 30)
