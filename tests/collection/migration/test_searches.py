"""Searches while a collection moves to another model: none fails, and none compares vectors of two models.

A query is the text of a chunk, and each of the two embedders gives a text a vector of its own. So the first hit is that
chunk with a cosine of 1 where query and rows are of one space, and another chunk with a low one where they are not.
"""

from __future__ import annotations

import random
import select
import sys
import threading

import pytest
from ctxembed import Collection
from ctxembed._collection import rows as row_files
from ctxembed._jobs import run as job_run

from tests.collection.migration.samples import NEW, OLD, BothEmbedder, NewEmbedder, OldEmbedder, new_vectors
from tests.collection.samples import DIMENSIONS, document
from tests.collection.test_readers import start

DOCUMENTS = [document(number) for number in range(60)]
TEXTS = [chunk for one in DOCUMENTS for chunk in one.chunks]
IN_THREADS = 9_000
SEARCHES = 10_000
REFRESH = 20  # searches between two of a reader


class Recording(BothEmbedder):
    """Notes which model embedded the last query."""

    model = None

    def embed_queries(self, queries, *, model, **options):
        self.model = model
        return super().embed_queries(queries, model=model, **options)


def search_and_check(collection, rng, embedder):
    """Search for a chunk and return the model whose vectors found it."""
    text = rng.choice(TEXTS)
    hits = collection.search(text, 3, client=embedder)
    assert (hits[0].text, round(hits[0].score, 6)) == (text, 1.0), f"{hits[0]} for {text!r} by {embedder.model}"
    assert hits[1].score < 0.6  # of another space all of them are
    return embedder.model


def search_until_told(path):
    """Search in a process of its own."""
    rng, embedder, found = random.Random(2), Recording(), {}
    with Collection.open(path, read_only=True) as reader:
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            reader.refresh()
            for _ in range(REFRESH):
                model = search_and_check(reader, rng, embedder)
                found[model] = found.get(model, 0) + 1
    print(found.get(OLD, 0), found.get(NEW, 0), flush=True)


_PROCESS = (
    "import sys; from tests.collection.migration.test_searches import search_until_told; search_until_told(sys.argv[1])"
)


def test_two_spaces_are_told_apart(tmp_path):
    """The check of the test below fails where spaces are mixed."""
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, OldEmbedder())
        for text in TEXTS[::7]:
            [hit] = collection.search(new_vectors([text]), 1)
            assert hit.score < 0.6
        assert search_and_check(collection, random.Random(1), Recording()) == OLD


@pytest.mark.timeout(600)
def test_ten_thousand_searches_beside_a_migration_and_a_rollback(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 40 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 60 * DIMENSIONS)
    monkeypatch.setattr(job_run, "_DOCUMENTS", 6)
    path = tmp_path / "a.ctx"
    condition, counts, errors = threading.Condition(), {OLD: 0, NEW: 0}, []

    def wait_for(searches):
        with condition:
            assert condition.wait_for(lambda: errors or sum(counts.values()) >= searches, timeout=300)

    class Paced(NewEmbedder):
        """Each request waits until some more searches were answered."""

        requests = 0

        def embed(self, documents, **options):
            self.requests += 1
            wait_for(self.requests * 300)
            return super().embed(documents, **options)

    def search(collection, seed):
        rng, embedder = random.Random(seed), Recording()
        try:
            while (done := sum(counts.values())) < IN_THREADS and not errors:
                if collection.read_only and done % REFRESH == 0:
                    collection.refresh()
                model = search_and_check(collection, rng, embedder)
                with condition:
                    counts[model] += 1
                    condition.notify_all()
        except BaseException as error:  # noqa: BLE001
            with condition:
                errors.append(error)
                condition.notify_all()

    with Collection.create(path, model=OLD, dimensions=DIMENSIONS) as writer:
        writer.ingest(DOCUMENTS, OldEmbedder())
        processes = [start(_PROCESS, path) for _ in range(2)]
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        with Collection.open(path, read_only=True) as reader:
            threads = [threading.Thread(target=search, args=args) for args in [(writer, 3), (reader, 4), (reader, 5)]]
            for thread in threads:
                thread.start()
            report = writer.migrate(NEW, Paced(), dimensions=DIMENSIONS, keep_old=True)
            assert report.switched
            wait_for(6_000)
            assert writer.rollback(keep_new=True).switched
            wait_for(7_500)
            assert writer.rollback().switched
            for thread in threads:
                thread.join()
        assert errors == []
        total = sum(counts.values())
        for process in processes:
            output, failed = process.communicate("stop\n", timeout=120)
            assert process.returncode == 0, failed
            old, new = map(int, output.split())
            assert old > 0
            assert new > 0
            total += old + new
        assert min(counts.values()) > 1_000
        assert total >= SEARCHES, total
        assert (writer.model, writer.verify()) == (NEW, [])
