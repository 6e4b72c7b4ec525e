"""Search: scores, filters, queries of each kind, spaces, batches, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from ctxembed import AsyncClient, Client, Collection, Document, Embeddings, SpaceError, pack_bits

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document, vectors_of

QUERY = vectors_of(["query"])[0]
DOCUMENTS = [document(number, lang="en" if number % 3 else "de") for number in range(40)]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    with Collection.create(tmp_path_factory.mktemp("search") / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        yield collection


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "b.ctx"
    with Collection.create(path, dimensions=DIMENSIONS, encoding_format="base64_binary") as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        yield collection


def chunks():
    """Return (document id, chunk, row) of all chunks."""
    return [(one.id, place, row) for one in DOCUMENTS for place, row in enumerate(vectors_of(one.chunks))]


def check(hits, scores, k):
    """Compare hits with (score, document, chunk) of all chunks."""
    assert [hit.score for hit in hits] == pytest.approx(
        sorted((score for score, *_ in scores), reverse=True)[:k], abs=1e-6
    )
    of = {(name, place): score for score, name, place in scores}
    texts = {one.id: one for one in DOCUMENTS}
    assert len({(hit.document, hit.chunk) for hit in hits}) == min(k, len(scores))
    for hit in hits:
        assert of[hit.document, hit.chunk] == pytest.approx(hit.score, abs=1e-6)
        assert hit.vector_score == hit.score
        assert hit.text_score is None
        assert hit.text == texts[hit.document].chunks[hit.chunk]
        assert (hit.metadata, hit.source) == (texts[hit.document].metadata, texts[hit.document].source)


def cosine(one, two):
    one, two = one.astype(float), two.astype(float)
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


@pytest.mark.parametrize("k", [1, 7, 1000])
@pytest.mark.parametrize("shape", [(DIMENSIONS,), (1, DIMENSIONS)])
def test_int8_scores_are_cosines(collection, k, shape):
    scores = [(cosine(QUERY, row), name, place) for name, place, row in chunks()]
    check(collection.search(QUERY.reshape(shape), k), scores, k)


def test_packed_queries_score_one_minus_the_share_of_bits_that_differ(binary):
    bits = QUERY >= 0
    scores = [(1 - np.mean(bits != (row >= 0)), name, place) for name, place, row in chunks()]
    check(binary.search(pack_bits(QUERY[None])[0], 9), scores, 9)


def test_int8_queries_of_a_binary_collection_score_the_cosine_with_its_signs(binary):
    scores = [(cosine(QUERY, np.where(row >= 0, 1, -1)), name, place) for name, place, row in chunks()]
    check(binary.search(QUERY, 9), scores, 9)


def test_texts_are_embedded_by_the_client(collection, binary):
    for each in (collection, binary):
        assert each.search("query", 5, client=LocalEmbedder()) == each.search(QUERY, 5)
        with pytest.raises(TypeError, match="embed_queries"):
            each.search("query", client=object())
    with pytest.raises(TypeError, match="AsyncClient"):
        collection.search("query", client=AsyncClient(api_key="k" * 20, base_url="http://127.0.0.1:9"))


def test_embeddings_of_the_same_space_are_queries_and_others_are_refused(collection, server):
    one = LocalEmbedder().embed_queries(["query"], model="m", dimensions=DIMENSIONS, encoding_format="base64_int8")
    assert collection.search(one, 5) == collection.search(QUERY, 5)
    two = LocalEmbedder().embed_queries(["a", "b"], model="m", dimensions=DIMENSIONS, encoding_format="base64_int8")
    with pytest.raises(ValueError, match=r"search\(\) takes one query, got 2"):
        collection.search(two)
    assert collection.search_batch(two, 3).ids.shape == (2, 3)
    other = Embeddings(one.vectors, one.offsets, "m", DIMENSIONS, "base64_int8", space="another")
    with pytest.raises(SpaceError):
        collection.search(other)
    with pytest.raises(SpaceError):
        collection.search_batch(other)
    with Client(api_key="key-for-tests", base_url=server.base_url) as client, pytest.raises(SpaceError):
        collection.search("query", client=client)


@pytest.mark.parametrize("wrong", [QUERY[:64], QUERY.astype(float), [1, 2], None, 5, QUERY.reshape(2, 64)])
def test_queries_that_are_none(collection, wrong):
    with pytest.raises((TypeError, ValueError)):
        collection.search(wrong)


@pytest.mark.parametrize("k", [0, -1, 1.5, "1", None])
def test_k_is_a_positive_int(collection, k):
    with pytest.raises((TypeError, ValueError), match="k must be"):
        collection.search(QUERY, k)


FILTERS = [
    ("number >= ? AND lang = 'en'", (20,), lambda one: one.metadata["number"] >= 20 and one.metadata["lang"] == "en"),
    ("number IN (:a, :b)", {"a": 3, "b": 39}, lambda one: one.metadata["number"] in (3, 39)),
    ("id = ?", ["doc-7"], lambda one: one.id == "doc-7"),
    ("source LIKE '%/1_.txt'", (), lambda one: len(one.id) == 6 and one.id[4] == "1"),
    ("number < ?", (np.int64(5),), lambda one: one.metadata["number"] < 5),
    ("0", (), lambda one: False),
    ("lang IS NULL", (), lambda one: False),
]


@pytest.mark.parametrize(("where", "params", "selects"), FILTERS, ids=[where for where, *_ in FILTERS])
def test_filters_act_before_ranking(collection, where, params, selects):
    names = {one.id for one in DOCUMENTS if selects(one)}
    scores = [(cosine(QUERY, row), name, place) for name, place, row in chunks() if name in names]
    check(collection.search(QUERY, 12, where=where, params=params), scores, 12)
    assert {one.id for one in collection.documents(where, params)} == names
    found = collection.search_batch(QUERY[None], 12, where=where, params=params)
    assert {name for name, _ in collection.rows(found.ids)} <= names


@pytest.mark.parametrize(
    ("where", "params", "words"),
    [
        ("year = 1", (), "unknown name 'year'.*the fields are id, lang, number, source"),
        ('"year" = 1', (), "unknown name 'year'"),
        ("number = (SELECT 1)", (), "SELECT"),
        ("1; DROP TABLE documents", (), ";"),
        ("number = ?", (), "do not fit"),
        ("number = ?", (1, 2), "do not fit"),
        ("number = :a", {"b": 1}, "do not fit"),
        ("number =", (), "where"),
        ("", (), "empty"),
        ("number = 1 OR " * 5000 + "1", (), "at most 10,000"),
    ],
)
def test_filters_that_are_refused(collection, where, params, words):
    with pytest.raises(ValueError, match=words):
        collection.search(QUERY, where=where, params=params)
    with pytest.raises(ValueError, match=words):
        list(collection.documents(where, params))
    assert len(collection.search(QUERY, 3)) == 3


def test_params_are_a_sequence_or_a_dict(collection):
    for params in ("text", 5):
        with pytest.raises(TypeError, match="params must be a tuple, a list or a dict"):
            collection.search(QUERY, where="number = ?", params=params)


def test_an_empty_collection_finds_nothing(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        assert collection.search(QUERY) == []
        assert collection.search("query", client=LocalEmbedder()) == []
        assert collection.search(QUERY, where="id = 'x'") == []
        assert collection.vectors().shape == (0, DIMENSIONS)
        assert list(collection.documents()) == []
        assert (collection.verify(), collection.failures(), collection.compact()) == ([], [], 0)


def test_a_calibration_is_kept_until_the_next_open(tmp_path):
    rng = np.random.default_rng(0)
    queries = rng.integers(-127, 128, (20, DIMENSIONS), dtype=np.int8)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number) for number in range(200)], LocalEmbedder())
        found = collection.calibrate(queries, 5, recall=0.9)
        assert found.recall >= 0.9
        hits = collection.search(QUERY, 5, stage="two-stage")
        collection.delete(["doc-1"])
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert len(collection.search(QUERY, 5, stage="two-stage")) == len(hits) == 5
        assert collection.verify() == []


def test_prefixes_of_vectors_and_stages(collection):
    scores = [(cosine(QUERY[:64], row[:64]), name, place) for name, place, row in chunks()]
    check(collection.search(QUERY, 5, dimensions=64), scores, 5)
    assert collection.search(QUERY, 5, stage="two-stage", oversample=100) == collection.search(QUERY, 5)


def test_rows_of_a_batch_are_documents_and_chunks(collection):
    found = collection.search_batch(np.stack([QUERY, -QUERY]), 4)
    assert found.ids.shape == (2, 4)
    expected = [(hit.document, hit.chunk) for query in (QUERY, -QUERY) for hit in collection.search(query, 4)]
    assert collection.rows(found.ids) == expected


def test_hits_have_spans(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([Document("a", ["x", "y"], spans=[(0, 1), (2, 3)]), ("b", ["z"])], LocalEmbedder())
        spans = {(hit.document, hit.chunk): hit.span for hit in collection.search(QUERY)}
    assert spans == {("a", 0): (0, 1), ("a", 1): (2, 3), ("b", 0): None}
