"""Equal content is found by its key, in whichever order it was stored."""

from __future__ import annotations

import sqlite3

import pytest
from ctxembed import Collection, Document
from ctxembed._collection import keys

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document


@pytest.fixture(autouse=True)
def write_often(monkeypatch):
    monkeypatch.setattr(keys, "_GATHERED", 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ctx"


def ingest(path, documents):
    """Ingest one document a commit, and return what was sent."""
    embedder = LocalEmbedder()
    with Collection.open(path) if path.exists() else Collection.create(path, dimensions=DIMENSIONS) as collection:
        for one in documents:
            collection.ingest([one], embedder)
        assert collection.verify() == []
    return embedder.sent


def copies(numbers):
    return [Document(f"copy-{number}", document(number).chunks) for number in numbers]


def written(path):
    connection = sqlite3.connect(path / "catalogue.sqlite")
    try:
        [(rows,)] = connection.execute("SELECT count(*) FROM keys")
        found = connection.execute("SELECT value FROM settings WHERE name = ?", (keys.KEYED_ROWS,)).fetchone()
    finally:
        connection.close()
    return rows, found and found[0]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_copies_are_found_whether_their_keys_were_written_or_not(path, count):
    sent = ingest(path, [document(number) for number in range(count)])
    assert len(sent) == count
    assert written(path)[0] == count // 4 * 4
    assert ingest(path, copies(range(count))) == []


def test_copies_are_found_within_one_job(path):
    with Collection.create(path, dimensions=DIMENSIONS) as collection:
        embedder = LocalEmbedder()
        collection.ingest([document(number) for number in range(200)] + copies(range(200)), embedder)
        assert len(embedder.sent) == 200
        assert len(collection) == 400


def test_a_copy_is_found_when_the_first_was_deleted(path):
    ingest(path, [document(0), *copies([0]), document(1)])
    with Collection.open(path) as collection:
        collection.delete(["doc-0"])
    assert ingest(path, [Document("another", document(0).chunks)]) == []


def test_copies_are_found_after_a_compaction(path, monkeypatch):
    monkeypatch.setattr("ctxembed._collection.rows.SEAL_BYTES", 12 * DIMENSIONS)
    ingest(path, [document(number) for number in range(9)])
    with Collection.open(path) as collection:
        collection.delete(["doc-3", "doc-8"])
        assert collection.compact() > 0
        embedder = LocalEmbedder()
        collection.ingest(copies(range(9)), embedder)
        assert embedder.sent == [document(3).chunks, document(8).chunks]
    assert written(path)[0] >= 7


@pytest.mark.parametrize("statement", ["DELETE FROM keys", "UPDATE keys SET number = number + 1"])
def test_keys_that_are_missing_are_found_by_verify_and_cost_at_most_a_second_request(path, statement):
    ingest(path, [document(number) for number in range(6)])
    connection = sqlite3.connect(path / "catalogue.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with Collection.open(path, read_only=True) as collection:
        [found] = collection.verify()
    assert "4 documents are not found by their keys" in found
    with Collection.open(path) as collection:
        collection.ingest(copies(range(6)), LocalEmbedder())
        assert [collection.get(f"copy-{number}").chunks for number in range(6)] == [
            document(number).chunks for number in range(6)
        ]


def test_a_damaged_setting_makes_all_keys_be_read(path):
    ingest(path, [document(number) for number in range(6)])
    connection = sqlite3.connect(path / "catalogue.sqlite")
    connection.execute("UPDATE settings SET value = 1000000 WHERE name = ?", (keys.KEYED_ROWS,))
    connection.execute("DELETE FROM keys")
    connection.commit()
    connection.close()
    with Collection.open(path) as collection:
        embedder = LocalEmbedder()
        collection.ingest(copies(range(6)), embedder)
        assert embedder.sent == []
