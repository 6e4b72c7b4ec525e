"""`ctxembed import`: a collection of what an earlier version wrote."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from ctxembed import Collection, pack_bits
from ctxembed._cli.old_output import OldOutputError, load

from tests.cli.process import ids_of, names_in, paid_of, write_documents

MODEL = "pplx-embed-context-v1-0.6b"
ROWS = [("heron", 0), ("heron", 1), ("rust", 0), ("rust", 1), ("rust", 2), ("7", 0)]
VECTORS = np.random.default_rng(0).integers(-128, 128, (6, 1024), dtype=np.int8)


@pytest.fixture
def old(tmp_path):
    """A folder as `ctxembed embed` wrote it before it wrote collections."""
    path = tmp_path / "old"
    path.mkdir()
    np.save(path / "vectors.npy", VECTORS)
    rows = [{"id": name, "chunk": n, "text": f"text {n} of r{name}"} for name, n in ROWS]
    write_documents(path / "chunks.jsonl", rows)
    meta = {
        "version": 1, "model": MODEL,
        "space": f"stand-in:{MODEL}", "dimensions": 1024, "encoding_format": "base64_int8",
        "documents": 4, "chunks": 6, "usage": {},
        "failures": [{"id": "lost", "code": "CTX-010", "error": "too long", "attempts": 2}],
    }  # fmt: skip
    (path / "meta.json").write_text(json.dumps(meta))
    return path


def header(shape: str, descr: str = "'|i1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def edit(name, value):
    """Return a function that sets a field of meta.json, or removes it."""

    def change(path):
        meta = json.loads(path.read_text())
        meta[name] = value
        if value is None:
            del meta[name]
        path.write_text(json.dumps(meta))

    return change


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


def archive(path):
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(3))


def test_documents_vectors_and_failures_are_imported_without_paying(ctxembed, old, server, tmp_path):
    before = paid_of(server)
    done = ctxembed("import", old, "corpus.ctx", PERPLEXITY_API_KEY="", PPLX_API_KEY="")
    assert (done.returncode, done.stderr) == (0, "corpus.ctx: 3 documents added, 0 unchanged\n")
    assert paid_of(server) == before
    assert ids_of(tmp_path / "corpus.ctx") == ["heron", "rust", "7"]
    with Collection.open(tmp_path / "corpus.ctx", read_only=True) as made:
        assert (made.model, made.space) == (MODEL, f"stand-in:{MODEL}")
        assert np.array_equal(made.vectors(), VECTORS)
        assert made.get("rust").chunks == [f"text {n} of rrust" for n in range(3)]
        assert [(failure.id, failure.error, failure.attempts) for failure in made.failures()] == [
            ("lost", "too long", 2)
        ]
        assert made.stats().usage.requests == 0
    assert ctxembed("search", "corpus.ctx", "text 1").returncode == 0


def test_bits_without_a_space_are_imported(ctxembed, old, tmp_path):
    np.save(old / "vectors.npy", pack_bits(VECTORS))
    for name, value in (("encoding_format", "base64_binary"), ("space", None)):
        edit(name, value)(old / "meta.json")
    assert ctxembed("import", old, "corpus.ctx", "--json").returncode == 0
    with Collection.open(tmp_path / "corpus.ctx", read_only=True) as made:
        assert (made.encoding_format, made.space) == ("base64_binary", None)
        assert np.array_equal(made.vectors(), pack_bits(VECTORS))


def test_an_import_goes_on_in_its_own_collection_alone(ctxembed, old, tmp_path):
    with Collection.create(tmp_path / "corpus.ctx", model=MODEL):
        pass  # as a killed import leaves it
    assert ctxembed("import", old, "corpus.ctx").returncode == 0
    done = ctxembed("import", old, "corpus.ctx")
    assert (done.returncode, done.stderr) == (0, "corpus.ctx: 0 documents added, 3 unchanged\n")
    with Collection.create(tmp_path / "other.ctx", model=MODEL, dimensions=128):
        pass
    done = ctxembed("import", old, "other.ctx")
    assert (done.returncode, "name another collection" in done.stderr) == (1, True)
    done = ctxembed("import", "corpus.ctx", "new.ctx")
    assert (done.returncode, "it has no meta.json" in done.stderr) == (1, True)
    assert names_in(tmp_path) == ["corpus.ctx", "old", "other.ctx"]


def test_damage_is_one_line_and_nothing_is_made(ctxembed, old, tmp_path):
    (old / "chunks.jsonl").write_text((old / "chunks.jsonl").read_text().split("\n", 1)[1])
    done = ctxembed("import", old, "corpus.ctx")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "chunks.jsonl, line 1, is damaged: chunk 1 of 'heron' has no place here" in done.stderr
    assert names_in(tmp_path) == ["old"]


FILES = ["meta.json", "vectors.npy", "chunks.jsonl"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        replace_by_folder,
        replace_by_pipe,
    ],
    ids=["absent", "empty", "not text", "cut", "folder", "pipe"],
)
def test_a_damaged_file_is_named(old, name, damage):
    damage(old / name)
    with pytest.raises(OldOutputError, match=name):
        load(old)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("meta.json", lambda path: path.write_text("[]"), "expected a JSON object, got a list"),
        ("meta.json", lambda path: path.write_text("[" * 100_000), "not JSON"),
        ("meta.json", edit("version", "1"), "'version' must be an integer, got a str"),
        ("meta.json", edit("version", True), "'version' must be an integer, got a bool"),
        ("meta.json", edit("model", None), "no 'model'"),
        ("meta.json", edit("model", ["x"]), "'model' must be a string, got a list"),
        ("meta.json", edit("model", "gpt"), "'gpt'"),
        ("meta.json", edit("dimensions", "1024"), "'dimensions' must be an integer, got a str"),
        ("meta.json", edit("dimensions", -8), "dimensions must be from 128"),
        ("meta.json", edit("dimensions", 10**30), "dimensions must be from 128"),
        ("meta.json", edit("encoding_format", "float"), "'float'"),
        ("meta.json", edit("encoding_format", "base64_binary"), "holds int8"),
        ("meta.json", edit("chunks", 7), "6 vectors, but meta.json says 7"),
        ("meta.json", edit("chunks", None), "no 'chunks'"),
        ("vectors.npy", lambda path: np.save(path, np.zeros((6, 5))), "float64"),
        ("vectors.npy", lambda path: np.save(path, np.zeros((6, 1024), np.int8, order="F")), "vectors.npy"),
        ("vectors.npy", lambda path: np.save(path, np.array([{}] * 6), allow_pickle=True), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(pickle.dumps([1] * 100)), "vectors.npy"),
        ("vectors.npy", archive, "not a file of one array"),
        ("vectors.npy", lambda path: path.write_bytes(header(f"({1 << 62}, 1024)")), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(header("(-6, 1024)")), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(header("(6, 1024")), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(header("6")), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(header("(6, 1024)", "'nonsense'")), "vectors.npy"),
        ("vectors.npy", lambda path: path.write_bytes(path.read_bytes() + b"x"), "expected 6272"),
        ("chunks.jsonl", lambda path: path.write_text("[]\n" * 6), "line 1, is damaged: expected a JSON object"),
        (
            "chunks.jsonl",
            lambda path: path.write_text('{"id": 1, "chunk": 0, "text": "a"}\n' * 6),
            "'id' must be a string",
        ),
        ("chunks.jsonl", lambda path: path.write_text('{"id": "1", "chunk": 0}\n' * 6), "no 'text'"),
        ("chunks.jsonl", lambda path: path.write_bytes(path.read_bytes().replace(b"r", b"\xff", 1)), "not UTF-8"),
    ],
)
def test_damage_says_what_is_wrong(old, name, damage, words):
    damage(old / name)
    with pytest.raises(OldOutputError) as caught:
        load(old)
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_a_pickle_in_an_old_output_is_not_run(old, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (old / "vectors.npy").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(OldOutputError):
        load(old)
    np.save(old / "vectors.npy", np.array([Evil()] * 6), allow_pickle=True)
    with pytest.raises(OldOutputError):
        load(old)
    assert not (tmp_path / "evil").exists()
