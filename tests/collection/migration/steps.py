"""Kill a migration, or fail a system call of it, at each change of a file in turn. Run by ``test_interrupted``.

Each step migrates, ingests a document, and goes
back, so all three are met at each of their changes.
"""

from __future__ import annotations

import json
import os
import shutil

from ctxembed import Collection, CollectionError, IndexFileError
from ctxembed._jobs import run as job_run

from tests.collection.fault_steps import main, run_step
from tests.collection.migration.samples import (
    DIMENSIONS,
    NEW,
    OLD,
    NewEmbedder,
    OldEmbedder,
    contents_of,
    new_vectors,
    old_vectors,
    spent,
)
from tests.collection.samples import contents, document, seal_often

FIRST = [document(number) for number in range(12)]
LEFT = FIRST[1:]
LATER = [*LEFT, document(50)]


class Counting:
    """Writes down what was paid for, so that it is known after a kill."""

    def __init__(self, embedder, log):
        self._embedder = embedder
        self._log = log

    def embed(self, documents, **options):
        found = self._embedder.embed(documents, **options)
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"".join(json.dumps([options["model"], chunks]).encode() + b"\n" for chunks in documents))
        os.close(descriptor)
        return found


def migrate(collection, log):
    return collection.migrate(NEW, Counting(NewEmbedder(), log), dimensions=DIMENSIONS, keep_old=True)


def ingest(collection, log):
    return collection.ingest([document(50)], Counting(NewEmbedder(), log))


def rollback(collection, log):
    return collection.rollback(Counting(OldEmbedder(), log))


CALLS = [migrate, ingest, rollback]
STATES = [(LEFT, old_vectors), (LEFT, new_vectors), (LATER, new_vectors), (LATER, old_vectors)]


def state_of(collection):
    """Return which of the states a collection is in: never in between."""
    assert collection.verify() == []
    for number, (documents, vectors) in enumerate(STATES):
        is_new = vectors is new_vectors
        if contents(collection) == contents_of(documents, vectors):
            assert (collection.model, collection.space) == ((NEW, "new") if is_new else (OLD, "old"))
            hit = collection.search(vectors([LEFT[3].chunks[0]])[0], 1, space=collection.space)[0]
            assert (hit.text, round(hit.score, 3)) == (LEFT[3].chunks[0], 1.0)
            return number
    raise AssertionError("the collection is in none of the states")


def finish(path, log, done):
    """Make the calls that are left, and check that nothing was paid for twice but what was in flight."""
    with Collection.open(path) as collection:
        state = state_of(collection)
        assert state in (done, done + 1), f"state {state} after {done} calls"
        for call in CALLS[state:]:
            call(collection, log)
        assert state_of(collection) == len(CALLS)
        assert [one.state for one in collection.generations()] == ["searched"], collection.generations()
        assert not (path / "generations").exists()
    with Collection.open(path, read_only=True) as collection:
        assert contents(collection) == contents_of(LATER)
    names = {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "lock", "segments"}
    others = [entry.name for entry in path.iterdir() if entry.name not in names]
    assert len(others) <= 1, others
    assert all(name.startswith("tail-") for name in others), others


def run_calls(path, log, progress, faults, mode, step):
    """Make all calls in this process. After an error each is made again."""
    with Collection.open(path) as collection:
        faults.arm(path, step, mode)
        for number, call in enumerate(CALLS):
            try:
                call(collection, log)
            except (OSError, CollectionError, IndexFileError) as error:
                faults.disarm()
                if str(path) not in str(error):
                    raise AssertionError(f"the error names no file: {error}") from error
                state = state_of(collection)
                assert state in (number, number + 1), f"state {state} in call {number}"
                if state == number:
                    call(collection, log)
            progress.write_text(str(number + 1))
        faults.disarm()
        return faults.count()


def _run_step(faults, folder, mode, step):
    path, log, progress = folder / f"step-{step}.ctx", folder / f"log-{step}", folder / "progress"
    shutil.copytree(folder / "source.ctx", path)
    progress.write_text("0")

    def call():
        (folder / "steps").write_text(str(run_calls(path, log, progress, faults, mode, step)))

    def check(_):
        finish(path, log, int(progress.read_text()))
        paid = [(model, *chunks) for model, chunks in map(json.loads, log.read_text().splitlines())]
        again = len(paid) - len(set(paid))
        assert again <= 2, f"{again} documents were paid for twice: a request has 2"
        tokens, _ = spent(path)
        if mode == "count":
            (folder / "cost").write_text(str(tokens))
        cost = int((folder / "cost").read_text())
        if again == 0:
            assert tokens == cost, f"the ledger says {tokens} tokens, not {cost}"
        shutil.rmtree(path)

    return run_step(call, check)


def _prepare(folder):
    seal_often()
    job_run._DOCUMENTS = 2
    from ctxembed._collection import store

    store._RESERVE = 0
    with Collection.create(folder / "source.ctx", model=OLD, dimensions=DIMENSIONS) as collection:
        collection.ingest(FIRST, OldEmbedder())
        collection.delete(["doc-0"])


if __name__ == "__main__":
    main(_prepare, _run_step)
