"""The recipe for Qdrant in docs/leaving.md, with its engine: float16 finds our neighbours, uint8 does not."""

from __future__ import annotations

import pytest

from tests.exports.corpus import ALMOST, DIMENSIONS, NEARLY_ALL, K, check_neighbours

ROUNDED = 1e-4
"""Cosines that differ by less may change places in float16, since Qdrant scales rows before it rounds them."""


def nearest(corpus, folder, datatype):
    """Return what Qdrant's exact search finds, and the first vector that it has stored."""
    qdrant = pytest.importorskip("qdrant_edge")
    kind = getattr(qdrant.VectorStorageDatatype, datatype)
    params = qdrant.EdgeVectorParams(size=DIMENSIONS, distance=qdrant.Distance.Cosine, datatype=kind)
    shard = qdrant.EdgeShard.create(str(folder / datatype), qdrant.EdgeConfig(vectors=params))
    points = [qdrant.Point(number, row.astype(float).tolist()) for number, row in enumerate(corpus.vectors)]
    shard.update(qdrant.UpdateOperation.upsert_points(points))
    exact, found = qdrant.SearchParams(exact=True), []
    for query in corpus.queries:
        wanted = qdrant.Query.Nearest(query.astype(float).tolist())
        found.append([hit.id for hit in shard.query(qdrant.QueryRequest(limit=K, query=wanted, params=exact))])
    [first] = shard.retrieve([0], with_payload=False, with_vector=True)
    shard.close()
    return found, first.vector


def test_float16(corpus, tmp_path):
    found, _ = nearest(corpus, tmp_path, "Float16")
    assert check_neighbours(found, corpus.cosines(), ROUNDED) >= NEARLY_ALL


def test_float32(corpus, tmp_path):
    found, _ = nearest(corpus, tmp_path, "Float32")
    assert check_neighbours(found, corpus.cosines(), ALMOST) >= NEARLY_ALL


def test_uint8_clamps_negative_values(corpus, tmp_path):
    found, first = nearest(corpus, tmp_path, "Uint8")
    assert first == [max(0.0, float(value)) for value in corpus.vectors[0]]
    with pytest.raises(AssertionError):
        check_neighbours(found, corpus.cosines(), 0.01)


@pytest.mark.filterwarnings("ignore")  # of the packages that the client imports
def test_the_memory_mode_of_the_client_hides_that(corpus):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(":memory:")
    params = qdrant.models.VectorParams(
        size=DIMENSIONS, distance=qdrant.models.Distance.COSINE, datatype=qdrant.models.Datatype.UINT8
    )
    client.create_collection("chunks", vectors_config=params)
    points = [
        qdrant.models.PointStruct(id=number, vector=row.astype(float).tolist())
        for number, row in enumerate(corpus.vectors)
    ]
    client.upsert("chunks", points)
    found = [
        [hit.id for hit in client.query_points("chunks", query=query.astype(float).tolist(), limit=K).points]
        for query in corpus.queries
    ]
    client.close()
    assert check_neighbours(found, corpus.cosines(), ROUNDED) >= NEARLY_ALL
