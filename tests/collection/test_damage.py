"""Damage is refused or found by ``verify``: no changed file gives another result in silence.

``python -m tests.collection.test_damage`` changes every byte of every file in several ways.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ctxembed import Collection, CollectionError, IndexFileError
from ctxembed._collection import rows as row_files

from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, hits_of, vectors_of

CHANGES: dict[str, Callable[[int], int]] = {
    "^ 0x01": lambda byte: byte ^ 0x01,
    "^ 0x80": lambda byte: byte ^ 0x80,
    "= 0x00": lambda byte: 0x00,
    "= 0xff": lambda byte: 0xFF,
}
REFUSALS = (CollectionError, IndexFileError, OSError)
QUERY = vectors_of(["query"])[0]


def build(path, seed=0):
    """Make a collection with three segments, a tail, removed rows, a filtered field, a failure, and close it."""
    sizes = row_files.SEAL_BYTES, row_files.TAIL_BYTES
    row_files.SEAL_BYTES, row_files.TAIL_BYTES = 6 * DIMENSIONS, 8 * DIMENSIONS
    try:
        with Collection.create(path, dimensions=DIMENSIONS, fields={"lang": str}) as collection:
            for start in (0, 3, 6):
                documents = [document(seed + n, lang="en" if n % 2 else "de") for n in range(start, start + 3)]
                collection.ingest(documents, LocalEmbedder())
            collection.ingest([document(seed + 1, version=1, lang="en"), ("bad", [])], LocalEmbedder())
            collection.delete([f"doc-{seed + 6}"])
    finally:
        row_files.SEAL_BYTES, row_files.TAIL_BYTES = sizes
    return path


def results(path):
    """Return everything that can be read from a collection."""
    with Collection.open(path, read_only=True) as collection:
        found = {
            "len": len(collection),
            "contents": contents(collection),
            "vectors": collection.vectors().tobytes(),
            "hits": hits_of(collection, QUERY, 100),
            **filtered(collection),
            "get": [collection.get(f"doc-{number}") for number in range(10)],
            "failures": [(failed.id, failed.error, failed.attempts, failed.when) for failed in collection.failures()],
            "space": collection.space,
            "model": collection.model,
            "usage": collection.stats().usage,
        }
        batch = collection.search_batch(QUERY[None], 100)
        found["batch"] = (batch.scores.tolist(), collection.rows(batch.ids))
        return found


def filtered(collection):
    """Return what filters select. The error that SQLite has with damaged metadata names the filter."""
    try:
        return {
            "filtered": hits_of(collection, QUERY, 100, where="lang = 'en'"),
            "selected": [found.id for found in collection.documents("number >= 3")],
        }
    except ValueError as error:
        raise CollectionError(str(error)) from error


def verified(path):
    with Collection.open(path, read_only=True) as collection:
        return collection.verify()


def outcome(path, whole):
    """Return "refused", "found" or "same", or raise an AssertionError for a wrong result in silence."""
    refused = None
    try:
        found = results(path)
    # A damaged index of ids makes a document unknown: verify has to say so.
    except (*REFUSALS, KeyError) as error:
        refused = error
    try:
        damage = verified(path)
    except REFUSALS:
        return "refused"
    if damage:
        assert all(isinstance(text, str) and text for text in damage)
        return "found"
    # A read that fails is damage, and verify says so.
    if refused is not None:
        raise AssertionError(f"verify finds nothing, and a read fails: {refused}") from refused
    different = [name for name in whole if found[name] != whole[name]]
    assert not different, f"other results in silence: {different}"
    return "same"


class Damaged:
    """A copy of the collection, one of whose files is damaged and restored."""

    def __init__(self, source, folder):
        self.source = source
        self.path = folder / "damaged.ctx"
        self.restore()

    def restore(self):
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.source, self.path)

    def files(self):
        """Return the names of the files with content."""
        found = (
            entry for entry in self.path.rglob("*") if entry.is_file() and entry.suffix in (".sqlite", ".idx", ".rows")
        )
        return sorted(str(entry.relative_to(self.path)) for entry in found if entry.stat().st_size)

    def write(self, name, content):
        (self.path / name).write_bytes(content)

    def clean(self):
        """Remove what a reader made."""
        for suffix in ("-wal", "-shm"):
            (self.path / f"catalogue.sqlite{suffix}").unlink(missing_ok=True)


def change_bytes(damaged, whole, step):
    """Change bytes of every file, and return how often each outcome came."""
    counts = Counter()
    for name in damaged.files():
        content = (damaged.source / name).read_bytes()
        for position in range(0, len(content), step(name)):
            for kind, change in CHANGES.items():
                changed = bytearray(content)
                changed[position] = change(content[position])
                if changed[position] == content[position]:
                    continue
                damaged.write(name, changed)
                try:
                    counts[name, outcome(damaged.path, whole)] += 1
                except Exception as error:
                    error.add_note(f"byte {position} of {name}, {kind}")
                    raise
                finally:
                    damaged.clean()
        damaged.write(name, content)
    return counts


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build(tmp_path_factory.mktemp("source") / "whole.ctx")


@pytest.fixture(scope="module")
def whole(source):
    return results(source)


@pytest.fixture
def damaged(source, tmp_path):
    return Damaged(source, tmp_path)


def test_the_collection_of_these_tests_has_files_of_every_kind(source, damaged):
    assert damaged.files() == [
        "catalogue.sqlite",
        "segments/000001.idx",
        "segments/000002.idx",
        "segments/000003.idx",
        "tail-000004.rows",
    ]
    with Collection.open(source, read_only=True) as collection:
        stats = collection.stats()
    assert (stats.segments, stats.failed) == (3, 1)
    assert stats.deleted_chunks > 0
    assert verified(source) == []


def test_changed_bytes_are_refused_or_found(damaged, whole):
    counts = change_bytes(damaged, whole, lambda name: 331 if name == "catalogue.sqlite" else 29)
    assert all(kind in ("refused", "found") for name, kind in counts if name != "catalogue.sqlite")
    assert counts["catalogue.sqlite", "found"] > 30


def test_changed_places_of_documents_in_their_page_end_no_loop(damaged, whole):
    name = "catalogue.sqlite"
    content = (damaged.source / name).read_bytes()
    with contextlib.closing(sqlite3.connect(damaged.source / name)) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'documents'")
    start = (page - 1) * 4096
    for position in range(start, start + 48):
        for change in CHANGES.values():
            changed = bytearray(content)
            changed[position] = change(content[position])
            damaged.write(name, changed)
            outcome(damaged.path, whole)
            damaged.clean()


@pytest.mark.parametrize("change", ["short by a byte", "half", "empty", "longer", "missing"])
@pytest.mark.parametrize("name", ["catalogue.sqlite", "segments/000001.idx", "segments/000002.idx", "tail-000004.rows"])
def test_files_that_are_cut_extended_or_missing(damaged, whole, name, change):
    content = (damaged.path / name).read_bytes()
    if change == "missing":
        (damaged.path / name).unlink()
    else:
        changes = {"short by a byte": content[:-1], "half": content[: len(content) // 2], "empty": b""}
        damaged.write(name, changes.get(change, content + b"\0" * 64))
    found = outcome(damaged.path, whole)
    # Rows that were never committed may follow the tail, and SQLite ignores what follows its last page.
    if change == "longer" and name in ("tail-000004.rows", "catalogue.sqlite"):
        assert found == "same"
    elif (change, name) != ("short by a byte", "catalogue.sqlite"):  # the last byte of a page may be unused
        assert found in ("refused", "found")


def test_segments_and_tails_of_other_collections_are_refused(damaged, whole, tmp_path):
    other = build(tmp_path / "other.ctx", seed=40)
    names = damaged.files()
    for name in names:
        if name == "catalogue.sqlite":
            continue
        content = (damaged.path / name).read_bytes()
        assert len((other / name).read_bytes()) == len(content), "of the same shape"
        damaged.write(name, (other / name).read_bytes())
        assert outcome(damaged.path, whole) == ("found" if name.startswith("tail") else "refused")
        damaged.write(name, content)
    damaged.write("catalogue.sqlite", (other / "catalogue.sqlite").read_bytes())
    assert outcome(damaged.path, whole) == "refused"


def test_swapped_segments_and_an_older_segment_are_refused(damaged, whole):
    first, second = damaged.path / "segments/000001.idx", damaged.path / "segments/000002.idx"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert outcome(damaged.path, whole) == "refused"


def test_a_tail_with_rows_in_another_order_is_found(damaged, whole):
    path = damaged.path / "tail-000004.rows"
    rows = np.frombuffer(path.read_bytes(), np.int8).reshape(-1, DIMENSIONS)
    path.write_bytes(rows[::-1].tobytes())
    with Collection.open(damaged.path, read_only=True) as collection:
        with pytest.raises(CollectionError, match=r"tail-000004\.rows is damaged: the checksum of rows 0 to"):
            collection.search(QUERY)
        assert any("tail-000004.rows" in text for text in collection.verify())
    assert outcome(damaged.path, whole) == "found"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA user_version = 9", "has format version 9, and this ctxembed reads up to 2: update ctxembed"),
        ("PRAGMA user_version = 0", "has format version 0"),
        ("PRAGMA application_id = 7", "is not the catalogue of a collection"),
    ],
)
def test_other_versions_and_other_databases_are_refused_by_both_kinds_of_open(damaged, statement, words):
    run_sql(damaged.path, statement)
    for read_only in (True, False):
        with pytest.raises(CollectionError, match=words):
            Collection.open(damaged.path, read_only=read_only)


def run_sql(path, *statements):
    connection = sqlite3.connect(path / "catalogue.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


STATEMENTS = [
    "UPDATE removed SET rows = rows + 1",
    "UPDATE removed SET first_row = first_row + 1",
    "DELETE FROM removed WHERE first_row = (SELECT min(first_row) FROM removed)",
    "DELETE FROM removed",
    "UPDATE segments SET rows = rows - 1 WHERE file = 1",
    "UPDATE segments SET file = 9 WHERE file = 1",
    "UPDATE segments SET header = zeroblob(256)",
    "UPDATE segments SET header = x'00'",
    "UPDATE segments SET header = 'text'",
    "DELETE FROM segments WHERE file = 1",
    "DELETE FROM segments WHERE file = 2",
    "DELETE FROM segments",
    "DELETE FROM tail_parts",
    "UPDATE tail_parts SET rows = rows + 1",
    "UPDATE tail_parts SET vectors_checksum = vectors_checksum + 1",
    "DELETE FROM generations",
    "UPDATE generations SET dimensions = 256",
    "UPDATE generations SET model = 'another'",
    "UPDATE generations SET space = 'another'",
    "UPDATE generations SET tail = 1",
    "UPDATE generations SET encoding_format = 'base64_binary'",
    "UPDATE generations SET oversample = 4, oversample_k = 10, oversample_recall = 0.5",
    "DELETE FROM settings WHERE name = 'documents'",
    "DELETE FROM settings WHERE name = 'chunks'",
    "DELETE FROM settings WHERE name = 'store_text'",
    "UPDATE settings SET value = value + 1 WHERE name = 'documents'",
    "UPDATE settings SET value = value + 1 WHERE name = 'chunks'",
    "UPDATE settings SET value = 'many' WHERE name = 'chunks'",
    "UPDATE settings SET value = 0 WHERE name = 'store_text'",
    "UPDATE documents SET id = 'another' WHERE id = 'doc-2'",
    "UPDATE documents SET id = x'ff' WHERE id = 'doc-2'",
    "UPDATE documents SET number = 1000 WHERE id = 'doc-2'",
    "UPDATE documents SET metadata = '{\"number\": 7}' WHERE id = 'doc-2'",
    "UPDATE documents SET metadata = NULL WHERE id = 'doc-2'",
    "UPDATE documents SET source = 'elsewhere' WHERE id = 'doc-2'",
    "UPDATE documents SET first_row = first_row + 1 WHERE id = 'doc-2'",
    "UPDATE documents SET first_row = 1000000 WHERE id = 'doc-2'",
    "UPDATE documents SET first_row = -5 WHERE id = 'doc-2'",
    "UPDATE documents SET first_row = 'text' WHERE id = 'doc-2'",
    "UPDATE documents SET rows = 1000000000000 WHERE id = 'doc-2'",
    "UPDATE documents SET rows = 0 WHERE id = 'doc-2'",
    "UPDATE documents SET key = zeroblob(32) WHERE id = 'doc-2'",
    "UPDATE documents SET vectors_checksum = 1 WHERE id = 'doc-2'",
    "DELETE FROM documents WHERE id = 'doc-2'",
    "INSERT INTO chunks SELECT 2000, document, chunk, text, start, stop, checksum FROM chunks WHERE row = 3",
    "UPDATE chunks SET text = 'another' WHERE row = 3",
    "UPDATE chunks SET text = NULL WHERE row = 3",
    "UPDATE chunks SET text = 5 WHERE row = 3",
    "UPDATE chunks SET start = 1, stop = 2 WHERE row = 3",
    "UPDATE chunks SET start = 1 WHERE row = 3",
    "UPDATE chunks SET document = 99 WHERE row = 3",
    "UPDATE chunks SET row = 1000 WHERE row = 3",
    "DELETE FROM chunks WHERE row = 3",
    "DELETE FROM chunks",
    "UPDATE failures SET error = 'another'",
    "UPDATE failures SET attempts = 7",
    "UPDATE responses SET cost_usd = '1'",
    "UPDATE responses SET total_tokens = 1",
    "UPDATE fields SET place = 'field_2' WHERE name = 'lang'",
    "UPDATE fields SET name = 'year' WHERE name = 'lang'",
    "UPDATE fields SET name = 'year' WHERE name = 'number'",
    "UPDATE fields SET declared = 'int' WHERE name = 'lang'",
    "DELETE FROM fields",
    "DROP TABLE removed",
    "DROP TABLE chunks",
    "DROP TABLE fields",
    "DROP INDEX documents_by_field_1",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_rows_changed_by_sql_are_refused_or_found(damaged, whole, statement):
    run_sql(damaged.path, statement)
    found = outcome(damaged.path, whole)
    assert found in ("refused", "found") or statement.startswith("DROP INDEX")


def test_swapped_texts_of_two_chunks_are_found(damaged, whole):
    run_sql(
        damaged.path,
        "UPDATE chunks SET text = (SELECT text FROM chunks AS c WHERE c.row = 7 - chunks.row) WHERE row IN (3, 4)",
    )
    assert outcome(damaged.path, whole) == "found"
    with Collection.open(damaged.path, read_only=True) as collection:
        with pytest.raises(CollectionError, match="the chunk of row"):
            collection.search(QUERY, 100)
        with pytest.raises(CollectionError, match="the chunk of row"):
            list(collection.documents())


def test_swapped_ids_and_swapped_rows_of_two_documents_are_found(damaged, whole):
    run_sql(
        damaged.path,
        "UPDATE documents SET id = 'x' WHERE id = 'doc-3'",
        "UPDATE documents SET id = 'doc-3' WHERE id = 'doc-7'",
        "UPDATE documents SET id = 'doc-7' WHERE id = 'x'",
    )
    assert outcome(damaged.path, whole) == "found"
    with Collection.open(damaged.path, read_only=True) as collection:
        with pytest.raises(CollectionError, match="the document number"):
            collection.get("doc-3")
        assert collection.get("doc-8") is not None, "other documents can be read"


def test_damage_is_not_hidden_by_compacting(damaged):
    for statement in ("UPDATE chunks SET text = 'another' WHERE row = 3", "UPDATE documents SET source = 'elsewhere'"):
        damaged.restore()
        run_sql(damaged.path, statement)
        with Collection.open(damaged.path) as collection:
            with pytest.raises(CollectionError, match="is changed"):
                collection.compact()
            assert collection.verify() != []


@pytest.mark.parametrize("name", ["segments/000001.idx", "tail-000004.rows"])
def test_damaged_vectors_are_not_hidden_by_compacting(damaged, name):
    content = bytearray((damaged.path / name).read_bytes())
    content[-200 if name.startswith("tail") else 400] ^= 4
    damaged.write(name, content)
    with Collection.open(damaged.path) as collection:
        with contextlib.suppress(CollectionError, IndexFileError):
            collection.compact()
        assert collection.verify() != []


@pytest.mark.parametrize(
    "name", ["segments/000001.idx", "tail-000004.rows", "/etc/passwd", "../whole.ctx/lock", "lock"]
)
def test_a_file_in_use_and_a_foreign_file_are_never_deleted_for_a_changed_row(damaged, whole, name):
    (damaged.path / "segments/notes.txt").write_text("mine")
    run_sql(damaged.path, f"INSERT INTO retired_files VALUES ('{name}')")
    try:
        Collection.open(damaged.path).close()
    except CollectionError as error:
        assert repr(name) in str(error)  # noqa: PT017
    else:
        assert name in ("segments/000001.idx", "tail-000004.rows")
    assert (damaged.path / "segments/notes.txt").read_text() == "mine"
    assert outcome(damaged.path, whole) == "same"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", type=int, default=1, help="change every n-th byte")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = build(Path(name) / "whole.ctx")
        counts = change_bytes(Damaged(source, Path(name)), results(source), lambda _: given.step)
    for (file, kind), count in sorted(counts.items()):
        print(f"{file}: {kind} {count}")


if __name__ == "__main__":
    main()
