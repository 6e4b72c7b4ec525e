"""Kill an adoption, or fail a system call of it, at each change of a file in turn. Run by ``test_adopt``."""

from __future__ import annotations

import shutil
from functools import cache

from ctxembed import Collection, CollectionError
from ctxembed._jobs import run as job_run

from tests.collection.fault_steps import main, run_step
from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, seal_often

OWN = [document(number) for number in range(4)]
PARTS = {
    "a.ctx": [document(0, version=1), *(document(number) for number in range(1, 9))],  # one other, three the same
    "b.ctx": [
        document(2, lang="en"),
        *(document(number, year=2020) for number in range(9, 14)),
        document(20, chunks=9),
    ],
}
WITHOUT_DOC_2 = [one for one in PARTS["a.ctx"] if one.id != "doc-2"]
ALL = {one.id: one for one in [*OWN, *WITHOUT_DOC_2, *PARTS["b.ctx"]]}


def prepare(folder):
    """Write the collection and the parts."""
    with Collection.create(folder / "own.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(OWN, LocalEmbedder())
    for name, documents in (("a.ctx", WITHOUT_DOC_2), ("b.ctx", PARTS["b.ctx"])):
        with Collection.create(folder / name, dimensions=DIMENSIONS) as collection:
            collection.ingest(documents, LocalEmbedder())
    return [folder / name for name in PARTS]


def spent(path):
    """Return the tokens and requests of a ledger."""
    with Collection.open(path, read_only=True) as collection:
        usage = collection.stats().usage
        return usage.total_tokens, usage.requests


def total_spent(folder):
    return tuple(sum(numbers) for numbers in zip(*(spent(folder / name) for name in ("own.ctx", *PARTS)), strict=True))


def check(path, folder, cost):
    """Everything is there, once."""
    with Collection.open(path) as collection:
        assert contents(collection) == expected(ALL.values())
        assert collection.verify() == []
    assert spent(path) == cost
    assert all((folder / name).is_dir() for name in PARTS)


def _check_between(collection):
    """Each document is whole, and as before or as after."""
    before, after, found = expected(OWN), expected(ALL.values()), contents(collection)
    for name in {*before, *found}:
        assert found.get(name) in (before.get(name), after.get(name)), f"{name} is neither as before nor as after"


def _run_step(faults, folder, mode, step):
    target, parts = folder / f"target-{step}.ctx", [folder / name for name in PARTS]
    shutil.copytree(folder / "own.ctx", target)

    def call():
        with Collection.open(target) as collection:
            faults.arm(target, step, mode)
            try:
                collection.adopt(parts)
            except (OSError, CollectionError):
                faults.disarm()
                collection.adopt(parts)  # by the same process
            faults.disarm()
            (folder / "steps").write_text(str(faults.count()))

    def check_target(_):
        with Collection.open(target) as collection:
            _check_between(collection)
            assert collection.verify() == []
            collection.adopt(parts)
        check(target, folder, _cost(folder))
        shutil.rmtree(target)

    return run_step(call, check_target)


@cache
def _cost(folder):
    return total_spent(folder)


def _prepare(folder):
    seal_often()
    job_run._DOCUMENTS = 2
    from ctxembed._collection import adopting, store

    store._RESERVE = 0
    adopting._DOCUMENTS = 2
    prepare(folder)
    _cost(folder)  # before any of them is adopted


if __name__ == "__main__":
    main(_prepare, _run_step, ["kill", "torn", "no-space", "io-error"])
