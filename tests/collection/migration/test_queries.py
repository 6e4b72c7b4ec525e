"""Queries after a migration: each goes with its model, and an array does not cross."""

from __future__ import annotations

import pytest
from ctxembed import (
    Collection,
    SpaceError,
)

from tests.collection.migration.samples import (
    LEFT,
    NEW,
    OLD,
    QUERY,
    BothEmbedder,
    OldEmbedder,
    migrated,
)
from tests.collection.samples import DIMENSIONS, document


def test_a_query_goes_with_the_model_and_an_array_does_not_cross(path, col):
    both = BothEmbedder()
    options = {"dimensions": DIMENSIONS, "encoding_format": "base64_int8"}
    old, new = (both.embed_queries([QUERY], model=model, **options) for model in (OLD, NEW))
    with Collection.open(path, read_only=True) as reader:
        assert reader.search(QUERY, 1, client=both)[0].text == QUERY
        migrated(col)
        for collection in (reader, col):
            assert collection.search(QUERY, 1, client=both)[0].text == QUERY
        assert reader.model == OLD
        assert reader.search(old.vectors[0], 1)  # the state is the old one still
        reader.refresh()
        for collection in (reader, col):
            assert collection.model == NEW
            assert collection.search(QUERY, 1, client=both)[0].text == QUERY
            assert collection.search(new, 1) == collection.search(new.vectors[0], 1, space="new")
            for search in (collection.search, collection.search_batch):
                with pytest.raises(SpaceError, match="'new' now: the array may be a vector of the model before"):
                    search(new.vectors, 1)
                with pytest.raises(SpaceError, match=r'the space "old"'):
                    search(old, 1)
                with pytest.raises(SpaceError, match="of the space 'old', and the collection of 'new'"):
                    search(old.vectors, 1, space="old")
        with pytest.raises(SpaceError, match="the array may be"):
            col.calibrate(old.vectors, 1)
    with pytest.raises(SpaceError, match=r'the space "old"'):
        col.search(QUERY, 1, client=OldForAll())
    col.close()
    with Collection.open(path, read_only=True) as reader:
        assert reader.search(new.vectors, 1)
    with Collection.open(path) as col:
        assert col.search(new.vectors, 1)
        with pytest.raises(ValueError, match="space is that of a vector, got a text"):
            col.search(QUERY, 1, client=both, space="new")
        with pytest.raises(TypeError, match="space must be a str or None, got 1"):
            col.search(new.vectors, 1, space=1)


class OldForAll(OldEmbedder):
    """A server that gives the vectors of one model whatever is asked for."""

    def embed_queries(self, queries, *, model, **options):
        return super().embed_queries(queries, model=OLD, **options)


def test_jobs_of_the_old_model_do_not_write_into_the_new_one(path, col):
    migrated(col)
    with pytest.raises(SpaceError, match="of the space 'new', and these are of 'old'"):
        col.ingest([document(500)], OldForAllDocuments())
    assert len(col) == len(LEFT)


class OldForAllDocuments(OldEmbedder):
    def embed(self, documents, *, model, **options):
        return super().embed(documents, model=OLD, **options)


def test_the_index_of_words_is_that_of_before(path, col):
    pytest.importorskip("tantivy")
    both = BothEmbedder()
    before = col.search(QUERY, 3, client=both, hybrid=True)
    states = {entry.name: entry.stat().st_ino for entry in (path / "words").iterdir()}
    for _ in range(2):
        migrated(col, keep_old=True)
        after = col.search(QUERY, 3, client=both, hybrid=True)
        assert before[0].document == after[0].document == "doc-5"
        assert before[0].text_score == after[0].text_score > 0
        assert {entry.name: entry.stat().st_ino for entry in (path / "words").iterdir()} == states
        col.rollback()
        assert col.search(QUERY, 3, client=both, hybrid=True) == before
    col.delete(["doc-9"])
    col.compact()
    assert col.search(QUERY, 3, client=both, hybrid=True)[0].document == "doc-5"
    assert {entry.name: entry.stat().st_ino for entry in (path / "words").iterdir()} != states
