"""Reference results for similarity and search, by numpy and by Python's integers."""

from functools import cmp_to_key

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


def int8(rng, *shape, low=-128, high=128):
    return rng.integers(low, high, shape, dtype=np.int8)


def packed(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def hamming_oracle(queries, database):
    different = np.unpackbits(queries[:, None, :] ^ database[None, :, :], axis=-1)
    return different.sum(axis=-1, dtype=np.int32)


def dot_oracle(queries, database):
    return (queries.astype(np.int64) @ database.astype(np.int64).T).astype(np.int32)


def compare_cosines(a, b):
    """Compare (product, squared norm, id) by exact cosine, greatest first, then by id."""
    (d, n, i), (e, m, j) = a, b
    left = (d > 0) - (d < 0), d * d * max(m, 1)
    right = (e > 0) - (e < 0), e * e * max(n, 1)
    if left[0] != right[0]:
        return right[0] - left[0]
    if left[1] != right[1]:
        larger_first = -1 if left[1] > right[1] else 1
        return larger_first if left[0] > 0 else -larger_first
    return (i > j) - (i < j)


def cosine_order(query, database, ids):
    """Return all ids by exact cosine with one query, greatest first."""
    rows = database.astype(np.int64)
    products = rows @ query.astype(np.int64)
    norms = (rows * rows).sum(axis=1)
    triples = zip(products.tolist(), norms.tolist(), ids.tolist(), strict=True)
    return np.array([i for _, _, i in sorted(triples, key=cmp_to_key(compare_cosines))], dtype=np.int64)


def ranked(scores, ids, k, *, descending=False):
    """Return the ids and scores of the best k of each row of scores, ties by id."""
    keys = -scores.astype(np.int64) if descending else scores
    order = np.stack([np.lexsort((ids, row)) for row in keys])[:, :k] if len(keys) else np.empty((0, k), np.int64)
    return ids[order], np.take_along_axis(scores, order, axis=1)


def bits_of(vectors):
    """Return the packed signs of int8 vectors."""
    return np.packbits(vectors >= 0, axis=1, bitorder="little")


def asymmetric_oracle(queries, bits):
    """Return the inner products of int8 queries with bits as +1 and -1."""
    signs = np.unpackbits(bits, axis=1, bitorder="little", count=queries.shape[1]).astype(np.int64) * 2 - 1
    return (queries.astype(np.int64) @ signs.T).astype(np.int32)
