"""A collection of every format version opens, is searched, verified and written to."""

from __future__ import annotations

import shutil

import pytest
from ctxembed import Collection, Document
from ctxembed._collection.catalogue import FORMAT_VERSION

from tests.collection.make_sample import DOCUMENTS, LAST, SAMPLES
from tests.collection.samples import LocalEmbedder, contents, document, expected, hits_of, vectors_of

HELD = [
    *(one for one in DOCUMENTS if one.id not in ("doc-1", "doc-6")),
    LAST,
    document(1, version=1, lang="en"),
]


@pytest.fixture(params=range(1, FORMAT_VERSION + 1))
def path(request, tmp_path):
    return shutil.copytree(SAMPLES / f"v{request.param}", tmp_path / "sample.ctx")


def test_there_is_a_sample_of_each_version():
    assert sorted(sample.name for sample in SAMPLES.iterdir()) == [f"v{n}" for n in range(1, FORMAT_VERSION + 1)]
    assert sum(file.stat().st_size for file in SAMPLES.rglob("*") if file.is_file()) < 300_000


@pytest.mark.parametrize("read_only", [True, False])
def test_a_collection_of_any_version_is_read(path, read_only):
    with Collection.open(path, read_only=read_only) as collection:
        assert contents(collection) == expected(HELD)
        assert collection.get(LAST.id) == LAST
        assert collection.verify() == []
        assert (collection.model, collection.space) == ("pplx-embed-context-v1-0.6b", "hashed")
        stats = collection.stats()
        assert (stats.documents, stats.deleted_chunks, stats.failed, stats.segments) == (9, 2 + 3, 1, 3)
        [failed] = collection.failures()
        assert (failed.id, failed.error) == ("bad", "DocumentError: a document must have at least one chunk")
        hits = hits_of(collection, vectors_of(LAST.chunks)[1], 3)
        assert hits[0][:2] == (LAST.id, 1)
        assert {one.id for one in collection.documents("lang = 'de' AND number > 2")} == {"doc-4", "doc-8"}


def test_a_collection_of_any_version_is_written_to(path):
    with Collection.open(path) as collection:
        client = LocalEmbedder()
        copy = Document("a copy of doc-3", document(3).chunks)
        report = collection.ingest([*HELD, document(50), copy], client)
        assert (report.added, report.unchanged, len(client.sent)) == (2, len(HELD), 1)
        assert collection.delete([copy.id]) == 1
        assert collection.delete(["doc-0"]) == 1
        assert collection.compact() == 2 + 3 + 1 + len(copy.chunks)
        assert contents(collection) == expected([*HELD[1:], document(50)])
        assert collection.verify() == []
    with Collection.open(path, read_only=True) as collection:
        assert contents(collection) == expected([*HELD[1:], document(50)])
