"""What is in an export, and when its files appear: columns, order, every kind of row, interruptions, overwriting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import Collection, CollectionError, Document
from ctxembed._collection import rows as row_files
from ctxembed._collection.export import rows as export_rows
from ctxembed._collection.export import run, target

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document, vectors_of
from tests.exports.reading import ENDINGS, need, read

INT8 = {"parquet": "int8", "npy": "int8", "faiss": "bits", "usearch": "int8", "sqlite-vec": "int8",
        "lancedb": "float16", "pgvector": "float16"}  # fmt: skip
"""What each format gets by default."""

ALL = [pytest.param(name, vectors) for name, form in run.FORMATS.items() for vectors in form.vectors]
TEXTS = ["a", "\n\t ", "naïve 日本語 😀", "\u2028\x85", "'quoted\"", "e\u0301", "\ufeff", "x" * 100_000, "\\u0000"]
METADATA = [
    None,
    {},
    {"text": "naïve 😀", "int": -(2**63), "large": 2**200, "float": 0.1, "bool": True, "none": None, "empty": ""},
    {"list": [1, [2.5, "x"]], "dict": {"a": {"b": None}}, 'odd"name': 2, "": 3, "back\\u0000slash": "\\\\u0000"},
]
IDS = ["naïve 😀", "日本語", " ", "a\nb", "'; DROP TABLE chunks; --", "\u202e", "x" * 5000, '{"id": 1}']


@pytest.fixture(params=run.FORMATS)
def name(request):
    need(request.param)
    return request.param


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        yield collection


@pytest.fixture
def sealing(monkeypatch):
    """Seal the tail every 40 rows, and export a few documents at once."""
    monkeypatch.setattr(row_files, "SEAL_BYTES", 40 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 60 * DIMENSIONS)
    monkeypatch.setattr(export_rows, "ROWS_AT_ONCE", 20)


def converted(rows, vectors):
    """Return the bytes of each int8 row in another form, without the code under test."""
    if vectors == "bits":
        rows = np.packbits(rows >= 0, axis=1, bitorder="little")
    elif vectors == "float16":
        rows = rows.astype(np.float16)
    elif vectors == "float32":
        lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        rows = (rows / lengths).astype(np.float32)
    return [row.tobytes() for row in rows]


def expected(documents, vectors):
    """Return what :func:`read` gives for documents that ``LocalEmbedder`` embedded."""
    return [
        (one.id, chunk, text, one.metadata, vector)
        for one in documents
        for chunk, (text, vector) in enumerate(zip(one.chunks, converted(vectors_of(one.chunks), vectors), strict=True))
    ]


def check(path, name, documents, vectors):
    found, wanted = read(path, name, DIMENSIONS), expected(documents, vectors)
    assert [row[:4] for row in found] == [row[:4] for row in wanted]
    if vectors == "float32":
        both = (np.frombuffer(b"".join(row[4] for row in rows), np.float32) for rows in (found, wanted))
        np.testing.assert_allclose(*both, atol=1e-6)
    else:
        assert [row[4] for row in found] == [row[4] for row in wanted]


def leftovers(folder):
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.suffix != ".ctx")


# --- what is in it ---


@pytest.mark.parametrize(("name", "vectors"), ALL)
def test_every_row_of_segments_and_tail_in_order(collection, tmp_path, sealing, name, vectors):
    need(name)
    for start in range(0, 60, 20):
        collection.ingest([document(number) for number in range(start, start + 20)], LocalEmbedder())
    collection.delete([f"doc-{number}" for number in range(0, 60, 7)])
    collection.ingest([document(8, version=1), document(9, extra=1)], LocalEmbedder())
    assert collection.stats().segments >= 2
    path = tmp_path / f"out{ENDINGS[name]}"
    shown = []
    report = collection.export(path, vectors=vectors, progress=shown.append)
    documents = list(collection.documents())
    assert [one.id for one in documents][-1] == "doc-8"
    check(path, name, documents, vectors)
    chunks = sum(len(one.chunks) for one in documents)
    companions = run.FORMATS[name].companions
    assert report.files == (str(path), *[f"{path}{ending}" for ending in companions])
    assert (report.format, report.vectors, report.chunks) == (name, vectors, chunks)
    assert (report.note is None) == (INT8[name] == "int8")
    assert len(shown) > 3
    assert shown == sorted(shown)
    assert shown[-1] == chunks
    assert leftovers(tmp_path) == sorted(Path(file).name for file in report.files)


def test_any_text_id_and_json(collection, tmp_path, name):
    texts = TEXTS if name == "pgvector" else [*TEXTS, "a\0b"]
    metadata = METADATA if name == "pgvector" else [*METADATA, {"null": "\0"}]
    documents = [Document(one, texts, metadata[number % len(metadata)]) for number, one in enumerate(IDS)]
    if name != "pgvector":
        documents.append(Document("a\0b", ["x"], {"a": 1}))
    assert collection.ingest(documents, LocalEmbedder()).failed == 0
    path = tmp_path / f"日本 ' \" {ENDINGS[name]}"
    report = collection.export(str(path))
    check(path, name, documents, report.vectors)


def test_by_default_a_format_gets_int8_or_says_why_not(collection, tmp_path, name):
    collection.ingest([document(1)], LocalEmbedder())
    report = collection.export(tmp_path / "out", format=name)
    assert report.vectors == INT8[name]
    assert (report.note is None) == (INT8[name] == "int8")
    if INT8[name] != "int8":
        with pytest.raises(ValueError, match=f"{report.note}, so vectors of the format {name} must be"):
            collection.export(tmp_path / "other", format=name, vectors="int8")
    with pytest.raises(ValueError, match=f"vectors of the format {name} must be .*, got 'double'"):
        collection.export(tmp_path / "other", format=name, vectors="double")


def test_an_empty_collection_and_a_filter_that_selects_nothing(collection, tmp_path, name):
    collection.export(tmp_path / f"empty{ENDINGS[name]}")
    assert read(tmp_path / f"empty{ENDINGS[name]}", name, DIMENSIONS) == []
    collection.ingest([document(1)], LocalEmbedder())
    report = collection.export(tmp_path / f"none{ENDINGS[name]}", where="number > ?", params=(5,))
    assert (report.chunks, read(report.files[0], name, DIMENSIONS)) == (0, [])
    collection.delete(["doc-1"])
    assert collection.export(tmp_path / f"deleted{ENDINGS[name]}").chunks == 0


def test_a_filter(collection, tmp_path, sealing, name):
    documents = [document(number) for number in range(60)]
    collection.ingest(documents, LocalEmbedder())
    path = tmp_path / f"out{ENDINGS[name]}"
    report = collection.export(path, where="number % 3 = :rest", params={"rest": 1})
    check(path, name, documents[1::3], report.vectors)


def test_a_collection_without_texts(tmp_path, name):
    with Collection.create(tmp_path / "b.ctx", dimensions=DIMENSIONS, store_text=False) as collection:
        collection.ingest([document(3)], LocalEmbedder())
        collection.export(tmp_path / f"out{ENDINGS[name]}")
    rows = read(tmp_path / f"out{ENDINGS[name]}", name, DIMENSIONS)
    assert [row[:4] for row in rows] == [("doc-3", chunk, None, {"number": 3}) for chunk in range(4)]


def test_a_binary_collection_gives_bits_and_refuses_values(binary_collection, tmp_path, name):
    path = tmp_path / f"out{ENDINGS[name]}"
    report = binary_collection.export(path)
    assert (report.vectors, report.note, report.chunks) == ("bits", None, binary_collection.stats().chunks)
    rows = read(path, name, binary_collection.dimensions)
    assert b"".join(row[4] for row in rows) == binary_collection.vectors().tobytes()
    for vectors in set(run.FORMATS[name].vectors) - {"bits"}:
        with pytest.raises(ValueError, match=f"has packed bits and no int8 values, so vectors cannot be '{vectors}'"):
            binary_collection.export(tmp_path / "other", format=name, vectors=vectors)


def test_a_read_only_collection(collection, tmp_path, name):
    documents = [document(number) for number in range(5)]
    collection.ingest(documents, LocalEmbedder())
    with Collection.open(collection.path, read_only=True) as reader:
        report = reader.export(tmp_path / f"out{ENDINGS[name]}", where="number < 3")
    check(report.files[0], name, documents[:3], report.vectors)


def test_one_state_is_written_while_a_writer_changes_everything(collection, tmp_path, sealing, name):
    documents = [document(number) for number in range(80)]
    collection.ingest(documents, LocalEmbedder())

    def change(chunks):
        turn = len(turns)
        turns.append(chunks)
        collection.ingest([document(200 + turn, chunks=5), document(79 - turn, version=1)], LocalEmbedder())
        collection.delete([f"doc-{turn + 40}"])
        collection.compact()

    turns = []
    report = collection.export(tmp_path / f"out{ENDINGS[name]}", progress=change)
    assert len(turns) > 5
    check(report.files[0], name, documents, report.vectors)
    assert collection.verify() == []


def test_dimensions_that_are_no_whole_bytes_have_no_bits(tmp_path):
    with Collection.create(tmp_path / "b.ctx", dimensions=129) as collection:
        collection.ingest([("a", ["x", "y"])], LocalEmbedder())
        collection.export(tmp_path / "out.npy")
        assert np.array_equal(np.load(tmp_path / "out.npy"), collection.vectors())
        collection.export(tmp_path / "out.pgcopy")
        assert len(read(tmp_path / "out.pgcopy", "pgvector", 129)) == 2
        with pytest.raises(ValueError, match="multiple of 8, and the collection has 129"):
            collection.export(tmp_path / "out.faiss")


def test_the_arrow_schema_says_which_model_made_the_vectors(collection, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    collection.ingest([document(1)], LocalEmbedder())
    collection.export(tmp_path / "out.parquet")
    metadata = parquet.read_schema(tmp_path / "out.parquet").metadata
    assert metadata[b"ctxembed.model"] == collection.model.encode()
    assert (metadata[b"ctxembed.space"], metadata[b"ctxembed.vectors"]) == (b"hashed", b"int8")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (Document("a\0b", ["x"]), "id"),
        (Document("a", ["x", "y\0"]), "text"),
        (Document("a", ["x"], {"deep": [{"b": "\0"}]}), "metadata"),
        (Document("a", ["x"], {"deep": {"b\0": 1}}), "metadata"),
    ],
)
def test_a_null_character_which_postgresql_cannot_store_is_named(collection, tmp_path, given, field):
    collection.ingest([given], LocalEmbedder())
    with pytest.raises(ValueError, match=f"the {field} of the document 'a.*holds a null character, which PostgreSQL"):
        collection.export(tmp_path / "out.pgcopy")
    assert leftovers(tmp_path) == []


def test_damage_is_found_and_leaves_nothing(collection, tmp_path, sealing, name):
    collection.ingest([document(number) for number in range(60)], LocalEmbedder())
    path = Path(collection.path)
    collection.close()
    segment = max((path / "segments").iterdir())
    content = bytearray(segment.read_bytes())
    at = content.index(vectors_of(document(10).chunks)[1].tobytes()) if name == "npy" else len(content) // 2
    content[at + 3] ^= 1
    segment.write_bytes(content)
    with Collection.open(path, read_only=True) as reader:
        problems = reader.verify()
        assert problems != []
        with pytest.raises(CollectionError, match="the vectors of the document 'doc-.*' are changed"):
            reader.export(tmp_path / f"out{ENDINGS[name]}")
    assert leftovers(tmp_path) == []


# --- when it appears ---


def test_a_target_that_exists_is_replaced_only_when_asked(collection, tmp_path, name):
    documents = [document(number) for number in range(5)]
    collection.ingest(documents, LocalEmbedder())
    path = tmp_path / f"out{ENDINGS[name]}"
    collection.export(path, where="number = 1")
    before = read(path, name, DIMENSIONS)
    with pytest.raises(FileExistsError, match="the target exists: overwrite=True replaces it") as caught:
        collection.export(path)
    assert caught.value.filename == str(path)
    assert read(path, name, DIMENSIONS) == before
    report = collection.export(path, overwrite=True)
    check(path, name, documents, report.vectors)
    assert leftovers(tmp_path) == sorted(Path(file).name for file in report.files)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_export_wrote_stays(collection, tmp_path, name, overwrite):
    path = tmp_path / f"out{ENDINGS[name]}"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        collection.export(path, overwrite=overwrite)
    assert (path / "mine.txt").read_text() == "mine"
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileExistsError):
        collection.export(tmp_path / "fifo", format=name, overwrite=overwrite)
    assert leftovers(tmp_path) == ["fifo", path.name]


@pytest.mark.parametrize("ending", [".jsonl", ".sql"])
def test_a_companion_that_exists_stays(collection, tmp_path, ending):
    path = tmp_path / ("out.npy" if ending == ".jsonl" else "out.pgcopy")
    Path(f"{path}{ending}").write_text("mine")
    with pytest.raises(FileExistsError) as caught:
        collection.export(path)
    assert caught.value.filename == f"{path}{ending}"
    assert Path(f"{path}{ending}").read_text() == "mine"
    assert not path.exists()


def test_a_target_that_appears_meanwhile_stays(collection, tmp_path, name):
    collection.ingest([document(1)], LocalEmbedder())
    path = tmp_path / f"out{ENDINGS[name]}"

    def appear(_chunks):
        if run.FORMATS[name].folder is not None:
            path.mkdir()
        else:
            path.write_text("mine")

    with pytest.raises(FileExistsError):
        collection.export(path, progress=appear)
    assert leftovers(tmp_path) == [path.name]
    assert path.is_dir() or path.read_text() == "mine"


def test_a_file_system_without_hard_links(collection, tmp_path, monkeypatch):
    def refuse(self, other):
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    collection.ingest([document(1)], LocalEmbedder())
    collection.export(tmp_path / "out.npy")
    assert len(np.load(tmp_path / "out.npy")) == 2
    with pytest.raises(FileExistsError, match="appeared meanwhile"):
        collection.export(tmp_path / "b.npy", progress=lambda _: (tmp_path / "b.npy").write_text("mine"))
    assert (tmp_path / "b.npy").read_text() == "mine"
    assert leftovers(tmp_path) == ["b.npy", "out.npy", "out.npy.jsonl"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_exception_leaves_what_was_there(collection, tmp_path, sealing, name, error, overwrite):
    collection.ingest([document(number) for number in range(60)], LocalEmbedder())
    path = tmp_path / f"out{ENDINGS[name]}"
    if overwrite:
        collection.export(path, where="number = 1")
    before = leftovers(tmp_path), read(path, name, DIMENSIONS) if overwrite else None

    def fail(chunks):
        if chunks > 50:
            raise error

    with pytest.raises(error):
        collection.export(path, overwrite=overwrite, progress=fail)
    assert (leftovers(tmp_path), read(path, name, DIMENSIONS) if overwrite else None) == before


_CHILD = """
import os, sys
from ctxembed import Collection
from ctxembed._collection.export import rows, target

rows.ROWS_AT_ONCE = 20
path, out, when, overwrite = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "True"

def wait(*args):
    print("waits", flush=True)
    sys.stdin.read()

if when == "middle":
    options = {"progress": lambda chunks: wait() if chunks > 50 else None}
else:  # before the second rename, or before the only one
    options, rename, turns = {}, target.Target._rename, []
    def renamed(self, part, final):
        turns.append(final)
        if len(turns) == len(self._parts):
            wait()
        rename(self, part, final)
    target.Target._rename = renamed
with Collection.open(path, read_only=True) as collection:
    collection.export(out, overwrite=overwrite, **options)
"""


@pytest.mark.parametrize("when", ["middle", "renames"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_killed_export_leaves_nothing_that_looks_whole(collection, tmp_path, name, when, overwrite):
    documents = [document(number) for number in range(60)]
    collection.ingest(documents, LocalEmbedder())
    path = tmp_path / f"out{ENDINGS[name]}"
    if overwrite:
        collection.export(path, where="number = 1")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, collection.path, str(path), when, str(overwrite)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "waits\n", child.stderr.read()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    form = run.FORMATS[name]
    visible = [entry for entry in leftovers(tmp_path) if not entry.startswith(".ctxembed-export-")]
    if overwrite and (when == "middle" or (not form.companions and form.folder is None)):
        assert read(path, name, DIMENSIONS) == expected([document(1)], INT8[name])
    else:
        assert visible == [f"{path.name}{ending}" for ending in form.companions if when == "renames"]
    report = collection.export(path, overwrite=True)
    check(path, name, documents, report.vectors)


def test_ctrl_c_leaves_nothing(collection, tmp_path, name):
    collection.ingest([document(number) for number in range(60)], LocalEmbedder())
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, collection.path, str(tmp_path / f"out{ENDINGS[name]}"), "middle", "False"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "waits\n", child.stderr.read()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.communicate()
    assert errors.splitlines()[-1].startswith("KeyboardInterrupt")
    assert leftovers(tmp_path) == []


def test_an_error_between_the_renames_leaves_no_companion(collection, tmp_path, monkeypatch):
    collection.ingest([document(1)], LocalEmbedder())
    rename = target.Target._rename

    def fail(self, part, final):
        if final.suffix == ".npy":
            raise OSError(5, "Input/output error", str(final))
        rename(self, part, final)

    monkeypatch.setattr(target.Target, "_rename", fail)
    with pytest.raises(OSError, match="Input/output error"):
        collection.export(tmp_path / "out.npy")
    assert leftovers(tmp_path) == []


def test_everything_is_on_the_disk_before_it_gets_its_name(collection, tmp_path, monkeypatch, name):
    collection.ingest([document(1)], LocalEmbedder())
    synced, rename, fsync = set(), target.Target._rename, os.fsync

    def sync(descriptor):
        found = os.fstat(descriptor)
        synced.add((found.st_ino, found.st_size))
        fsync(descriptor)

    def check_and_rename(self, part, final):
        for file in [part] if part.is_file() else [one for one in part.rglob("*") if one.is_file()]:
            assert (file.stat().st_ino, file.stat().st_size) in synced, file
        rename(self, part, final)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(target.Target, "_rename", check_and_rename)
    collection.export(tmp_path / f"out{ENDINGS[name]}")
    assert (tmp_path / f"out{ENDINGS[name]}").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["parquet", "npy", "faiss", "pgvector"])
def test_a_full_disk_is_an_oserror(collection, tmp_path, monkeypatch, name):
    need(name)
    collection.ingest([document(1)], LocalEmbedder())
    monkeypatch.setattr(target.Target, "part", lambda self, ending="": Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        collection.export(tmp_path / f"out{ENDINGS[name]}")
    assert leftovers(tmp_path) == []


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """Collections of 1,000 and 10,000 chunks in small segments."""
    folder, before = tmp_path_factory.mktemp("sizes"), (row_files.SEAL_BYTES, row_files.TAIL_BYTES)
    row_files.SEAL_BYTES, row_files.TAIL_BYTES = 400 * DIMENSIONS, 600 * DIMENSIONS
    collections = []
    for count in (400, 4000):
        collections.append(Collection.create(folder / f"{count}.ctx", dimensions=DIMENSIONS))
        for start in range(0, count, 100):
            collections[-1].ingest([document(number) for number in range(start, start + 100)], LocalEmbedder())
    row_files.SEAL_BYTES, row_files.TAIL_BYTES = before
    yield collections
    for collection in collections:
        collection.close()


@pytest.mark.parametrize("name", ["parquet", "npy", "faiss", "sqlite-vec", "pgvector"])
def test_memory_does_not_grow_with_the_collection(sizes, tmp_path, monkeypatch, name):
    """tracemalloc sees the arrays of numpy and the texts, and neither maps of files nor the caches of libraries."""
    need(name)
    monkeypatch.setattr(export_rows, "ROWS_AT_ONCE", 200)
    vectors, peaks = "float32" if name == "faiss" else None, []
    for collection in sizes:
        report = collection.export(tmp_path / "first", format=name, vectors=vectors)  # fills what is kept once
        tracemalloc.start()
        try:
            collection.export(tmp_path / "first", format=name, vectors=vectors, overwrite=True)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        for file in report.files:
            Path(file).unlink()
    assert report.chunks == 10_000
    assert peaks[1] < 1.5 * peaks[0]


# --- arguments ---


def test_the_format_comes_from_the_ending_or_by_name(collection, tmp_path):
    for ending, name in {**{ending: name for name, ending in ENDINGS.items()}, ".DB": "sqlite-vec"}.items():
        assert run.format_of(tmp_path / f"a{ending}", None) == name
    assert run.format_of(tmp_path / "a.npy", "parquet") == "parquet"
    for path, given in (("out", None), ("out.zip", None), ("out.npy", "zip"), ("out.npy", 5), ("out.npy", "")):
        with pytest.raises(ValueError, match="parquet, npy, faiss, usearch, sqlite-vec, lancedb, pgvector"):
            collection.export(tmp_path / path, format=given)
    assert leftovers(tmp_path) == []


def test_arguments_are_checked(collection, tmp_path):
    for wrong in (None, 5, "", "a\0.npy"):
        with pytest.raises((TypeError, ValueError), match="target"):
            collection.export(wrong)
    with pytest.raises(FileNotFoundError, match="no folder to write to"):
        collection.export(tmp_path / "absent" / "a.npy")
    with pytest.raises(TypeError, match="overwrite must be a bool, got 1"):
        collection.export(tmp_path / "a.npy", overwrite=1)
    with pytest.raises(TypeError, match="progress must be callable, got 1"):
        collection.export(tmp_path / "a.npy", progress=1)
    with pytest.raises(ValueError, match="unknown name 'nothing'"):
        collection.export(tmp_path / "a.npy", where="nothing = 1")
    with pytest.raises(TypeError):
        collection.export(tmp_path / "a.npy", table="b")
    assert leftovers(tmp_path) == []
    collection.close()
    with pytest.raises(CollectionError, match="this collection is closed"):
        collection.export(tmp_path / "a.npy")


def test_a_target_in_or_around_the_collection_is_refused(collection, tmp_path):
    (tmp_path / "link.npy").symlink_to(Path(collection.path) / "catalogue.sqlite")
    collection.ingest([document(1)], LocalEmbedder())
    for path in (collection.path, f"{collection.path}/a.npy", tmp_path, tmp_path / "link.npy", "/"):
        with pytest.raises(ValueError, match="must not lie in one another"):
            collection.export(path, format="npy", overwrite=True)
    assert collection.verify() == []


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("parquet", "pyarrow", "arrow"),
        ("faiss", "faiss", "faiss"),
        ("usearch", "usearch.index", "usearch"),
        ("sqlite-vec", "sqlite_vec", "sqlite-vec"),
        ("sqlite-vec", "apsw", "sqlite-vec"),
        ("lancedb", "lancedb", "lancedb"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(collection, tmp_path, monkeypatch, name, module, extra):
    if module == "apsw":
        need(name)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module.partition('.')[0]}: pip install 'ctxembed\[{extra}\]'"):
        collection.export(tmp_path / "out", format=name)
    assert leftovers(tmp_path) == []


def test_a_faiss_with_another_file_format_is_refused(collection, tmp_path, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss, "serialize_index_binary", lambda index: np.zeros(9, np.uint8))
    with pytest.raises(ImportError, match="in a way that this ctxembed does not know"):
        collection.export(tmp_path / "out.faiss")
    assert leftovers(tmp_path) == []


def test_the_names_are_json_lines(collection, tmp_path):
    collection.ingest([Document("a", ["x\u2028y\r\nz"], {"n": [1, {"b": None}]}), ("b", ["c"])], LocalEmbedder())
    collection.export(tmp_path / "a.npy")
    lines = (tmp_path / "a.npy.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "a", "chunk": 0, "text": "x\u2028y\r\nz", "metadata": {"n": [1, {"b": None}]}},
        {"id": "b", "chunk": 0, "text": "c", "metadata": None},
    ]
    assert ctxembed.Collection.open(collection.path, read_only=True).stats().chunks == 2
