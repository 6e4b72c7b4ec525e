"""The index of words: caught up, rebuilt when it is damaged, shared by processes, and never trusted over the texts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from ctxembed import Collection
from ctxembed._collection import word_states, words
from ctxembed._collection.view import View

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document, seal_often
from tests.collection.test_folders import needs_root
from tests.collection.test_hybrid import random_documents
from tests.collection.test_readers import start
from tests.collection.words import DOCUMENTS, QUERY, create, found, right, states


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ctx"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def read_rows(monkeypatch):
    """The rows whose texts are read for the index, in order."""
    rows, texts = [], View.texts

    def counted(self, first, stop):
        chunks = texts(self, first, stop)
        rows.extend(row for row, *_ in chunks)
        return chunks

    monkeypatch.setattr(View, "texts", counted)
    return rows


# --- catching up ---


def test_it_is_built_once_and_then_caught_up(path, read_rows, temporary):
    with create(path) as collection:
        right(collection)
        count = len(read_rows)
        assert read_rows == list(range(count))
        found(collection)
        more = random_documents(30, seed=17)
        more = [type(one)(f"more-{one.id}", one.chunks) for one in more]
        collection.ingest(more, LocalEmbedder())
        assert len(read_rows) == count
        right(collection, [*DOCUMENTS, *more])
        assert read_rows == list(range(count + sum(len(one.chunks) for one in more)))
        assert states(path) == ["000002"]
    with Collection.open(path, read_only=True) as reader:
        before = len(read_rows)
        right(reader, [*DOCUMENTS, *more])
        assert len(read_rows) == before
    assert list(temporary.iterdir()) == []


def test_many_small_states(path, monkeypatch):
    """Steps, pages and merges leave an index of exactly the rows."""
    monkeypatch.setattr(word_states, "_STEP_ROWS", 7)
    monkeypatch.setattr(word_states, "_PAGE_ROWS", 3)
    with create(path) as collection:
        right(collection)
        assert states(path) == [f"{-(-collection.stats().chunks // 7):06}"]
        state = word_states.State.read(path / "words" / states(path)[0])
        present = {entry.name for entry in state.path.iterdir()}
        assert present == {*state.files, "state.json"}
        assert len({name.partition(".")[0] for name in state.files}) < 25, "nothing was merged"
    with Collection.open(path) as collection:
        right(collection)


def test_sealing_keeps_the_numbers_of_rows(path, read_rows, monkeypatch):
    from ctxembed._collection import rows as row_files

    with create(path) as collection:
        right(collection)
        count = len(read_rows)
        monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
        collection.ingest([("more", ["w3 more"])], LocalEmbedder())
        assert collection.stats().segments > 0
        right(collection, [*DOCUMENTS, type(DOCUMENTS[0])("more", ["w3 more"])])
        assert len(read_rows) == count + 1


def test_compaction_numbers_rows_anew(path, read_rows):
    with create(path) as collection:
        found(collection)
        collection.delete([f"doc-{number}" for number in range(0, 80, 3)])
        collection.compact()
        read_rows.clear()
        right(collection, [one for number, one in enumerate(DOCUMENTS) if number % 3])
        assert read_rows == list(range(collection.stats().chunks))
        assert len(states(path)) == 1
        collection.delete([one.id for one in DOCUMENTS])
        collection.compact()
        assert found(collection) == []
        collection.ingest(DOCUMENTS[:9], LocalEmbedder())
        right(collection, DOCUMENTS[:9])


def test_deleting_the_folder_loses_nothing(path):
    with create(path) as collection:
        before = found(collection)
        shutil.rmtree(path / "words")
        assert found(collection) == before
        collection.ingest([document(1)], LocalEmbedder())
        after = found(collection)
        shutil.rmtree(path / "words")
    with Collection.open(path) as collection:
        assert found(collection) == after
        assert states(path) == ["000001"]


# --- views ---


def test_a_reader_finds_the_rows_of_its_state_alone(path, read_rows):
    with create(path) as writer, Collection.open(path, read_only=True) as early:
        late = Collection.open(path, read_only=True)
        expected = found(early)
        writer.ingest([("more", ["w3 w40 w9"])], LocalEmbedder())
        assert found(writer)[0][:2] == ("more", 0)
        # The index has the row of the other state by now.
        with late:
            chunks = {hit[:2] for hit in found(late, k=1000)}
            assert chunks == {(one.id, place) for one in DOCUMENTS for place in range(len(one.chunks))}
            late.refresh()
            assert found(late)[0][:2] == ("more", 0)
        assert found(early) == expected


def test_a_reader_finds_what_was_deleted_after_its_opening(path):
    """The index is first built when the texts are gone."""
    with create(path) as writer, Collection.open(path, read_only=True) as reader:
        gone = [hit.document for hit in reader.search(QUERY, 5, client=LocalEmbedder())]
        writer.delete(gone)
        assert not {hit[0] for hit in found(writer)} & set(gone)
        right(reader)
        assert states(path) == ["000001"]
        writer.ingest([("more", ["w3"])], LocalEmbedder())
        found(writer)
        right(reader)


def test_a_reader_of_a_state_before_a_compaction(path, temporary):
    with create(path) as writer, Collection.open(path, read_only=True) as reader:
        writer.delete(["doc-0", "doc-5"])
        writer.compact()
        left = [one for one in DOCUMENTS if one.id not in ("doc-0", "doc-5")]
        right(writer, left)
        right(reader)  # in a folder of its own
        assert len(states(path)) == 1
        assert len(list(temporary.iterdir())) == 1
        right(writer, left)
        reader.refresh()
        right(reader, left)
    assert list(temporary.iterdir()) == []


def test_another_catalogue_in_its_place(path, tmp_path):
    """A backup is restored, and other documents get the numbers of rows that the index knows."""
    with create(path):
        pass
    backup = tmp_path / "backup.ctx"
    shutil.copytree(path, backup)
    others = [(f"other-{number}", [f"w3 other {number}"]) for number in range(30)]
    with Collection.open(path) as collection:
        collection.ingest([(f"lost-{number}", [f"w3 lost {number}"]) for number in range(30)], LocalEmbedder())
        found(collection)
    shutil.move(path / "words", backup / "words")
    with Collection.open(backup) as collection:
        collection.ingest(others, LocalEmbedder())
        right(collection, [*DOCUMENTS, *(type(DOCUMENTS[0])(*one) for one in others)])
        assert {hit[0] for hit in found(collection, "lost") if hit[4]} == set()


# --- damage ---


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_flip, _cut, os.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_replaced(path, damage, temporary):
    with create(path) as collection:
        before = found(collection)
    [first] = states(path)
    for name in sorted(entry.name for entry in (path / "words" / first).iterdir()):
        [state] = states(path)
        # The names of a rebuilt index are new, apart from their endings.
        [victim] = [entry for entry in (path / "words" / state).iterdir() if entry.suffix == Path(name).suffix and (
            entry.suffix != ".json" or entry.name == name)]  # fmt: skip
        damage(victim)
        with Collection.open(path, read_only=True) as collection:
            assert collection.verify() == []
            assert found(collection) == before
        assert len(states(path)) == 1
        assert states(path) != [state]
    assert list(temporary.iterdir()) == []


def test_every_byte_of_the_state_file_counts(path):
    with create(path) as collection:
        before = found(collection)
        place = path / "words" / "000001" / "state.json"
        content = place.read_bytes()
        for at in range(0, len(content), 3):
            place.write_bytes(content[:at] + bytes([content[at] ^ 0x04]) + content[at + 1 :])
            assert word_states.State.read(place.parent) is None, at
        place.write_bytes(content)
        assert word_states.State.read(place.parent).fits(collection._current())
        assert found(collection) == before


def test_damage_is_found_before_further_rows_are_added(path):
    with create(path) as collection:
        found(collection)
    [victim] = (path / "words" / "000001").glob("*.idx")
    _flip(victim)
    with Collection.open(path) as collection:
        collection.ingest([("more", ["w3 more"])], LocalEmbedder())
        right(collection, [*DOCUMENTS, type(DOCUMENTS[0])("more", ["w3 more"])])


@pytest.mark.parametrize("name", ["_VERSION", "TERMS_VERSION"])
def test_another_version_is_replaced(path, monkeypatch, read_rows, name):
    with create(path) as collection:
        before = found(collection)
        count = len(read_rows)
    monkeypatch.setattr(word_states, name, 99)
    with Collection.open(path) as collection:
        assert found(collection) == before
        assert len(read_rows) == 2 * count
        assert states(path) == ["000002"]


def test_a_damaged_text_is_an_error_and_never_indexed(path):
    import sqlite3

    from ctxembed import CollectionError

    with create(path):
        pass
    with contextlib.closing(sqlite3.connect(path / "catalogue.sqlite")) as connection:
        connection.execute("UPDATE chunks SET text = 'w3 w40 w9' WHERE row = 50")
        connection.commit()
    with Collection.open(path) as collection:
        with pytest.raises(CollectionError, match="the chunk of row 50 is changed"):
            found(collection)
        assert states(path) == []


# --- whose folder it is ---


def test_a_folder_of_somebody_else_is_left_alone(path, temporary):
    for name in ("notes.txt", "lock", "000001/meta.json"):
        with create(path) as collection:
            place = path / "words" / name
            place.parent.mkdir(parents=True)
            place.write_text("mine")
            right(collection)
            collection.ingest([("more", ["w3 more"])], LocalEmbedder())
            right(collection, [*DOCUMENTS, type(DOCUMENTS[0])("more", ["w3 more"])])
            assert place.read_text() == "mine"
            assert len([*(path / "words").rglob("*")]) == len(Path(name).parts)
        assert list(temporary.iterdir()) == []
        shutil.rmtree(path)


def test_a_file_in_place_of_the_folder(path):
    with create(path) as collection:
        (path / "words").write_text("mine")
        right(collection)
        assert (path / "words").read_text() == "mine"


def test_files_of_others_in_a_state_stay(path):
    with create(path) as collection:
        found(collection)
        (path / "words" / "000001" / "notes.txt").write_text("mine")
        (path / "words" / "mine").mkdir()
        collection.ingest([document(1)], LocalEmbedder())
        found(collection)
        collection.compact()
        assert (path / "words" / "000001" / "notes.txt").read_text() == "mine"
        assert states(path) == ["000001", "000002", "mine"]


@needs_root
def test_a_read_only_medium(path, tmp_path, temporary, read_rows):
    with create(path) as collection:
        found(collection)
        before = len(read_rows)
        collection.ingest([("more", ["w3 more"])], LocalEmbedder())
    documents = [*DOCUMENTS, type(DOCUMENTS[0])("more", ["w3 more"])]
    medium = tmp_path / "medium.ctx"
    medium.mkdir()
    for command in (["mount", "--bind", path, medium], ["mount", "-o", "remount,bind,ro", medium]):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("cannot mount")
    try:
        with Collection.open(medium) as collection:
            right(collection, documents)
            assert len(read_rows) == before + 1, "what the medium has was read again"
            right(collection, documents)
        assert list(temporary.iterdir()) == []
        assert states(path) == ["000001"]
    finally:
        subprocess.run(["umount", medium], check=True)


_OTHER_USER = """
import os, sys, tempfile
tempfile.tempdir = sys.argv[2]
from ctxembed import Collection
from tests.collection.words import DOCUMENTS, right
for user in (0, 65534):  # the first time all modules are imported
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    with Collection.open(sys.argv[1], read_only=True) as collection:
        right(collection)
print(os.listdir(sys.argv[2]))
"""


@needs_root
def test_another_user_who_may_only_read(path, tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    place = tmp_path / "everybody"
    place.mkdir()
    place.chmod(0o777)
    with create(path) as collection:
        found(collection)
        process = start(_OTHER_USER, path, place)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert output == "[]\n"
    assert states(path) == ["000001"]


def test_a_folder_that_cannot_be_written(path, temporary, monkeypatch):
    """As on a full disk."""
    with create(path) as collection:
        extend = words.extend

        def fail(place, *args, **options):
            if place.is_relative_to(path):
                raise OSError(28, "No space left on device")
            return extend(place, *args, **options)

        monkeypatch.setattr(words, "extend", fail)
        right(collection)
        assert states(path) == []
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


# --- processes ---

_SEARCHER = """
import sys
from ctxembed import Collection
from tests.collection.words import found
sys.stdin.readline()
with Collection.open(sys.argv[1], read_only=True) as collection:
    print(found(collection), flush=True)
"""


def test_processes_that_start_at_once_build_it_once(path):
    with create(path) as collection:
        processes = [start(_SEARCHER, path) for _ in range(4)]
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=100) for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, outputs
        assert states(path) == ["000001"]
        assert {output for output, _ in outputs} == {f"{found(collection)}\n"}


_SLOW = """
import sys, time
from ctxembed import Collection
from ctxembed._collection import word_states
from ctxembed._collection.view import View
from tests.collection.words import found
word_states._PAGE_ROWS, word_states._STEP_ROWS = 5, 50
texts = View.texts
def slow(self, first, stop):
    if first >= int(sys.argv[2]):
        print("building", flush=True)
        time.sleep(60)
    return texts(self, first, stop)
View.texts = slow
with Collection.open(sys.argv[1], read_only=True) as collection:
    found(collection)
"""


@pytest.mark.parametrize("row", [0, 30, 120])
def test_a_process_that_is_killed_while_it_builds(path, row, read_rows):
    with create(path) as collection:
        process = start(_SLOW, path, row)
        assert process.stdout.readline() == "building\n", process.stderr.read()
        assert any(name.endswith(".new") for name in states(path))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        right(collection)
        assert read_rows[0] == row // 50 * 50, "what was published was built again"
        assert len(states(path)) == 1
        assert states(path)[0].isdigit()


def test_a_process_that_stands_still_is_not_waited_for(path, monkeypatch, temporary):
    monkeypatch.setattr(words, "_STALL_SECONDS", 0.3)
    with create(path) as collection:
        process = start(_SLOW, path, 120)
        try:
            assert process.stdout.readline() == "building\n", process.stderr.read()
            process.send_signal(signal.SIGSTOP)
            right(collection)
            # What it had published is the base of this one.
            assert len(list(temporary.iterdir())) == 1
            assert states(path) == ["000002", "000003.new"]
        finally:
            process.kill()
            process.communicate()
        collection.ingest([("more", ["w3 more"])], LocalEmbedder())
        right(collection, [*DOCUMENTS, type(DOCUMENTS[0])("more", ["w3 more"])])
        assert states(path)[-1].isdigit()


_REFRESHER = """
import select, sys
from ctxembed import Collection
from tests.collection.samples import LocalEmbedder
searches = 0
with Collection.open(sys.argv[1], read_only=True) as collection:
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        collection.refresh()
        found = {one.id: one for one in collection.documents()}
        for hit in collection.search("document version 1 2 3", 10, client=LocalEmbedder(), hybrid=True):
            assert hit.text == found[hit.document].chunks[hit.chunk]
            assert hit.text_score > 0
        searches += 1
print(searches)
"""


def test_readers_beside_a_writer_that_changes_everything(path):
    with create(path, [document(number) for number in range(20)]) as writer:
        readers = [start(_REFRESHER, path) for _ in range(2)]
        for reader in readers:
            assert reader.stdout.readline() == "ready\n", reader.stderr.read()
        for turn in range(12):
            writer.ingest([document(number, version=turn + 1) for number in range(10)], LocalEmbedder())
            writer.delete([f"doc-{turn}"])
            if turn % 3 == 2:
                writer.compact()
            hits = writer.search(f"version {turn + 1}", 10, client=LocalEmbedder(), hybrid=True)
            assert f"doc-{turn}" not in {hit.document for hit in hits}
        for reader in readers:
            output, errors = reader.communicate("stop\n", timeout=60)
            assert reader.returncode == 0, errors
            assert int(output) > 2
        assert len(states(path)) == 1


def test_threads_share_it(path):
    with create(path) as collection:
        results = []
        threads = [threading.Thread(target=lambda: results.append(found(collection))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 6
        assert len({str(result) for result in results}) == 1
        assert states(path) == ["000001"]


def test_a_child_that_is_forked_while_it_is_built_keeps_no_lock(path, monkeypatch):
    children = []
    texts = View.texts

    def forked(self, first, stop):
        if not children:
            read, write = os.pipe()
            children.append((os.fork(), write))
            if not children[0][0]:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            os.close(read)
        return texts(self, first, stop)

    monkeypatch.setattr(View, "texts", forked)
    monkeypatch.setattr(words, "_STALL_SECONDS", 30)
    with create(path) as collection:
        right(collection)
        try:
            shutil.rmtree(path / "words" / "000001")
            with Collection.open(path, read_only=True) as reader:
                right(reader)
            assert states(path) == ["000001"]
        finally:
            child, write = children[0]
            os.close(write)
            os.waitpid(child, 0)


def test_its_own_folder_goes_with_the_process(path, tmp_path):
    """Also where the collection is never closed."""
    with create(path):
        (path / "words").write_text("mine")
    code = f"""
import tempfile
tempfile.tempdir = {str(tmp_path / "temporary")!r}
from ctxembed import Collection
from tests.collection.words import found
collection = Collection.open({str(path)!r}, read_only=True)
assert found(collection)
import os
assert os.listdir(tempfile.tempdir)
"""
    (tmp_path / "temporary").mkdir()
    process = start(code)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert list((tmp_path / "temporary").iterdir()) == []


def test_sealed_collections(path):
    process = start("import sys; from tests.collection.test_words import sealed; sealed(sys.argv[1])", path)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors


def sealed(path):
    """Search between many seals and compactions."""
    seal_often()
    with Collection.create(path, dimensions=DIMENSIONS) as collection:
        for first in range(0, 80, 8):
            collection.ingest(DOCUMENTS[first : first + 8], LocalEmbedder())
            right(collection, DOCUMENTS[: first + 8])
        assert collection.stats().segments > 5
        collection.delete(["doc-0", "doc-40"])
        collection.compact()
        right(collection, [one for one in DOCUMENTS if one.id not in ("doc-0", "doc-40")])
