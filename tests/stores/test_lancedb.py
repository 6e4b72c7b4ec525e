"""LanceDB finds the neighbours that we find, for 1,000 queries."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest

from tests.exports.corpus import ALMOST, DIMENSIONS, NEARLY_ALL, PREFIX, K, best, check_neighbours

lancedb = pytest.importorskip("lancedb")
pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lancedb")
    corpus.collection.export(folder / "values.lancedb")
    corpus.collection.export(folder / "bits.lancedb", vectors="bits")
    return folder


def table(folder, name):
    return lancedb.connect(str(folder / f"{name}.lancedb")).open_table("chunks")


def nearest(corpus, table, queries, distance):
    found = []
    for query in queries:
        search = table.search(query, vector_column_name="vector").distance_type(distance).limit(K)
        rows = search.select(["id", "chunk", "_distance"]).to_arrow()
        found.append([corpus.numbers[key] for key in zip(*(rows[name].to_pylist() for name in ("id", "chunk")))])  # noqa: B905
    return found


def test_float16_by_cosine(corpus, folder):
    opened = table(folder, "values")
    assert opened.schema.field("vector").type == pa.list_(pa.float16(), DIMENSIONS)
    found = nearest(corpus, opened, corpus.queries.astype(np.float16), "cosine")
    assert check_neighbours(found, corpus.cosines(), ALMOST) >= NEARLY_ALL


def test_the_default_distance_would_rank_otherwise(corpus, folder):
    found = nearest(corpus, table(folder, "values"), corpus.queries.astype(np.float16), "l2")
    with pytest.raises(AssertionError):
        check_neighbours(found, corpus.cosines(), ALMOST)


def test_bits_by_hamming_distance(corpus, folder):
    opened = table(folder, "bits")
    assert opened.schema.field("vector").type == pa.list_(pa.uint8(), DIMENSIONS // 8)
    check_neighbours(nearest(corpus, opened, corpus.query_bits, "hamming"), corpus.distances())
    rows = opened.to_arrow()["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIMENSIONS // 8)
    check_neighbours(best(corpus.products_of(ctxembed.unpack_bits(rows))), corpus.products())
    check_neighbours(best(-corpus.distances_of(rows, PREFIX)), corpus.prefix_distances())


def test_lancedb_cannot_search_int8(corpus, tmp_path):
    """Why it gets float16. Where this fails, an export may give int8."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(corpus.vectors.reshape(-1)), DIMENSIONS)
    opened = lancedb.connect(str(tmp_path)).create_table("chunks", data=pa.table({"vector": vectors}))
    for distance in ("cosine", "l2", "dot"):
        with pytest.raises((ValueError, RuntimeError, OSError)):
            opened.search(corpus.queries[0], vector_column_name="vector").distance_type(distance).limit(K).to_arrow()
