"""``migrate``: another model, one switch, and a way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import (
    AsyncClient,
    Client,
    Collection,
    CollectionError,
    CollectionLockedError,
    Document,
    Model,
    SpaceError,
    register_model,
)
from ctxembed._collection import rows as row_files
from ctxembed._collection.store import Store
from ctxembed._jobs import run as job_run

from tests.collection.migrations import (
    NEW,
    OLD,
    BothEmbedder,
    NewEmbedder,
    OldEmbedder,
    check,
    contents_of,
    new_vectors,
    old_vectors,
    spent,
    under_way,
)
from tests.collection.samples import DIMENSIONS, contents, document, hits_of
from tests.collection.test_crashes import build_faults
from tests.collection.test_readers import start

DOCUMENTS = [document(number) for number in range(40)]
LEFT = [one for one in DOCUMENTS if one.id != "doc-7"]
QUERY = "document 5, version 0, chunk 0"


@pytest.fixture
def small(monkeypatch):
    """Few documents a request, and few rows a segment."""
    monkeypatch.setattr(row_files, "SEAL_BYTES", 24 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 36 * DIMENSIONS)
    monkeypatch.setattr(job_run, "_DOCUMENTS", 5)


@pytest.fixture
def path(tmp_path, small):
    """A collection with a removed document and a replaced one."""
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS) as collection:
        collection.ingest([document(3, version=9), *DOCUMENTS[:3], *DOCUMENTS[4:]], OldEmbedder())
        collection.ingest([DOCUMENTS[3]], OldEmbedder())
        collection.delete(["doc-7"])
    return tmp_path / "a.ctx"


@pytest.fixture
def col(path):
    with Collection.open(path) as collection:
        yield collection


def migrated(col, client=None, **options):
    return col.migrate(NEW, client or NewEmbedder(), dimensions=DIMENSIONS, **options)


class Stopping(NewEmbedder):
    """Fails, or calls something, before a request."""

    def __init__(self, requests, act):
        super().__init__()
        self._left = requests
        self._act = act

    def embed(self, documents, **options):
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().embed(documents, **options)


def fail():
    raise RuntimeError("the power is gone")


# --- the switch ---


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


# --- arguments ---


def test_arguments_are_checked_before_anything_is_made(path, col):
    with pytest.raises(ValueError, match=r"'gpt-9' is not known: expected one of .*0\.6b"):
        col.migrate("gpt-9", NewEmbedder())
    with pytest.raises(ValueError, match="is not contextualized"):
        col.migrate("pplx-embed-v1-4b", NewEmbedder())
    with pytest.raises(ValueError, match=r"of pplx-embed-context-v1-0\.6b with 128 .*: there is nothing to migrate"):
        col.migrate(OLD, OldEmbedder())
    with pytest.raises(ValueError, match="dimensions must be from 128 to 2560"):
        col.migrate(NEW, NewEmbedder(), dimensions=64)
    with pytest.raises(TypeError, match="need a Client, got an AsyncClient"):
        col.migrate(NEW, AsyncClient(api_key="k"))
    with pytest.raises(TypeError, match="client must be a Client or have embed"):
        col.migrate(NEW, None)
    with pytest.raises(TypeError, match="keep_old must be a bool, got 1"):
        migrated(col, keep_old=1)
    with pytest.raises(TypeError, match="queries and judgements are needed together"):
        migrated(col, queries={})
    with pytest.raises(TypeError, match="accept needs queries and judgements"):
        migrated(col, accept=print)
    with pytest.raises(TypeError, match="a dry run needs a Client, .*got NewEmbedder"):
        migrated(col, dry_run=True)
    register_model(Model("of-unknown-price", 128, None))
    with pytest.raises(ValueError, match=r"max_cost_usd needs a price, and that of 'of-unknown-price' is not known"):
        col.migrate("of-unknown-price", NewEmbedder(), max_cost_usd=1)
    assert not (path / "generations").exists()
    col.close()
    with pytest.raises(CollectionError, match="is closed"):
        migrated(col)


def test_without_texts_there_is_nothing_to_embed(tmp_path):
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS, store_text=False) as collection:
        collection.ingest(DOCUMENTS, OldEmbedder())
        with pytest.raises(CollectionError, match="created with store_text=False: it has no texts to embed anew"):
            migrated(collection)
        assert not (tmp_path / "a.ctx" / "generations").exists()


def test_a_strangers_folder_of_that_name_is_left_alone(path, col):
    notes = path / "generations" / "000001" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    migrated(col)
    assert notes.read_text() == "mine"
    notes.unlink()
    (path / "generations" / "000003").mkdir()
    (path / "generations" / "000003" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty, and no collection"):
        col.migrate(OLD, OldEmbedder(), dimensions=DIMENSIONS)
    assert (path / "generations" / "000003" / "mine.txt").read_text() == "mine"


# --- price ---


def test_a_dry_run_prices_what_the_run_sends(path, col, server):
    with Client(api_key="k", base_url=server.base_url) as client:
        plan = migrated(col, client, dry_run=True)
        assert (plan.switched, plan.stopped, plan.embedded, plan.unchanged) == (False, "dry run", len(LEFT), 0)
        assert plan.cost_usd == Decimal("0.05") * plan.tokens / 1_000_000
        assert not (path / "generations").exists()
        assert col.migrate(NEW, dimensions=DIMENSIONS, dry_run=True) == plan
        report = migrated(col, client)
        assert report.switched
        assert report.requests == plan.requests
        assert 0 < report.tokens <= plan.tokens
        assert 0 < report.cost_usd <= plan.cost_usd
    assert col.space == f"stand-in:{NEW}"


def test_the_budget_stops_and_the_same_call_goes_on(path, col):
    with pytest.raises(RuntimeError, match="the power is gone"):
        migrated(col, Stopping(3, fail))
    assert under_way(col) == 10
    first = migrated(col, max_cost_usd=0)
    assert (first.switched, first.stopped, first.usage.requests) == (False, "max_cost_usd", 0)
    embedder = NewEmbedder()
    part = migrated(col, embedder, max_cost_usd=Decimal("0.00001"))
    assert (part.switched, part.stopped) == (False, "max_cost_usd")
    assert 0 < part.embedded < len(LEFT) - 10
    plan = col.migrate(NEW, dimensions=DIMENSIONS, dry_run=True)
    assert plan.unchanged == 10 + part.embedded
    assert (col.model, hits_of(col, QUERY, client=OldEmbedder())[0][3]) == (OLD, QUERY)
    last = migrated(col, embedder)
    assert last.switched
    assert last.unchanged == 10 + part.embedded
    assert len(embedder.sent) == len(LEFT) - 10
    col.close()
    check(path, LEFT, new_vectors)


# --- interrupted ---


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
    done = subprocess.run(
        [sys.executable, "-m", "tests.collection.migrate_steps", mode, "--folder", str(tmp_path), f"--stride={stride}"],
        env={**os.environ, "LD_PRELOAD": str(build_faults(tmp_path)), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["failed"] == {}
    assert found["total"] > 100


# --- changes meanwhile ---


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
            "from tests.collection.samples import document\nfrom tests.collection.migrations import OldEmbedder\n"
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


# --- the way back ---


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


# --- queries ---


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
