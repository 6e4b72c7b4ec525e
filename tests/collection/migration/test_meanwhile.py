"""A migration beside writers: what they change is taken along."""

from __future__ import annotations

import os
import threading

import pytest
from ctxembed import (
    Collection,
    CollectionLockedError,
)

from tests.collection.migration.samples import (
    LEFT,
    NEW,
    NewEmbedder,
    OldEmbedder,
    Stopping,
    check,
    contents_of,
    migrated,
    new_vectors,
)
from tests.collection.samples import contents, document
from tests.collection.test_readers import start


def test_what_is_ingested_and_deleted_meanwhile_is_taken_along(path, col):
    late = [document(5, version=1), document(100), document(6, lang="fr")]

    def change():
        col.ingest(late, OldEmbedder())
        col.delete(["doc-8", "doc-39"])

    embedder = Stopping(4, change)
    report = migrated(col, embedder)
    assert report.switched
    changed = {one.id: one for one in late}
    now = [changed.pop(one.id, one) for one in LEFT if one.id not in ("doc-8", "doc-39")]
    assert contents(col) == contents_of([*now, *changed.values()], new_vectors)
    col.close()
    check(path, [*now, *[one for one in late if one.id == "doc-100"]], new_vectors)


def test_a_job_of_another_process_runs_while_a_reader_migrates(path):
    def ingest():
        code = (
            "import sys\nfrom ctxembed import Collection\n"
            "from tests.collection.samples import document\n"
            "from tests.collection.migration.samples import OldEmbedder\n"
            "with Collection.open(sys.argv[1]) as col:\n"
            "    col.ingest([document(200), document(2, version=4)], OldEmbedder())\n    col.compact()\n"
        )
        process = start(code, path)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors

    with Collection.open(path, read_only=True) as reader:
        report = migrated(reader, Stopping(3, ingest))
        assert report.switched
        assert reader.model == NEW
        assert len(reader) == len(LEFT) + 1
    check(path, [*(document(2, version=4) if one.id == "doc-2" else one for one in LEFT), document(200)], new_vectors)


def test_a_writer_that_is_still_there_is_named_and_the_switch_follows_later(path, col):
    embedder = NewEmbedder()
    with Collection.open(path, read_only=True) as reader:
        with pytest.raises(CollectionLockedError, match=f"process {os.getpid()}") as caught:
            migrated(reader, embedder)
        assert caught.value.__notes__ == [
            "All vectors are there: the same call switches to them once the other process has ended"
        ]
        col.close()
        assert migrated(reader, embedder).switched
    assert len(embedder.sent) == len(LEFT)
    check(path, LEFT, new_vectors)


def test_two_migrations_at_once_are_one(path, col):
    with Collection.open(path, read_only=True) as reader:

        def second():
            with pytest.raises(CollectionLockedError, match=r"generations/000002: process"):
                migrated(reader)
            with pytest.raises(CollectionLockedError):
                col.abandon_migration()

        assert migrated(col, Stopping(2, second)).switched


def test_a_thread_that_ingests_is_waited_for(path, col):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(OldEmbedder):
        def embed(self, documents, **options):
            begun.set()
            assert go_on.wait(30)
            return super().embed(documents, **options)

    thread = threading.Thread(target=col.ingest, args=([document(300)], Slow()))
    embedder = Stopping(2, lambda: (thread.start(), begun.wait(30)))

    def progress(now):
        if now.documents_done == len(LEFT):
            threading.Timer(0.2, go_on.set).start()

    assert migrated(col, embedder, progress=progress).switched
    thread.join()
    assert contents(col) == contents_of([*LEFT, document(300)], new_vectors)
