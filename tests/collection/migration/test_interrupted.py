"""A migration that fails, is killed or is refused: nothing that was paid is lost, and searches go on."""

from __future__ import annotations

import ctxembed
import pytest
from ctxembed import (
    Client,
    CollectionError,
    Document,
    SpaceError,
)
from ctxembed._collection import rows as row_files

from tests.collection.fault_steps import build_faults, run_steps
from tests.collection.migration.samples import (
    LEFT,
    NEW,
    OLD,
    NewEmbedder,
    OldEmbedder,
    Stopping,
    check,
    contents_of,
    fail,
    migrated,
    new_vectors,
    spent,
    under_way,
)
from tests.collection.samples import contents


def test_an_exception_loses_nothing_that_is_paid(path, col):
    first, second = Stopping(4, fail), NewEmbedder()
    with pytest.raises(RuntimeError, match="the power is gone"):
        migrated(col, first)
    assert [one.state for one in col.generations()] == ["searched", "under way"]
    assert col.generations()[1].documents == 15
    report = migrated(col, second)
    assert (report.embedded, report.unchanged) == (len(LEFT) - 15, 15)
    assert sorted(first.sent + second.sent) == sorted(one.chunks for one in LEFT)
    assert [one.state for one in col.generations()] == ["searched"]
    col.close()
    check(path, LEFT, new_vectors)


def test_another_model_is_refused_while_one_is_under_way(path, col):
    with pytest.raises(RuntimeError, match="the power is gone"):
        migrated(col, Stopping(3, fail))
    message = (
        r"a migration to pplx-embed-context-v1-4b with 128 .* under way, with 10 documents, and this is one to .*256"
    )
    with pytest.raises(CollectionError, match=message):
        col.migrate(NEW, NewEmbedder(), dimensions=256)
    with pytest.raises(CollectionError, match=r"is under way, and this is one to .*256"):
        col.migrate(NEW, dimensions=256, dry_run=True)
    with pytest.raises(CollectionError, match="a migration to .* is under way. Complete it, or give it up"):
        col.rollback()
    tokens, requests = spent(path)
    assert col.abandon_migration()
    assert not (path / "generations").exists()
    assert spent(path)[1] == requests + 2
    assert spent(path)[0] > tokens
    assert not col.abandon_migration()
    assert col.migrate(NEW, NewEmbedder(), dimensions=256).switched


def test_vectors_of_another_space_than_those_before_are_refused(path, col):
    with pytest.raises(RuntimeError, match="the power is gone"):
        migrated(col, Stopping(3, fail))
    elsewhere = NewEmbedder()
    elsewhere.space = "elsewhere"
    with pytest.raises(
        SpaceError, match=r"generations/000002 holds vectors of the space 'new', and these are of 'elsewhere'"
    ):
        migrated(col, elsewhere)
    assert (col.model, under_way(col)) == (OLD, 10)
    assert migrated(col).switched


def test_documents_that_cannot_be_embedded_keep_the_old_vectors(path, col, server):
    col.ingest([Document("long", ["word " * 9_000]), Document("bad", ["a <|chunk_sep|> b"])], OldEmbedder())
    with Client(api_key="k", base_url=server.base_url) as client:
        message = (
            r"1 documents have no vectors of pplx-embed-v2-context-9b .*'bad': .*chunk_sep.*no switch|no switch.*'bad'"
        )
        for _ in range(2):
            with pytest.raises(CollectionError, match=message):
                col.migrate("pplx-embed-v2-context-9b", client, dimensions=1024)
        assert (col.model, "bad" in col) == (OLD, True)
        assert under_way(col) == len(LEFT) + 1
        col.delete(["bad"])
        report = col.migrate("pplx-embed-v2-context-9b", client, dimensions=1024)
        assert (report.switched, report.embedded) == (True, 0)
    assert len(col) == len(LEFT) + 1
    assert col.verify() == []


def test_a_disk_that_is_full_leaves_the_old_vectors(path, col, monkeypatch):
    seal, files = row_files.Layout.index_class.fget(col._current().layout)._seal, []

    def full(raw, *given, **options):
        files.append(raw)
        if "generations" not in str(raw):
            raise OSError(28, "No space left on device", str(raw))
        return seal(raw, *given, **options)

    class Full:
        _seal = staticmethod(full)

        def __getattr__(self, name):
            return getattr(ctxembed.Index, name)

    with monkeypatch.context() as patched:
        patched.setattr(row_files.Layout, "index_class", Full())
        with pytest.raises(OSError, match="No space left on device"):
            migrated(col, keep_old=True)
    assert len(files) > 2
    assert (col.model, col.verify()) == (OLD, [])
    assert contents(col) == contents_of(LEFT)
    embedder = NewEmbedder()
    assert migrated(col, embedder, keep_old=True).switched
    assert embedder.sent == []
    assert [one.state for one in col.generations()] == ["kept", "searched"]
    col.close()
    check(path, LEFT, new_vectors)


def test_a_vector_that_was_damaged_since_it_was_stored_is_found_before_the_switch(path, col):
    def spoil():
        [segment, *_] = sorted((path / "generations" / "000002" / "segments").iterdir())
        content = bytearray(segment.read_bytes())
        content[-3000] ^= 1
        segment.write_bytes(content)

    first = Stopping(8, spoil)
    with pytest.raises((CollectionError, ctxembed.IndexFileError), match=r"generations|new vectors"):
        migrated(col, first)
    assert (col.model, col.verify()) == (OLD, [])
    assert contents(col) == contents_of(LEFT)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("mode", "stride"), [("kill", 17), ("torn", 37), ("no-space", 37), ("io-error", 37), ("disk-full", 37)]
)
def test_a_migration_that_fails_at_any_change_of_a_file_is_made_again(tmp_path, mode, stride):
    found = run_steps(build_faults(tmp_path), "migration.steps", tmp_path, mode, f"--stride={stride}")
    assert found["failed"] == {}
    assert found["total"] > 100
