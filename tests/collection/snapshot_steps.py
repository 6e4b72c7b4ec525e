"""Kill a snapshot, or fail a system call of it, at each change of a file in turn. Run by ``test_snapshot``.

``faults.c`` has to be preloaded, as for ``tests.collection.steps``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from ctxembed import Collection, CollectionError
from ctxembed._jobs import run as job_run

from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, seal_often
from tests.collection.steps import Faults

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
    """Run one step in a child, and return an error or None."""
    source, copies = folder / "source.ctx", folder / f"copies-{step}"
    target = copies / "copy.ctx"
    copies.mkdir()
    child = os.fork()
    if child == 0:
        code = 1
        try:
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
            code = 0
        except BaseException:  # noqa: BLE001
            (folder / "error").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status:
        return (folder / "error").read_text()
    try:
        _check_copies(copies, target)
        with Collection.open(source) as collection:
            if not target.exists():
                collection.snapshot(target)
            assert contents(collection) == expected(LEFT)
            assert collection.verify() == []
        _check_whole(target)
    except Exception:  # noqa: BLE001
        return traceback.format_exc()
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["kill", "torn", "no-space", "io-error"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stride", type=int, default=1)
    given = parser.parse_args()
    seal_often()
    job_run._DOCUMENTS = 2
    with Collection.create(given.folder / "source.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        collection.delete(["doc-0"])
        assert collection.stats().segments > 2
    faults = Faults()
    failed = {}
    error = _run_step(faults, given.folder, "count", 0)
    assert error is None, error
    total = int((given.folder / "steps").read_text())
    for step in range(1, total + 1, given.stride):
        error = _run_step(faults, given.folder, given.mode, step)
        if error is not None:
            failed[step] = error
    json.dump({"total": total, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    main()
