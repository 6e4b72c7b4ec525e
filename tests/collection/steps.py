"""Kill a writer, or fail a system call of it, at each change of a file in turn. Run by ``test_crashes``."""

from __future__ import annotations

import shutil

from ctxembed import Collection, CollectionError, IndexFileError
from ctxembed._jobs import run as job_run

from tests.collection.fault_steps import main, run_step
from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected, seal_often

FIRST = [document(number) for number in range(8)]
SECOND = [
    document(0, version=1),  # other chunks
    document(1, version=1),
    document(2, lang="en"),  # other metadata, and a new field
    document(20, chunks=3, year=2020),
    document(21, chunks=14),  # more than a segment
]
THIRD = [document(30, chunks=2), document(31, chunks=2)]


def _operations():
    """Return (name, function of a collection, the documents afterwards) of each operation."""
    after_first = {one.id: one for one in FIRST}
    after_second = {**after_first, **{one.id: one for one in SECOND}}
    after_delete = {name: one for name, one in after_second.items() if name not in ("doc-3", "doc-20")}
    after_third = {**after_delete, **{one.id: one for one in THIRD}}
    return [
        ("ingest", lambda col, client: col.ingest(FIRST, client), after_first),
        ("ingest", lambda col, client: col.ingest(SECOND, client), after_second),
        ("delete", lambda col, _: col.delete(["doc-3", "doc-20"]), after_delete),
        ("where", lambda col, _: list(col.documents("lang = 'en'")), after_delete),
        ("compact", lambda col, _: col.compact(), after_delete),
        ("ingest", lambda col, client: col.ingest(THIRD, client), after_third),
    ]


OPERATIONS = _operations()


def _prepare(_):
    seal_often()
    job_run._DOCUMENTS = 2
    from ctxembed._collection import store

    store._RESERVE = 0


def _open(path):
    """Open the collection, or create it where a creation ended early."""
    try:
        return Collection.open(path)
    except (FileNotFoundError, CollectionError):
        return Collection.create(path, dimensions=DIMENSIONS)


def _check_between(found, before, after):
    """Each document is whole, and as before or as after an operation."""
    old, new = expected(before.values()), expected(after.values())
    for name in {*old, *new, *found}:
        assert found.get(name) in (old.get(name), new.get(name)), f"{name} is neither as before nor as after"


def _finish(path, done):
    """Do the operations from ``done`` on, and check that nothing stored is embedded again."""
    with _open(path) as collection:
        for name, operate, after in OPERATIONS[done:]:
            found, client = contents(collection), LocalEmbedder()
            operate(collection, client)
            if name == "ingest":
                missing = [
                    one.chunks for one in after.values() if one.id not in found or found[one.id][0] != tuple(one.chunks)
                ]
                assert sorted(client.sent) == sorted(missing), "a stored document was embedded again"
            assert contents(collection) == expected(after.values())
            assert collection.verify() == []
    with Collection.open(path, read_only=True) as collection:
        assert contents(collection) == expected(OPERATIONS[-1][2].values())
        assert collection.verify() == []


def check_killed(path, done):
    """Check a collection whose writer was killed in operation number ``done``."""
    if done < 0:
        _finish(path, 0)
        return
    before = OPERATIONS[done - 1][2] if done else {}
    after = OPERATIONS[done][2] if done < len(OPERATIONS) else before
    for read_only in (True, False):
        try:
            collection = Collection.open(path, read_only=read_only)
        except (FileNotFoundError, CollectionError):
            assert done == 0, "a collection that was in use cannot be opened"
            continue
        with collection:
            assert collection.verify() == []
            _check_between(contents(collection), before, after)
    _finish(path, done)


def run_to_the_kill(path, progress):
    """Run all operations, and note in a file how many are done."""
    for done in range(-1, len(OPERATIONS)):
        if done < 0:
            collection, client = Collection.create(path, dimensions=DIMENSIONS), LocalEmbedder()
        else:
            OPERATIONS[done][1](collection, client)
        progress.write_text(str(done + 1))
    collection.close()


def run_with_errors(path, disarm):
    """Run all operations, each again after an error, and check all between."""
    client = LocalEmbedder()
    errors = []
    collection = _again(lambda: _open(path), path, errors, disarm)
    before = {}
    for _, operate, after in OPERATIONS:
        count = len(errors)

        def fail(before=before, after=after):
            for each in (collection, Collection.open(path, read_only=True)):
                each.refresh()
                _check_between(contents(each), before, after)
                assert each.verify() == []

        _again(lambda operate=operate: operate(collection, client), path, errors, disarm, fail)
        if len(errors) > count or not before:
            assert contents(collection) == expected(after.values())
            assert collection.verify() == []
        before = after
    collection.close()
    disarm()
    sent = sum(map(len, client.sent))
    _finish(path, len(OPERATIONS))
    return errors, sent


def _again(call, path, errors, disarm, check=lambda: None):
    try:
        return call()
    except (OSError, CollectionError, IndexFileError) as error:
        disarm()
        text = str(error)
        if str(path) not in text:
            raise AssertionError(f"{type(error).__name__} does not name the file: {text}") from error
        errors.append(f"{type(error).__name__}: {text}")
        check()
    return call()


def _run_step(faults, folder, mode, step):
    path, progress = folder / "steps.ctx", folder / "progress"
    shutil.rmtree(path, ignore_errors=True)
    progress.write_text("-1")

    def call():
        faults.arm(path, step, mode)
        if mode in ("count", "kill", "torn"):
            run_to_the_kill(path, progress)
            (folder / "steps").write_text(str(faults.count()))
        else:
            run_with_errors(path, faults.disarm)

    def check(is_killed):
        if is_killed:
            check_killed(path, int(progress.read_text()))

    return run_step(call, check)


if __name__ == "__main__":
    main(_prepare, _run_step)
