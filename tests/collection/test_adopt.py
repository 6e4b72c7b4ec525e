"""``Collection.adopt``: what workers wrote is taken over once, whatever ends the call."""

import ctxembed
import numpy as np
import pytest
from ctxembed import Collection, CollectionError, CollectionLockedError, SpaceError, Usage
from ctxembed._collection import rows as row_files

from . import adopt_steps
from .fault_steps import build_faults, run_steps
from .samples import DIMENSIONS, LocalEmbedder, contents, document, expected


def make(path, documents, embedder=None, **options):
    with Collection.create(path, **{"dimensions": DIMENSIONS, **options}) as collection:
        report = collection.ingest(documents, embedder or LocalEmbedder())
        assert report.stopped is None
    return path


@pytest.fixture
def own(tmp_path):
    with Collection.create(tmp_path / "own.ctx", dimensions=DIMENSIONS) as collection:
        yield collection


def test_parts_are_taken_over_once(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "SEAL_BYTES", 12 * DIMENSIONS)
    parts = adopt_steps.prepare(tmp_path)
    cost = adopt_steps.total_spent(tmp_path)
    with Collection.open(tmp_path / "own.ctx") as collection:
        report = collection.adopt(parts)
        assert (report.added, report.updated, report.unchanged, report.failed) == (11, 2, 2, 0)
        assert report.usage.total_tokens == sum(adopt_steps.spent(part)[0] for part in parts)
        again = collection.adopt(parts)
        assert (again.added, again.updated, again.unchanged) == (0, 0, 15)
        assert again.usage == Usage()
        hits = collection.search(np.ones(DIMENSIONS, np.int8), 5, where="year = 2020")
        assert len(hits) == 5
        embedder = LocalEmbedder()
        assert collection.ingest(adopt_steps.ALL.values(), embedder).unchanged == 15
        assert embedder.sent == []
    adopt_steps.check(tmp_path / "own.ctx", tmp_path, cost)


def test_a_part_that_grew_adds_what_is_new(tmp_path, own):
    part = make(tmp_path / "part.ctx", [document(1)])
    own.adopt([part])
    with Collection.open(part) as collection:
        collection.ingest([document(1), document(2)], LocalEmbedder())
    report = own.adopt([part])
    assert (report.added, report.unchanged, report.usage.requests) == (1, 1, 1)
    assert own.stats().usage.requests == 2
    assert contents(own) == expected([document(1), document(2)])


def test_an_order_of_parts_and_documents_is_kept(tmp_path, own):
    second = make(tmp_path / "second.ctx", [document(number) for number in (9, 3, 7)])
    first = make(tmp_path / "first.ctx", [document(number) for number in (5, 1)])
    own.adopt([second, first])
    assert [one.id for one in own.documents()] == ["doc-9", "doc-3", "doc-7", "doc-5", "doc-1"]
    assert own.stats().space == "hashed"


def test_one_document_in_two_parts_is_stored_once_and_both_costs_count(tmp_path, own):
    """A task that ran twice, since its worker was lost."""
    parts = [make(tmp_path / name, [document(1), document(2)]) for name in ("a.ctx", "b.ctx")]
    report = own.adopt(parts)
    assert (report.added, report.unchanged) == (2, 2)
    assert own.stats().usage.requests == 2


def test_one_id_with_two_contents_is_refused_before_anything_is_written(tmp_path, own):
    parts = [make(tmp_path / "a.ctx", [document(1), document(2)]), make(tmp_path / "b.ctx", [document(2, version=1)])]
    with pytest.raises(ValueError, match=r"'doc-2' is in .*a\.ctx and in .*b\.ctx with other chunks"):
        own.adopt(parts)
    assert len(own) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 256}, "with 256 dimensions as base64_int8, and this collection those of .* with 128"),
        ({"encoding_format": "base64_binary"}, "as base64_binary"),
        ({"model": "pplx-embed-context-v1-4b"}, "pplx-embed-context-v1-4b"),
    ],
)
def test_vectors_of_another_kind_are_refused(tmp_path, own, options, message):
    good = make(tmp_path / "good.ctx", [document(1)])
    bad = make(tmp_path / "bad.ctx", [document(2)], **options)
    with pytest.raises(SpaceError, match=f"bad.ctx holds vectors of .*{message}"):
        own.adopt([good, bad])
    assert len(own) == 0


def test_parts_of_two_spaces_are_refused(tmp_path, own):
    class Other(LocalEmbedder):
        space = "other"

    parts = [make(tmp_path / "a.ctx", [document(1)]), make(tmp_path / "b.ctx", [document(2)], Other())]
    with pytest.raises(SpaceError, match=r"b\.ctx holds vectors of the space 'other'.*'hashed'"):
        own.adopt(parts)
    assert len(own) == 0


def test_failures_are_taken_over_unless_the_document_is_stored(tmp_path, own):
    class Refusing(LocalEmbedder):
        def embed(self, documents, **options):
            found = super().embed(documents, **options)
            refused = ctxembed.BadRequestError("no", 400, None, {})
            failures = tuple(ctxembed.Failure(number, refused, 1) for number in range(len(documents)))
            none = np.zeros(len(documents) + 1, np.int64)
            return ctxembed.Embeddings(
                found.vectors[:0], none, found.model, found.dimensions, found.encoding_format, found.usage, failures
            )

    bad = make(tmp_path / "bad.ctx", [document(1), document(2)], Refusing())
    good = make(tmp_path / "good.ctx", [document(2)])
    for _ in range(2):
        report = own.adopt([bad, good])
        assert report.failed == 1
        [failure] = own.failures()
        assert (failure.id, failure.attempts) == ("doc-1", 1)
        assert failure.error.startswith("BadRequestError")
    embedder = LocalEmbedder()
    assert own.ingest([document(1)], embedder).failed == 1  # its content has not changed
    assert embedder.sent == []


def test_windows_of_a_long_document_are_not_paid_for_twice(tmp_path, own):
    """A killed worker leaves windows of a document that is not complete."""
    part = make(tmp_path / "part.ctx", [document(1)])
    rows = {bytes([7]) * 32: np.arange(3 * DIMENSIONS, dtype=np.int64).astype(np.int8).reshape(3, DIMENSIONS)}
    with Collection.open(part) as collection:
        from ctxembed._jobs.store import InFlight

        collection._store.commit(
            (), (), usage=Usage(3, 3, None, 1), space=None, windows=rows, spent_windows=(), in_flight=InFlight()
        )
    for _ in range(2):
        own.adopt([part])
        [(key, found)] = own._store.vectors_of([*rows]).items()
        assert np.array_equal(found, rows[key])
    assert own.verify() == []


def test_collections_without_text(tmp_path, own):
    part = make(tmp_path / "part.ctx", [document(1), document(2)], store_text=False)
    with pytest.raises(CollectionError, match="without the text of its chunks"):
        own.adopt([part])
    with Collection.create(tmp_path / "bare.ctx", dimensions=DIMENSIONS, store_text=False) as bare:
        bare.adopt([part, make(tmp_path / "texts.ctx", [document(3)])])
        assert bare.verify() == []
        assert bare.get("doc-1").metadata == {"number": 1}
        embedder = LocalEmbedder()
        assert bare.ingest([document(1), document(2), document(3)], embedder).unchanged == 3
        assert embedder.sent == []


def test_declared_fields_hold_for_parts(tmp_path):
    part = make(tmp_path / "part.ctx", [document(1, year="old")])
    with Collection.create(tmp_path / "own.ctx", dimensions=DIMENSIONS, fields={"year": int}) as own:
        with pytest.raises(ValueError, match="'doc-1' does not fit this collection: .*'year' is declared as int"):
            own.adopt([part])
        assert len(own) == 0
        assert own.verify() == []


def test_parts_in_use_missing_or_damaged(tmp_path, own):
    part = make(tmp_path / "part.ctx", [document(1)])
    with Collection.open(part), pytest.raises(CollectionLockedError):
        own.adopt([part])
    with pytest.raises(FileNotFoundError):
        own.adopt([tmp_path / "nowhere.ctx"])
    with pytest.raises(ValueError, match="cannot adopt itself"):
        own.adopt([own.path])
    with pytest.raises(TypeError, match="a list of folders"):
        own.adopt(part)
    assert own.adopt([]) == ctxembed.IngestReport()
    tail = next(part.glob("tail-*.rows"))
    content = bytearray(tail.read_bytes())
    content[5] ^= 1
    tail.write_bytes(content)
    with pytest.raises(CollectionError, match=r"tail-.* is damaged"):
        own.adopt([part])
    assert len(own) == 0


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return build_faults(tmp_path_factory.mktemp("faults"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mode", "stride"), [("kill", 4), ("torn", 31), ("no-space", 15), ("io-error", 15)])
def test_a_fault_at_any_change_of_a_file_loses_nothing_and_doubles_nothing(faults, tmp_path, mode, stride):
    found = run_steps(faults, "adopt_steps", tmp_path, mode, f"--stride={stride}")
    assert found["total"] > 20
    assert found["failed"] == {}
