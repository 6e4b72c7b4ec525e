"""One writer and any number of readers: processes, threads, forks, locks."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from ctxembed import Collection, CollectionError, CollectionLockedError
from ctxembed._collection import rows as row_files

from tests.collection.samples import (
    DIMENSIONS,
    LocalEmbedder,
    contents,
    document,
    expected,
    hits_of,
    vectors_of,
)

QUERY = vectors_of(["query"])[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ctx"


@pytest.fixture
def sealing(monkeypatch):
    """Seal the tail every 40 rows."""
    monkeypatch.setattr(row_files, "SEAL_BYTES", 40 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 60 * DIMENSIONS)


@pytest.fixture
def writer(path, sealing):
    with Collection.create(path, dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number) for number in range(30)], LocalEmbedder())
        yield collection


def start(code, *args):
    """Start a process that runs some code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def check_hits(collection, vectors):
    """Search, and check that each hit's document is whole and of one version."""
    documents = {}
    for hit in collection.search(vectors, 20):
        if hit.document not in documents:
            found = collection.get(hit.document)
            versions = {re.search(r"version (\d+)", text)[1] for text in found.chunks}
            assert len(versions) == 1
            numbers = [int(re.search(r"chunk (\d+)", text)[1]) for text in found.chunks]
            assert numbers == list(range(len(numbers)))
            assert collection.vectors([found.id]).tobytes() == vectors_of(found.chunks).tobytes()
            documents[hit.document] = found
        assert hit.text == documents[hit.document].chunks[hit.chunk]
    return len(collection), sum(1 for _ in collection.documents())


_READER = """
import sys, time
from ctxembed import Collection
from tests.collection.samples import vectors_of
from tests.collection.test_readers import QUERY, check_hits

states, searches = set(), 0
with Collection.open(sys.argv[1], read_only=True) as collection:
    print("ready", flush=True)
    import select
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        collection.refresh()
        count, listed = check_hits(collection, QUERY)
        assert count == listed, (count, listed)
        states.add(count)
        searches += 1
    collection.refresh()
    print(searches, len(states), len(collection), collection.verify(), flush=True)
"""


def change_for_a_while(writer, rounds):
    """Add, replace, delete, seal and compact."""
    for turn in range(rounds):
        first = 100 + 10 * turn
        writer.ingest([document(number, chunks=5) for number in range(first, first + 10)], LocalEmbedder())
        writer.ingest([document(number, version=turn + 1) for number in range(10)], LocalEmbedder())
        if turn % 2:
            writer.delete([f"doc-{number}" for number in range(first - 10, first - 5)])
        if turn % 4 == 3:
            writer.compact()
        time.sleep(0.01)


def test_readers_in_other_processes_see_whole_documents_while_a_writer_changes_everything(path, writer):
    readers = [start(_READER, path) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n", reader.stderr.read()
    change_for_a_while(writer, 24)
    for reader in readers:
        output, errors = reader.communicate("stop\n", timeout=60)
        assert reader.returncode == 0, errors
        searches, states, count, damage = output.strip().split(" ", 3)
        assert int(searches) > 5
        assert int(states) > 2
        assert int(count) == len(writer)
        assert damage == "[]"
    assert writer.verify() == []


def test_readers_in_other_threads_see_whole_documents(path, writer):
    stop, errors = threading.Event(), []

    def read(collection, refreshes):
        try:
            while not stop.is_set():
                if refreshes:
                    collection.refresh()
                # A writer's own thread sees later states between two calls.
                for hit in collection.search(QUERY, 10):
                    assert hit.text.startswith(f"document {hit.document[4:]}, version")
                time.sleep(0.005)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with Collection.open(path, read_only=True) as reader:
        threads = [
            threading.Thread(target=read, args=args) for args in [(reader, True), (reader, False), (writer, False)]
        ]
        for thread in threads:
            thread.start()
        try:
            change_for_a_while(writer, 16)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert errors == []


def test_a_reader_keeps_its_state_until_it_is_refreshed(path, writer):
    with Collection.open(path, read_only=True) as reader:
        before, count, held = hits_of(reader, QUERY, 100), len(reader), contents(reader)
        names = [one.id for one in reader.documents()]
        change_for_a_while(writer, 8)
        assert hits_of(reader, QUERY, 100) == before
        assert hits_of(reader, QUERY, 100, where="number < 1000") == before
        assert (len(reader), contents(reader)) == (count, held)
        assert [one.id for one in reader.documents()] == names
        assert reader.get("doc-105") is None
        assert reader.verify() == []
        reader.refresh()
        assert contents(reader) == contents(writer)
        assert hits_of(reader, QUERY, 100) == hits_of(writer, QUERY, 100)


def test_a_reader_that_read_nothing_before_a_compaction_finds_what_it_was_opened_with(path, writer):
    """The compaction deletes the files of the tail and the segments."""
    reader = Collection.open(path, read_only=True)
    before = contents(writer)
    writer.delete(["doc-3"])
    writer.compact()
    with reader:
        assert contents(reader) == before
        assert len(hits_of(reader, QUERY, 1000)) == sum(len(chunks) for chunks, *_ in before.values())


def test_an_iteration_goes_on_while_the_collection_changes(writer):
    documents = writer.documents()
    first = next(documents)
    writer.delete(["doc-20"])
    writer.compact()
    assert [first.id, *[one.id for one in documents]] == [f"doc-{number}" for number in range(30)]


def test_a_writer_sees_what_it_has_written(writer):
    assert "doc-50" not in writer
    writer.ingest([document(50)], LocalEmbedder())
    assert "doc-50" in writer
    assert writer.search(vectors_of(document(50).chunks)[2], 1)[0].document == "doc-50"
    writer.delete(["doc-50"])
    assert writer.get("doc-50") is None


def test_a_source_may_read_the_collection_that_is_written(writer):
    report = writer.ingest(((f"copy of {one.id}", one.chunks) for one in writer.documents()), LocalEmbedder())
    assert report.added == 30
    assert len(writer) == 60


# --- one writer ---


def test_a_second_writer_is_refused_with_the_name_of_the_first(path, writer):
    with pytest.raises(CollectionLockedError) as caught:
        Collection.open(path)
    error = caught.value
    assert (error.host, error.pid) == (socket.gethostname(), os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", error.since)
    assert f"process {os.getpid()} on {socket.gethostname()}, since {error.since}" in str(error)
    assert str(path) in str(error)
    assert "read_only=True" in str(error)
    with Collection.open(path, read_only=True) as reader:
        assert len(reader) == 30


_WRITER = """
import sys
from ctxembed import Collection
collection = Collection.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_no_lock(path, writer):
    writer.close()
    process = start(_WRITER, path)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(CollectionLockedError) as caught:
        Collection.open(path)
    assert caught.value.pid == process.pid
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Collection.open(path) as collection:
        assert len(collection) == 30


def test_a_lock_file_with_other_content_names_nobody(path, writer):
    for content in (b"", b"no json", b'["a"]', json.dumps({"host": 5, "pid": "x"}).encode()):
        (path / "lock").write_bytes(content)
        with pytest.raises(CollectionLockedError) as caught:
            Collection.open(path)
        assert (caught.value.host, caught.value.pid, caught.value.since) == (None, None, None)


def test_closing_and_dropping_release_the_lock(path, writer):
    writer.close()
    writer.close()
    collection = Collection.open(path)
    del collection
    Collection.open(path).close()


def test_a_writer_closes_at_once_while_a_reader_holds_a_state(path, writer):
    """SQLite would wait a minute for the reader to fold its log into the database."""
    with Collection.open(path, read_only=True) as reader:
        writer.ingest([document(90)], LocalEmbedder())
        calls = []
        writer._store._connection.set_trace_callback(calls.append)
        begun = time.monotonic()
        writer.close()
        assert "PRAGMA busy_timeout = 0" in calls
        assert time.monotonic() - begun < 50
        assert len(reader) == 30
        with Collection.open(path) as again:
            assert len(again) == 31


def test_one_ingestion_at_a_time(writer):
    def documents():
        yield document(60)
        with pytest.raises(CollectionError, match="another thread ingests into this collection"):
            writer.ingest([document(61)], LocalEmbedder())
        with pytest.raises(CollectionError, match="another thread ingests"):
            writer.delete(["doc-1"])
        with pytest.raises(CollectionError, match="another thread ingests"):
            writer.compact()

    assert writer.ingest(documents(), LocalEmbedder()).added == 1


# --- processes and life ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_neither_use_nor_unlock_the_collection(path, writer):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        texts = []
        for call in (
            lambda: len(writer),
            lambda: writer.search(QUERY),
            lambda: writer.delete(["doc-1"]),
            writer.compact,
        ):
            try:
                call()
            except CollectionError as error:
                texts.append(str(error))
            except BaseException as error:  # noqa: BLE001
                texts.append(repr(error))
        with contextlib.suppress(BaseException):
            writer.close()
            texts.append("closed")
        os.write(writing, json.dumps(texts).encode())
        os._exit(0)
    os.waitpid(child, 0)
    texts = json.loads(os.read(reading, 1 << 16))
    os.close(reading)
    os.close(writing)
    assert texts == [*[f"{path} was opened before fork(): open it again in this process"] * 4, "closed"]
    with pytest.raises(CollectionLockedError):
        Collection.open(path)
    writer.ingest([document(70)], LocalEmbedder())
    assert len(writer) == 31
    assert writer.verify() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_a_closed_parent_is_not_held_by_its_child(path, writer):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the parent is done
        os._exit(0)
    writer.close()
    with Collection.open(path) as collection:
        assert len(collection) == 30
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)


def test_a_collection_is_not_pickled(writer):
    with pytest.raises(TypeError, match="cannot pickle a Collection: open it in the other process"):
        pickle.dumps(writer)


def test_a_collection_is_made_by_create_and_open_only():
    with pytest.raises(TypeError, match=r"use Collection\.create"):
        Collection()


def test_a_closed_collection_refuses_every_call(path, writer):
    writer.close()
    calls = [
        lambda: len(writer),
        lambda: "doc-1" in writer,
        lambda: writer.get("doc-1"),
        writer.documents,
        lambda: writer.search(QUERY),
        lambda: writer.search_batch(QUERY[None]),
        writer.vectors,
        lambda: writer.rows([0]),
        lambda: writer.ingest([], LocalEmbedder()),
        lambda: writer.delete([]),
        writer.compact,
        writer.verify,
        writer.stats,
        writer.failures,
        writer.refresh,
        lambda: writer.calibrate(QUERY[None], 1),
        lambda: writer.space,
        writer.__enter__,
    ]
    for call in calls:
        with pytest.raises(CollectionError, match="this collection is closed"):
            call()
    assert repr(writer) == f"<Collection {path}, closed>"
    assert writer.path == str(path)


def test_a_reader_writes_nothing(path, writer):
    before = expected([document(number) for number in range(30)])
    with Collection.open(path, read_only=True) as reader:
        assert reader.read_only
        assert repr(reader) == f"<Collection {path}, read only>"
        for call in (
            lambda: reader.ingest([document(1)], LocalEmbedder()),
            lambda: reader.delete(["doc-1"]),
            reader.compact,
            lambda: reader.calibrate(QUERY[None], 1),
        ):
            with pytest.raises(CollectionError, match="is open for reading only"):
                call()
        assert hits_of(reader, QUERY, 5, where="number < 10") != []
        assert contents(reader) == before
