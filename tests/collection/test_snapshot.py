"""``snapshot``: whole, verified copies, also while a writer changes everything, and nothing where one fails."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from ctxembed import Collection, CollectionError
from ctxembed._collection import rows as row_files
from ctxembed._collection import snapshot as snapshots
from ctxembed._jobs import run as job_run

from tests.collection.fault_steps import build_faults, run_steps
from tests.collection.samples import (
    DIMENSIONS,
    LocalEmbedder,
    contents,
    document,
    expected,
    hits_of,
    vectors_of,
)
from tests.collection.test_readers import start

QUERY = vectors_of(["query"])[0]
DOCUMENTS = [document(number) for number in range(60)]


@pytest.fixture
def writer(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 40 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 60 * DIMENSIONS)
    monkeypatch.setattr(job_run, "_DOCUMENTS", 5)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        collection.ingest([document(3, version=1), document(70)], LocalEmbedder())
        collection.delete(["doc-5"])
        yield collection


LEFT = [*DOCUMENTS[:3], *DOCUMENTS[4:5], *DOCUMENTS[6:], document(3, version=1), document(70)]


def files_of(path):
    return sorted(str(entry.relative_to(path)) for entry in Path(path).rglob("*") if entry.is_file())


def segments_of(path):
    return sorted((Path(path) / "segments").iterdir())


def check(path, documents):
    """A snapshot is whole, and a collection of its own."""
    for read_only in (True, False):
        with Collection.open(path, read_only=read_only) as collection:
            assert collection.verify() == []
            assert contents(collection) == expected(documents)


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_a_snapshot_is_the_collection(tmp_path, monkeypatch, encoding_format):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 1000)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, encoding_format=encoding_format) as collection:
        collection.ingest([document(number, lang="en") for number in range(40)], LocalEmbedder())
        collection.ingest([document(number, lang="de") for number in range(40, 44)], LocalEmbedder())
        collection.delete(["doc-9"])
        collection.calibrate(vectors_of(["one", "two"]), 3, recall=0.9) if collection.compact() else None
        assert list(collection.documents("lang = 'de'"))  # makes a column
        assert collection.snapshot(tmp_path / "b.ctx") is None
        with Collection.open(tmp_path / "b.ctx", read_only=True) as copy:
            assert contents(copy) == contents(collection)
            assert hits_of(copy, QUERY, 50, where="lang = 'en'") == hits_of(collection, QUERY, 50, where="lang = 'en'")
            assert hits_of(copy, QUERY, stage="two-stage") == hits_of(collection, QUERY, stage="two-stage")
            one, two = copy.stats(), collection.stats()
            assert (one.chunks, one.segments, one.usage, one.space) == (two.chunks, two.segments, two.usage, two.space)
            assert copy._current().index._calibration == collection._current().index._calibration
            assert copy._current().index._calibration is not None
            assert copy.verify() == []


def test_snapshots_of_a_reader_an_empty_collection_and_a_snapshot(tmp_path, writer):
    with Collection.open(writer.path, read_only=True) as reader:
        reader.snapshot(str(tmp_path / "b.ctx"))
    check(tmp_path / "b.ctx", LEFT)
    with Collection.open(tmp_path / "b.ctx", read_only=True) as copy:
        copy.snapshot(tmp_path / "c.ctx")
    check(tmp_path / "c.ctx", LEFT)
    with Collection.create(tmp_path / "empty.ctx", dimensions=DIMENSIONS) as empty:
        empty.snapshot(tmp_path / "d.ctx")
    check(tmp_path / "d.ctx", [])
    with Collection.open(tmp_path / "d.ctx") as copy:
        copy.ingest(DOCUMENTS, LocalEmbedder())
    check(tmp_path / "d.ctx", DOCUMENTS)


def test_the_copy_has_the_last_committed_state_and_no_more_files_than_it_needs(tmp_path, writer):
    (Path(writer.path) / "notes.txt").write_text("of the user")
    with Collection.open(writer.path, read_only=True) as reader:
        assert len(reader) == len(LEFT)
        writer.delete(["doc-0"])
        assert len(reader) == len(LEFT), "a reader keeps its state"
        reader.snapshot(tmp_path / "b.ctx")
    tail = writer._store._tail.path.name
    kept = [f"segments/{path.name}" for path in segments_of(writer.path)]
    assert files_of(tmp_path / "b.ctx") == sorted(["catalogue.sqlite", *kept, tail])
    check(tmp_path / "b.ctx", LEFT[1:])


# --- shared files ---


def test_segments_are_the_same_files_and_neither_collection_changes_the_other(tmp_path, writer):
    writer.snapshot(tmp_path / "b.ctx")
    own, theirs = segments_of(writer.path), segments_of(tmp_path / "b.ctx")
    assert len(own) == len(theirs) > 2
    assert all(one.samefile(two) for one, two in zip(own, theirs, strict=True))
    before = {path: path.read_bytes() for path in theirs}

    with Collection.open(tmp_path / "b.ctx") as copy:
        copy.delete(["doc-1"])
        writer.delete(["doc-2"])
        writer.ingest([document(number, version=2) for number in range(100, 130)], LocalEmbedder())  # seals
        copy.ingest([document(number, version=3) for number in range(100, 140)], LocalEmbedder())
        assert all(path.read_bytes() == content for path, content in before.items())
        writer.compact()
        assert copy.verify() == writer.verify() == []
        copy.compact()
        assert copy.verify() == writer.verify() == []
        assert contents(copy) == expected(
            [*LEFT[:1], *LEFT[2:], *(document(number, version=3) for number in range(100, 140))]
        )
    assert contents(writer) == expected(
        [*LEFT[:2], *LEFT[3:], *(document(number, version=2) for number in range(100, 130))]
    )
    shutil.rmtree(tmp_path / "b.ctx")
    assert writer.verify() == []


@contextmanager
def mounted(folder, *options):
    """Mount a file system, or skip."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounts a file system")
    folder.mkdir()
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_segments_are_copied_to_another_file_system(tmp_path, writer):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        writer.snapshot(disk / "b.ctx")
        for one, two in zip(segments_of(writer.path), segments_of(disk / "b.ctx"), strict=True):
            assert one.read_bytes() == two.read_bytes()
            assert not one.samefile(two)
        check(disk / "b.ctx", LEFT)


def test_a_collection_on_a_read_only_medium(tmp_path, writer):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as disk:
        writer.snapshot(disk / "a.ctx")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with Collection.open(disk / "a.ctx") as collection:
            assert collection.read_only
            collection.snapshot(tmp_path / "b.ctx")
            with pytest.raises(OSError, match="Read-only file system"):
                collection.snapshot(disk / "b.ctx")
    check(tmp_path / "b.ctx", LEFT)


def test_segments_share_their_data_where_the_file_system_can(tmp_path, monkeypatch):
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs mkfs.xfs")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    monkeypatch.setattr(row_files, "SEAL_BYTES", 40 * DIMENSIONS)
    with mounted(tmp_path / "disk", "-o", "loop", str(image)) as disk:
        with Collection.create(disk / "a.ctx", dimensions=DIMENSIONS) as collection:
            collection.ingest(DOCUMENTS, LocalEmbedder())
            monkeypatch.setattr(snapshots, "_copy_file", None)
            monkeypatch.setattr(os, "link", None)
            collection.snapshot(disk / "b.ctx")
            assert not segments_of(disk / "a.ctx")[0].samefile(segments_of(disk / "b.ctx")[0])
        check(disk / "b.ctx", DOCUMENTS)


@pytest.mark.parametrize("can_link", [True, False])
def test_a_compaction_deletes_segments_while_they_are_copied(tmp_path, writer, monkeypatch, can_link):
    """The rest is written from what the view has mapped, and is the same."""
    before = {path.name: path.read_bytes() for path in segments_of(writer.path)}
    copied, link = [], os.link

    def link_or_not(source, target):
        copied.append(source)
        if len(copied) == 2:
            writer.compact()
        if not can_link:
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", link_or_not)
    writer.snapshot(tmp_path / "b.ctx")
    assert len(before) > len(copied) == 2
    assert {path.name: path.read_bytes() for path in segments_of(tmp_path / "b.ctx")} == before
    check(tmp_path / "b.ctx", LEFT)
    assert contents(writer) == expected(LEFT)


# --- while a writer runs ---

_WRITER = """
import itertools, select, sys
from ctxembed import Collection
from tests.collection.samples import LocalEmbedder, document, seal_often
from ctxembed._jobs import run

seal_often(40)
run._DOCUMENTS = 3
compactions = 0
with Collection.open(sys.argv[1]) as collection:
    print("ready", flush=True)
    for turn in itertools.count(1):
        if select.select([sys.stdin], [], [], 0)[0]:
            break
        collection.ingest([document(number, version=turn) for number in range(24)], LocalEmbedder())
        collection.ingest([document(100 + 5 * turn + number) for number in range(5)], LocalEmbedder())
        collection.delete([f"doc-{100 + 5 * turn}"])
        if turn % 2:
            compactions += collection.compact() > 0
    print(compactions, flush=True)
"""


def check_moment(path):
    """Each document is whole; those of a commit came together; return (documents, the newest version)."""
    with Collection.open(path, read_only=True) as copy:
        assert copy.verify() == []
        found = contents(copy)
        for name, (chunks, metadata, source, rows) in found.items():
            one = document(metadata["number"], int(chunks[0].split("version ")[1].split(",")[0]))
            assert (name, list(chunks), source) == (one.id, list(one.chunks), one.source)
            assert rows == vectors_of(one.chunks).tobytes()
        versions = [int(found[f"doc-{n}"][0][0].split("version ")[1].split(",")[0]) for n in range(24)]
        assert versions == sorted(versions, reverse=True), "older documents were replaced before newer ones"
        assert versions[0] - versions[-1] in (0, 1)
        return len(found), versions[0]


@pytest.mark.timeout(120)
def test_snapshots_while_another_process_ingests_deletes_and_compacts(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number) for number in range(24)], LocalEmbedder())
    process = start(_WRITER, tmp_path / "a.ctx")
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        moments = []
        with Collection.open(tmp_path / "a.ctx", read_only=True) as reader:
            while len(moments) < 12 or len(set(moments)) < 6:
                path = tmp_path / f"copy-{len(moments)}.ctx"
                reader.snapshot(path)
                moments.append(check_moment(path))
        output, errors = process.communicate("stop\n", timeout=60)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()
    assert int(output) > 0, "the writer has not compacted"
    assert moments == sorted(moments, key=lambda moment: moment[1])
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert collection.verify() == []


def test_a_snapshot_in_the_middle_of_an_ingestion_of_this_process(tmp_path):
    """What is in flight is the collection's: the copy's ledger does not count it."""
    copies = []

    class Embedder(LocalEmbedder):
        def embed(self, documents, **options):
            if self.sent:
                path = tmp_path / f"copy-{len(copies)}.ctx"
                collection.snapshot(path)
                copies.append((path, list(collection.documents())))
            return super().embed(documents, **options)

    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number) for number in range(200)], Embedder())
        usage = collection.stats().usage
    assert copies
    assert usage.unreported == 0
    for path, documents in copies:
        assert 0 < len(documents) < 200
        check(path, documents)
        with Collection.open(path) as copy:
            assert copy.stats().usage.unreported == 0


# --- what is refused, or fails ---


def test_nothing_is_replaced(tmp_path, writer):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    before = files_of(tmp_path)
    for name in ("folder", "file", "dangling", "a.ctx"):
        with pytest.raises(FileExistsError, match=r"exists already: a snapshot replaces nothing: '.*'"):
            writer.snapshot(tmp_path / name)
    assert files_of(tmp_path) == before
    assert (tmp_path / "file").read_text() == "x"
    assert not (tmp_path / "nothing").exists()


def test_what_appears_meanwhile_is_not_replaced(tmp_path, writer, monkeypatch):
    def check_and_appear(folder, target):
        original(folder, target)
        if kind == "file":
            target.write_text("a stranger's")
        else:
            target.mkdir()
            (target / "theirs").write_text("a stranger's")

    original = snapshots._check
    monkeypatch.setattr(snapshots, "_check", check_and_appear)
    for kind in ("file", "folder"):
        with pytest.raises(FileExistsError, match="exists already"):
            writer.snapshot(tmp_path / kind)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "theirs").read_text() == "a stranger's"
    assert not list(tmp_path.glob(".snapshot-*"))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (5, TypeError, "path must be a str"),
        (None, TypeError, "path must be a str"),
        ("", ValueError, "path of the collection is empty"),
        ("a\0b", ValueError, "null character"),
        ("absent/b.ctx", FileNotFoundError, "absent"),
        ("a.ctx/b.ctx", ValueError, "would be inside the collection"),
        ("a.ctx/segments/b.ctx", ValueError, "would be inside the collection"),
    ],
)
def test_paths_that_are_refused(tmp_path, writer, monkeypatch, wrong, error, words):
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(error, match=words):
        writer.snapshot(wrong)
    assert files_of(tmp_path) == before


def test_a_closed_collection_makes_no_snapshot(tmp_path):
    collection = Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS)
    collection.close()
    with pytest.raises(CollectionError, match="is closed"):
        collection.snapshot(tmp_path / "b.ctx")


@pytest.mark.parametrize("damage", ["segment", "tail", "chunk"])
def test_no_snapshot_is_made_of_a_damaged_collection(tmp_path, writer, damage):
    path = Path(writer.path)
    writer.close()
    if damage == "chunk":
        connection = sqlite3.connect(path / "catalogue.sqlite")
        connection.execute("UPDATE chunks SET text = 'other' WHERE row = 0")
        connection.commit()
        connection.close()
    else:
        file = segments_of(path)[1] if damage == "segment" else next(path.glob("tail-*"))
        content = bytearray(file.read_bytes())
        content[-200] ^= 1
        file.write_bytes(content)
    with Collection.open(path, read_only=True) as reader:
        with pytest.raises(CollectionError):
            reader.snapshot(tmp_path / "b.ctx")
        assert reader.verify()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ctx"]


_KILLED = """
import sys, time
from ctxembed import Collection
with Collection.open(sys.argv[1], read_only=True) as collection:
    print("ready", flush=True)
    collection.snapshot(sys.argv[2])
    print("done", flush=True)
"""


def test_a_snapshot_that_is_interrupted_leaves_nothing(tmp_path, writer, monkeypatch):
    def interrupt(folder, target):
        assert list(tmp_path.glob(".snapshot-*"))
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshots, "_check", interrupt)
    with pytest.raises(KeyboardInterrupt):
        writer.snapshot(tmp_path / "b.ctx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ctx"]


def test_snapshots_that_are_killed_leave_nothing_under_their_name(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(number) for number in range(3000)], LocalEmbedder())
    killed = 0
    for turn in range(8):
        target = tmp_path / f"copy-{turn}.ctx"
        process = start(_KILLED, tmp_path / "a.ctx", target)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.01 * turn)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        killed += output == ""
        if target.exists():
            with Collection.open(target, read_only=True) as copy:
                assert copy.verify() == []
                assert len(copy) == 3000
        else:
            assert output == ""
    assert killed
    with Collection.open(tmp_path / "a.ctx") as collection:
        assert collection.verify() == []


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return build_faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("mode", "stride"), [("kill", 1), ("torn", 5), ("no-space", 3), ("io-error", 2)])
def test_a_fault_at_any_change_of_a_file_leaves_a_whole_snapshot_or_none(faults, tmp_path, mode, stride):
    found = run_steps(faults, "snapshot_steps", tmp_path, mode, f"--stride={stride}")
    assert found["total"] > 20
    assert found["failed"] == {}


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, writer):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
        with pytest.raises(OSError, match=r"No space left on device.*disk") as caught:
            writer.snapshot(disk / "b.ctx")
        assert caught.value.errno == 28
        assert list(disk.iterdir()) == []
    assert writer.verify() == []
