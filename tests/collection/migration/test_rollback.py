"""The way back from a migration."""

from __future__ import annotations

import pytest
from ctxembed import (
    Collection,
    CollectionError,
)

from tests.collection.migration.samples import (
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
)
from tests.collection.samples import contents, document


def test_a_rollback_without_changes_sends_nothing(path, col):
    before = contents(col)
    migrated(col, keep_old=True)
    [kept, now] = col.generations()
    assert (kept.number, kept.state, kept.model, kept.documents, kept.space) == (1, "kept", OLD, len(LEFT), "old")
    assert (now.number, now.state, now.model, now.chunks) == (2, "searched", NEW, kept.chunks)
    report = col.rollback()
    assert (report.switched, report.model, report.embedded, report.requests) == (True, OLD, 0, 0)
    assert contents(col) == before
    assert [one.state for one in col.generations()] == ["searched"]
    assert not (path / "generations").exists()
    with pytest.raises(CollectionError, match=r"has kept no earlier vectors: migrate with keep_old=True"):
        col.rollback()
    col.close()
    check(path, LEFT, old_vectors)


def test_a_rollback_keeps_what_was_changed_since(path, col):
    migrated(col, keep_old=True)
    col.ingest([document(1, version=1), document(400)], NewEmbedder())
    col.delete(["doc-2"])
    with pytest.raises(CollectionError, match=r"added or changed since \(2 or more\).*pass a client"):
        col.rollback()
    assert col.model == NEW
    embedder = OldEmbedder()
    report = col.rollback(embedder, keep_new=True)
    assert (report.embedded, len(embedder.sent)) == (2, 2)
    now = [document(1, version=1) if one.id == "doc-1" else one for one in LEFT if one.id != "doc-2"]
    assert contents(col) == contents_of([*now, document(400)])
    assert col.rollback().model == NEW
    col.close()
    check(path, [*now, document(400)], new_vectors)


def test_a_rollback_that_was_not_completed_can_be_given_up(path, col):
    migrated(col, keep_old=True)
    col.ingest([document(400)], NewEmbedder())
    with pytest.raises(CollectionError, match="pass a client"):
        col.rollback()
    assert [one.state for one in col.generations()] == ["searched", "under way"]
    assert col.abandon_migration()
    assert [one.state for one in col.generations()] == ["kept", "searched"]
    assert col.rollback(OldEmbedder()).model == OLD


def test_the_old_vectors_are_deleted_when_they_are_not_needed_any_more(path, col):
    migrated(col, keep_old=True)
    (path / "generations" / "notes.txt").write_text("mine")
    assert col.delete_old() == 1
    assert col.delete_old() == 0
    assert (path / "generations" / "notes.txt").read_text() == "mine"
    assert [one.state for one in col.generations()] == ["searched"]
    with pytest.raises(CollectionError, match="has kept no earlier vectors"):
        col.rollback()
    assert col.verify() == []
    col.close()
    check(path, LEFT, new_vectors)


def test_kept_vectors_take_no_room_twice(path, col):
    old = {entry.name: entry.stat().st_ino for entry in (path / "segments").iterdir()}
    migrated(col, keep_old=True)
    kept = path / "generations" / "000001"
    assert {entry.name: entry.stat().st_ino for entry in (kept / "segments").iterdir()} == old
    with Collection.open(kept, read_only=True) as earlier:
        assert earlier.verify() == []
        assert earlier.search(OldEmbedder().embed_queries([QUERY], model=OLD, dimensions=128, encoding_format="base64_int8"), 1)[0].document == "doc-5"  # noqa: E501  # fmt: skip
