"""Hits that the core writes as JSON are those of ``Collection.search``, and what is damaged is the same error."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from ctxembed import BinaryIndex, Collection, CollectionError, Document, Index
from ctxembed._collection.query import scores_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document, vectors_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=5,
)
METADATA = st.none() | st.dictionaries(TEXTS.filter(lambda name: name not in ("id", "source")), VALUES, max_size=3)


@st.composite
def documents(draw):
    found = []
    for number in range(draw(st.integers(1, 4))):
        chunks = draw(st.lists(TEXTS, min_size=1, max_size=3))
        spans = draw(st.none() | st.just([(10 * place, 10 * place + 5) for place in range(len(chunks))]))
        source = draw(st.none() | TEXTS)
        found.append(Document(f"{number} {draw(TEXTS)}", chunks, draw(METADATA), spans, source))
    return found


def as_json(collection, queries, k):
    """Return the hits of queries, as the core writes them."""
    view = collection._current()
    matches = [view.index.search(query, k) for query in queries]
    searches = [
        (found.ids.tolist(), scores_of(view, query, found, None)) for query, found in zip(queries, matches, strict=True)
    ]
    return view.hits_json(searches)


@settings(max_examples=40, deadline=None)
@given(documents(), st.booleans(), st.sampled_from(["base64_int8", "base64_binary"]))
def test_hits_are_those_of_a_search(given_documents, store_text, encoding_format):
    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.create(
            Path(folder) / "a.ctx", dimensions=DIMENSIONS, store_text=store_text, encoding_format=encoding_format
        ) as collection,
    ):
        report = collection.ingest(given_documents, LocalEmbedder())
        assert report.added + report.failed == len(given_documents)
        queries = [vectors_of([f"query {number}"])[0] for number in range(3)]
        found = [json.loads(hits) for hits in as_json(collection, queries, 5)]
        expected = [[asdict(hit) for hit in collection.search(query, 5)] for query in queries]
        assert found == json.loads(json.dumps(expected))


def test_no_searches_and_searches_without_rows_are_no_hits(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(1)], LocalEmbedder())
        assert collection._current().hits_json([]) == []
        assert collection._current().hits_json([([], []), ([], [])]) == [b"[]", b"[]"]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET text = 'another' WHERE row = 2",
        "UPDATE chunks SET text = 5 WHERE row = 2",
        "UPDATE chunks SET text = x'ff' WHERE row = 2",
        "UPDATE chunks SET start = 1.5 WHERE row = 2",
        "UPDATE chunks SET document = 99 WHERE row = 2",
        "UPDATE chunks SET checksum = 'x' WHERE row = 2",
        "UPDATE chunks SET checksum = -1 WHERE row = 2",
        "DELETE FROM chunks WHERE row = 2",
        "DELETE FROM documents WHERE number = 2",
        "UPDATE documents SET metadata = '{}' WHERE number = 2",
        "UPDATE documents SET key = 'text' WHERE number = 2",
        "UPDATE documents SET rows = 1000 WHERE number = 2",
        "UPDATE documents SET checksum = 'x' WHERE number = 2",
    ],
)
def test_damage_is_the_error_of_a_search(tmp_path, damage):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number, chunks=2) for number in range(3)], LocalEmbedder())
    with contextlib.closing(sqlite3.connect(tmp_path / "a.ctx" / "catalogue.sqlite")) as connection, connection:
        assert connection.execute(damage).rowcount == 1
    query = vectors_of(["query"])[0]
    with Collection.open(tmp_path / "a.ctx", read_only=True) as collection:
        with pytest.raises(CollectionError) as expected:
            collection.search(query, 6)
        with pytest.raises(CollectionError) as found:
            as_json(collection, [query], 6)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(("index_class", "dtype", "width"), [(Index, np.int8, 16), (BinaryIndex, np.uint8, 2)])
def test_checksums_are_those_of_the_rows(index_class, dtype, width):
    index = index_class(16)
    rows = np.random.default_rng(5).integers(0, 100, (9, width)).astype(dtype)
    index.add(rows)
    ranges = [(0, 9), (3, 2), (8, 1), (4, 0)]
    assert index._checksums(ranges) == [zlib.crc32(rows[first : first + count].tobytes()) for first, count in ranges]
    for wrong in ((8, 2), (-1, 1), (2**63 - 1, 2)):
        with pytest.raises(ValueError, match="is not in the index"):
            index._checksums([wrong])
