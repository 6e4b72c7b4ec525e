"""What is stored is what was given: documents, metadata, spans, vectors, deletion, compaction, random sequences."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from ctxembed import Collection, Document
from ctxembed._collection import rows as row_files
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, hits_of, vectors_of

QUERY = vectors_of(["query"])[0]


@pytest.fixture
def client():
    return LocalEmbedder()


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        yield collection


TEXTS = [
    "a",
    "two words",
    "\n\t ",
    "\0",
    "naïve 日本語 😀",
    "\u2028\x85",
    "'quoted\"",
    "x" * 100_000,
    "e\u0301",
    "\ufeff",
]


@pytest.mark.parametrize("store_text", [True, False])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_rows_of_one_statement_keep_what_is_absent_apart_from_zero(tmp_path, client, count, store_text):
    sources, metadata, spans = [None, "0", "", "a"], [None, {}, {"0": 0}], [None, [(0, 0)], [(0, 5)]]
    given = [Document(f"{i}", [f"chunk {i}"], metadata[i % 3], spans[i // 2 % 3], sources[i % 4]) for i in range(count)]
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, store_text=store_text) as collection:
        assert collection.ingest(given, client).added == count
        assert collection.verify() == []
        with contextlib.closing(sqlite3.connect(tmp_path / "a.ctx" / "catalogue.sqlite")) as connection:
            columns = "source, metadata, record, typeof(key), typeof(details)"
            documents = connection.execute(f"SELECT {columns} FROM documents ORDER BY number").fetchall()
            chunks = connection.execute("SELECT row, chunk, text, start, stop FROM chunks ORDER BY row").fetchall()
        assert documents == [
            (sources[i % 4], [None, "{}", '{"0":0}'][i % 3], None, "blob", "blob") for i in range(count)
        ]
        assert chunks == [
            (i, 0, document.chunks[0] if store_text else None, *((document.spans or [(None, None)])[0]))
            for i, document in enumerate(given)
        ]
        assert collection.ingest(given, client).unchanged == count


def test_documents_come_back_as_they_were_given(collection, client):
    metadata = {
        "text": "naïve 😀", "int": -(2**63), "large": 2**200, "float": 0.1, "bool": True, "none": None, "empty": "",
        "list": [1, [2.5, "x"]], "dict": {"a": {"b": None}}, "a b": 1, 'odd"name': 2, "": 3, "ORDER": 4, "0": 5,
    }  # fmt: skip
    spans = [(3 * i, 3 * i + 2) for i in range(len(TEXTS))]
    given = Document("naïve 😀", TEXTS, metadata, spans, "/a\\b/😀")
    report = collection.ingest([given], client)
    assert report.added == 1
    assert collection.get(given.id) == given
    assert list(collection.documents()) == [given]
    assert given.id in collection
    assert np.array_equal(collection.vectors([given.id]), vectors_of(TEXTS))
    for hit in collection.search(QUERY, len(TEXTS)):
        assert (hit.text, hit.span) == (TEXTS[hit.chunk], spans[hit.chunk])
        assert (hit.metadata, hit.source) == (metadata, given.source)


def test_a_document_may_be_a_document_a_dict_or_a_pair(collection, client):
    given = [
        Document("a", ["one"], {"n": 1}),
        {"id": "b", "chunks": ("one", "two"), "source": "s", "spans": [[0, 3], [3, 6]]},
        ("c", ["one"]),
        ["d", iter(["one", "two"])],
    ]
    assert collection.ingest(given, client).added == 4
    assert [one.id for one in collection.documents()] == ["a", "b", "c", "d"]
    assert collection.get("b") == Document("b", ["one", "two"], None, [(0, 3), (3, 6)], "s")
    assert collection.get("d").chunks == ["one", "two"]


def test_lone_surrogates_are_escaped_in_sources_and_refused_elsewhere(collection, client):
    documents = [
        Document("a", ["x"], {"n": 1}, None, "file-\udcff"),
        Document("b", ["x"], {"bad": "\ud800"}),
        Document("c", ["x"], {"\udfff": 1}),
        Document("d\ud800", ["x"]),
    ]
    report = collection.ingest(documents, client)
    assert (report.added, report.failed) == (1, 3)
    assert collection.get("a").source == "file-\\udcff"
    assert [failed.id for failed in collection.failures()] == ["b", "c"]
    assert collection.verify() == []


def test_documents_come_in_order_of_ingestion_also_after_a_replacement(collection, client):
    collection.ingest([document(number) for number in (5, 2, 9)], client)
    collection.ingest([document(2, version=1)], client)
    collection.ingest([document(5, extra=1)], client)  # metadata alone: it keeps its place
    assert [one.id for one in collection.documents()] == ["doc-5", "doc-9", "doc-2"]
    assert [one.id for one in collection.documents("number < ?", (6,))] == ["doc-5", "doc-2"]


def test_what_is_not_there(collection, client):
    collection.ingest([document(1)], client)
    assert collection.get("doc-2") is None
    assert "doc-2" not in collection
    assert 5 not in collection
    assert "" not in collection
    assert "\ud800" not in collection
    with pytest.raises(KeyError, match="there is no document 'doc-2' in "):
        collection.vectors(["doc-1", "doc-2"])
    with pytest.raises(TypeError, match="an id must be a str, got 5"):
        collection.get(5)
    with pytest.raises(ValueError, match="lone surrogate"):
        collection.get("\ud800")
    for row in (2, -1, 1000, 2**40):
        with pytest.raises(ValueError, match=f"there is no row {row} in "):
            collection.rows([row])
    with pytest.raises(TypeError, match="ids must be ints"):
        collection.rows([0.5])


def test_vectors_in_the_order_of_documents_then_chunks(collection, client):
    documents = [document(number) for number in range(6)]
    collection.ingest(documents, client)
    assert np.array_equal(collection.vectors(), np.concatenate([vectors_of(one.chunks) for one in documents]))
    found = collection.vectors(["doc-3", "doc-1", "doc-3"])
    assert np.array_equal(found, np.concatenate([vectors_of(documents[number].chunks) for number in (3, 1, 3)]))
    assert collection.vectors([]).shape == (0, DIMENSIONS)
    found[:] = 0
    assert np.array_equal(collection.vectors(["doc-1"]), vectors_of(documents[1].chunks))


def test_deleting(collection, client):
    collection.ingest([document(number) for number in range(6)], client)
    with pytest.raises(TypeError, match=r"got one str: pass \['doc-1'\]"):
        collection.delete("doc-1")
    with pytest.raises(TypeError, match="an id must be a str"):
        collection.delete(["doc-1", 5])
    assert len(collection) == 6
    assert collection.delete(["doc-1", "doc-4", "doc-1", "unknown"]) == 2
    assert collection.delete(name for name in ["doc-1"]) == 0
    assert contents(collection) == expected([document(number) for number in (0, 2, 3, 5)])
    assert {hit.document for hit in collection.search(QUERY, 100)} == {"doc-0", "doc-2", "doc-3", "doc-5"}
    assert collection.stats().deleted_chunks == 2 + 1
    assert collection.ingest([document(1)], client).added == 1
    assert collection.verify() == []


def test_compacting_removes_rows_and_changes_nothing_else(collection, client):
    collection.ingest([document(number) for number in range(20)], client)
    assert collection.compact() == 0
    collection.delete([f"doc-{number}" for number in range(0, 20, 3)])
    collection.ingest([document(4, version=1)], client)
    before, hits = contents(collection), hits_of(collection, QUERY, 100)
    names = [one.id for one in collection.documents()]
    removed = collection.stats().deleted_chunks
    assert collection.compact() == removed > 0
    assert (contents(collection), hits_of(collection, QUERY, 100)) == (before, hits)
    assert [one.id for one in collection.documents()] == names
    assert collection.stats().deleted_chunks == 0
    assert collection.compact() == 0
    assert collection.verify() == []
    assert collection.ingest([document(7)], client).unchanged == 1


def test_a_collection_without_texts(tmp_path, client):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, store_text=False) as collection:
        collection.ingest([Document("a", ["x", "y"], {"n": 1}, [(0, 1), (1, 2)])], client)
        assert collection.get("a") == Document("a", [], {"n": 1}, [(0, 1), (1, 2)])
        assert collection.search(QUERY, 1)[0].text is None
        assert collection.ingest([Document("a", ["x", "y"], {"n": 2}, [(0, 1), (1, 2)])], client).updated == 1
        assert len(client.sent) == 1
        assert collection.verify() == []
        collection.delete(["none"])
        assert collection.ingest([("a", ["x", "z"])], client).updated == 1
        assert collection.compact() == 2
        assert collection.verify() == []


def test_declared_fields(tmp_path, client):
    fields = {"year": int, "score": float, "lang": str, "draft": bool}
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, fields=fields) as collection:
        good = [
            Document("1", ["x"], {"year": 2020, "score": 1, "lang": "en", "draft": False}),
            Document("2", ["x"], {"year": None}),
            Document("3", ["x"]),
            Document("4", ["x"], {"other": [1]}),
        ]
        bad = [
            Document("5", ["x"], {"year": "2020"}),
            Document("6", ["x"], {"year": True}),
            Document("7", ["x"], {"score": "1"}),
            Document("8", ["x"], {"draft": 1}),
            Document("9", ["x"], {"lang": 5}),
            Document("10", ["x"], {"lang": ["en"]}),
        ]
        report = collection.ingest([*good, *bad], client)
        assert (report.added, report.failed) == (4, 6)
        assert "the metadata field 'year' is declared as int, got '2020'" in collection.failures()[1].error
        assert [one.id for one in collection.documents("year = 2020 AND NOT draft")] == ["1"]
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert collection.ingest([bad[0]], client).failed == 1
    for wrong in ({"id": str}, {"source": str}, {"": str}, {"year": list}, {5: int}):
        with pytest.raises((TypeError, ValueError), match="fields"):
            Collection.create(tmp_path / "b.ctx", fields=wrong)
    assert not (tmp_path / "b.ctx").exists()


def test_a_collection_says_what_it_is(tmp_path, client):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        assert (collection.model, collection.dimensions) == ("pplx-embed-context-v1-0.6b", DIMENSIONS)
        assert (collection.encoding_format, collection.space, len(collection)) == ("base64_int8", None, 0)
        collection.ingest([document(number) for number in range(4)], client)
        assert collection.space == "hashed"
        stats = collection.stats()
        assert (stats.documents, stats.chunks, stats.deleted_chunks, stats.failed) == (4, 10, 0, 0)
        assert stats.space == "hashed"
        assert stats.usage.requests == 1
        assert stats.usage.total_tokens == sum(len(chunk) for one in range(4) for chunk in document(one).chunks)
        assert stats.bytes > 10 * DIMENSIONS
    for wrong in ({"model": "unknown"}, {"dimensions": 64}, {"dimensions": 129, "encoding_format": "base64_binary"},
                  {"encoding_format": "float"}, {"model": "pplx-embed-v1-0.6b"}, {"store_text": 1}):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            Collection.create(tmp_path / "b.ctx", **wrong)
    assert not (tmp_path / "b.ctx").exists()


# --- random sequences against a dict ---

_IDS = st.sampled_from([f"doc-{number}" for number in range(8)])
_CHUNKS = st.lists(st.sampled_from(["red", "green", "blue", "naïve 😀"]), min_size=1, max_size=5)
_METADATA = st.none() | st.dictionaries(
    st.sampled_from(["year", "lang", "odd name", 'q"uote']),
    st.none() | st.integers(-5, 5) | st.booleans() | st.sampled_from(["en", "de"]) | st.just([1]),
    max_size=3,
)
_DOCUMENTS = st.dictionaries(_IDS, st.tuples(_CHUNKS, _METADATA), max_size=6)


class Model(RuleBasedStateMachine):
    """A collection and a dict with the same documents. Each content is paid for once while it is stored."""

    @initialize()
    def create(self):
        self.sizes = row_files.SEAL_BYTES, row_files.TAIL_BYTES
        row_files.SEAL_BYTES, row_files.TAIL_BYTES = 10 * DIMENSIONS, 14 * DIMENSIONS
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "a.ctx"
        self.collection = Collection.create(self.path, dimensions=DIMENSIONS)
        self.documents = {}
        self.collection.ingest([Document("year", ["x"], {"year": 1})], LocalEmbedder())
        self.collection.delete(["year"])

    @rule(given=_DOCUMENTS, prune=st.booleans())
    def ingest(self, given, prune):
        client = LocalEmbedder()
        report = self.collection.ingest(
            [Document(name, chunks, metadata) for name, (chunks, metadata) in given.items()], client, prune=prune
        )
        held = {tuple(chunks) for chunks, _ in self.documents.values()}
        wanted = {tuple(chunks) for chunks, _ in given.values()}
        assert sorted(map(tuple, client.sent)) == sorted(wanted - held)
        kinds = [None if name not in self.documents else self.documents[name] == new for name, new in given.items()]
        assert (report.added, report.updated, report.unchanged) == (
            kinds.count(None),
            kinds.count(False),
            kinds.count(True),
        )
        gone = set(self.documents) - set(given) if prune and given else set()
        assert report.deleted == len(gone)
        # A document with other chunks moves to the end; one with other metadata keeps its place.
        for name, (chunks, metadata) in given.items():
            if name in self.documents and self.documents[name][0] != chunks:
                del self.documents[name]
            self.documents[name] = (chunks, metadata)
        for name in gone:
            del self.documents[name]

    @rule(names=st.lists(_IDS, max_size=3))
    def delete(self, names):
        assert self.collection.delete(names) == len(set(names) & set(self.documents))
        for name in names:
            self.documents.pop(name, None)

    @rule()
    def compact(self):
        rows = self.collection.stats().deleted_chunks
        assert self.collection.compact() == rows
        assert self.collection.stats().deleted_chunks == 0

    @rule()
    def reopen(self):
        self.collection.close()
        self.collection = Collection.open(self.path)

    @rule(year=st.integers(-5, 5))
    def filter(self, year):
        found = {one.id for one in self.collection.documents("year >= ?", (year,))}
        assert found == {
            name
            for name, (_, metadata) in self.documents.items()
            if (
                isinstance(value := (metadata or {}).get("year"), int | str)
                and (isinstance(value, str) or value >= year)
            )
            or isinstance(value, list)
        }

    @rule(k=st.integers(1, 30))
    def search(self, k):
        chunks = [
            (cosine(row), name, place)
            for name, (texts, _) in self.documents.items()
            for place, row in enumerate(vectors_of(texts))
        ]
        hits = self.collection.search(QUERY, k)
        assert np.allclose([hit.score for hit in hits], sorted((score for score, *_ in chunks), reverse=True)[:k])
        scores = {(name, place): score for score, name, place in chunks}
        for hit in hits:
            assert math.isclose(scores[hit.document, hit.chunk], hit.score, rel_tol=1e-6)
            assert hit.text == self.documents[hit.document][0][hit.chunk]

    @invariant()
    def same(self):
        assert len(self.collection) == len(self.documents)
        found = {one.id: (list(one.chunks), one.metadata) for one in self.collection.documents()}
        assert found == self.documents
        with Collection.open(self.path, read_only=True) as reader:
            assert len(reader) == len(self.documents)
            assert reader.verify() == []

    def teardown(self):
        self.collection.close()
        self.folder.cleanup()
        row_files.SEAL_BYTES, row_files.TAIL_BYTES = self.sizes


def cosine(row):
    one, two = row.astype(float), QUERY.astype(float)
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


# Alone it takes seconds. Beside other tests it has taken minutes, at no step in particular.
TestModel = pytest.mark.timeout(600)(Model.TestCase)
TestModel.settings = settings(
    max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
