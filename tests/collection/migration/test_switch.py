"""``migrate``: another model, by one switch."""

from __future__ import annotations

import numpy as np
import pytest
from ctxembed import (
    Collection,
    Document,
)
from ctxembed._collection.store import Store

from tests.collection.migration.samples import (
    DOCUMENTS,
    LEFT,
    NEW,
    OLD,
    QUERY,
    NewEmbedder,
    OldEmbedder,
    check,
    contents_of,
    migrated,
    new_vectors,
    old_vectors,
    spent,
)
from tests.collection.samples import DIMENSIONS, contents, document


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
@pytest.mark.parametrize("dimensions", [DIMENSIONS, 256])
def test_all_documents_have_the_vectors_of_the_new_model(tmp_path, small, encoding_format, dimensions):
    with Collection.create(
        tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS, encoding_format=encoding_format
    ) as collection:
        collection.ingest([document(number, lang="en" if number % 2 else "de") for number in range(20)], OldEmbedder())
        embedder = NewEmbedder()
        report = collection.migrate(NEW, embedder, dimensions=dimensions)
        assert (report.switched, report.embedded, report.unchanged, report.stopped) == (True, 20, 0, None)
        assert (report.model, report.dimensions, report.encoding_format) == (NEW, dimensions, encoding_format)
        assert (collection.model, collection.dimensions, collection.space) == (NEW, dimensions, "new")
        assert collection.encoding_format == encoding_format
        assert collection.verify() == []
        [hit] = collection.search(QUERY, 1, client=embedder, where="lang = 'en'")
        assert (hit.document, hit.text, hit.metadata["lang"]) == ("doc-5", QUERY, "en")
        assert report.usage.requests == 4
        embedder.sent.clear()
        again = collection.ingest([document(3, lang="en"), document(77)], embedder)
        assert (again.added, again.unchanged, embedder.sent) == (1, 1, [document(77).chunks])


def test_rows_filters_ledger_and_order_stay(path, col):
    tokens, requests = spent(path)
    before = [one.id for one in col.documents()]
    rows = {name: col._current().find(name)[6:8] for name in before}
    report = migrated(col)
    assert [one.id for one in col.documents()] == before
    assert {name: col._current().find(name)[6:8] for name in before} == rows
    assert spent(path) == (tokens + report.usage.total_tokens, requests + report.usage.requests)
    assert not (path / "generations").exists()
    assert len(list((path / "segments").iterdir())) == len(col._current().segments)
    col.compact()
    col.close()
    check(path, LEFT, new_vectors)


def test_an_empty_collection_and_one_that_was_emptied(tmp_path, path, col):
    col.delete([one.id for one in LEFT])
    assert migrated(col).switched
    assert (len(col), col.model, col.verify()) == (0, NEW, [])
    col.ingest(DOCUMENTS, NewEmbedder())
    assert contents(col) == contents_of(DOCUMENTS, new_vectors)
    with Collection.create(tmp_path / "empty.ctx", model=OLD, dimensions=DIMENSIONS) as empty:
        assert migrated(empty).switched
        assert (empty.model, empty.space, empty.verify()) == (NEW, None, [])


def test_a_calibration_does_not_cross(col):
    col.calibrate(old_vectors(["one", "two"]), 3, recall=0.9)
    migrated(col)
    assert col._current().generation.calibration is None


def test_a_snapshot_has_the_generation_that_is_searched(tmp_path, col):
    migrated(col, keep_old=True)
    col.snapshot(tmp_path / "b.ctx")
    check(tmp_path / "b.ctx", LEFT, new_vectors)
    assert not (tmp_path / "b.ctx" / "generations").exists()


def test_equal_content_is_paid_for_once(path, col):
    col.ingest([Document("copy", document(1).chunks)], OldEmbedder())
    embedder = NewEmbedder()
    migrated(col, embedder)
    assert embedder.sent.count(document(1).chunks) == 1


def test_fewer_dimensions_and_bits_are_cut_from_stored_vectors(path, col):
    rows = {one.id: col.vectors([one.id]) for one in LEFT}
    with Collection.create(path.with_name("wide.ctx"), model=OLD, dimensions=256) as wide:
        wide.ingest(DOCUMENTS, OldEmbedder())
        report = wide.migrate(dimensions=DIMENSIONS)
        assert (report.switched, report.requests, report.dimensions) == (True, 0, DIMENSIONS)
        assert (wide.dimensions, wide.space, wide.verify()) == (DIMENSIONS, "old", [])
        wide.delete(["doc-7"])
        # The digests of the embedder are prefixes of each other too.
        assert contents(wide) == contents(col)
    tokens = spent(path)
    assert col.migrate(encoding_format="base64_binary", keep_old=True).switched
    assert (col.encoding_format, col.dimensions, spent(path)) == ("base64_binary", DIMENSIONS, tokens)
    for name, before in rows.items():
        assert (col.vectors([name]) == np.packbits(before >= 0, axis=1, bitorder="little")).all()
    embedder = OldEmbedder()
    assert col.ingest(LEFT, embedder).unchanged == len(LEFT)
    assert embedder.sent == []
    assert col.search(QUERY, 1, client=embedder)[0].text == QUERY
    with pytest.raises(TypeError, match="client must be a Client"):  # bits have no int8 values
        col.migrate(encoding_format="base64_int8")
    assert col.rollback().switched
    assert contents(col) == contents_of(LEFT)


def test_vectors_are_cut_again_after_a_failure_and_a_change(path, col, monkeypatch):
    monkeypatch.setattr("ctxembed._collection.cutting._AT_ONCE", 5)
    commits, commit = [], Store.commit

    def third_fails(self, documents, *given, **options):
        commits.append(len(documents))
        if len(commits) == 3:
            raise OSError(28, "No space left on device", str(path))
        return commit(self, documents, *given, **options)

    monkeypatch.setattr(Store, "commit", third_fails)
    with pytest.raises(OSError, match="No space left"):
        col.migrate(encoding_format="base64_binary")
    col.delete(["doc-1"])
    col.ingest([document(2, version=8)], OldEmbedder())
    report = col.migrate(encoding_format="base64_binary")
    assert (report.switched, report.unchanged) == (True, 8)
    assert len(col) == len(LEFT) - 1
    assert col.verify() == []
    assert (col.vectors(["doc-2"]) == old_vectors(document(2, version=8).chunks, encoding_format="base64_binary")).all()
