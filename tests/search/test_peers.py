"""Results compared with faiss, where it is installed."""

import numpy as np
import pytest
from ctxembed import _core as cx

from .conftest import int8, packed

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")


def test_hamming_searches_agree_with_faiss(rng):
    rows, queries = packed(rng, 20_000, 64), packed(rng, 50, 64)
    peer = faiss.IndexBinaryFlat(512)
    peer.add(rows)
    distances, _ = peer.search(queries, 20)
    found = cx.top_k(queries, rows, 20)
    assert np.array_equal(found.scores, distances)


def test_inner_products_agree_with_faiss(rng):
    rows, queries = int8(rng, 20_000, 96), int8(rng, 50, 96)
    peer = faiss.IndexFlatIP(96)  # exact in float32: products stay below 2^24
    peer.add(rows.astype(np.float32))
    products, ids = peer.search(queries.astype(np.float32), 5)
    found = cx.top_k(queries, rows, 5, metric="dot")
    assert np.array_equal(found.scores, products.astype(np.int32))
    distinct = np.array([len(set(row)) == len(row) for row in products.tolist()])
    assert np.array_equal(found.ids[distinct], ids[distinct])
