"""Kill a snapshot, or fail a system call of it, at each change of a file in turn. Run by ``test_snapshot``."""

from __future__ import annotations

from ctxembed import Collection, CollectionError
from ctxembed._jobs import run as job_run

from tests.collection.fault_steps import main, run_step
from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, seal_often

DOCUMENTS = [document(number) for number in range(20)]
LEFT = DOCUMENTS[1:]


def _check_copies(copies, target):
    """There is no snapshot, or a whole one. What else is there has another name."""
    if target.exists():
        _check_whole(target)
    for entry in copies.iterdir():
        assert entry == target or entry.name.startswith(".snapshot-"), entry


def _check_whole(path):
    for read_only in (True, False):
        with Collection.open(path, read_only=read_only) as collection:
            assert contents(collection) == expected(LEFT)
            assert collection.verify() == []


def _run_step(faults, folder, mode, step):
    source, copies = folder / "source.ctx", folder / f"copies-{step}"
    target = copies / "copy.ctx"
    copies.mkdir()

    def call():
        with Collection.open(source, read_only=True) as collection:
            faults.arm(copies, step, mode)
            try:
                collection.snapshot(target)
            except (OSError, CollectionError) as error:
                faults.disarm()
                left = list(copies.iterdir())
                if str(copies) not in str(error) or left not in ([], [target]):
                    raise AssertionError(f"the error names no file, or left {left}") from error
            (folder / "steps").write_text(str(faults.count()))

    def check(_):
        _check_copies(copies, target)
        with Collection.open(source) as collection:
            if not target.exists():
                collection.snapshot(target)
            assert contents(collection) == expected(LEFT)
            assert collection.verify() == []
        _check_whole(target)

    return run_step(call, check)


def _prepare(folder):
    seal_often()
    job_run._DOCUMENTS = 2
    with Collection.create(folder / "source.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        collection.delete(["doc-0"])
        assert collection.stats().segments > 2


if __name__ == "__main__":
    main(_prepare, _run_step, ["kill", "torn", "no-space", "io-error"])
