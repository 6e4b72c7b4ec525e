"""`ctxembed export`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ctxembed import Collection

from tests.cli.process import names_in

ROWS = [("heron", 0), ("heron", 1), ("rust", 0), ("rust", 1), ("rust", 2), ("7", 0)]


def names_of(path):
    return [(row["id"], row["chunk"]) for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())]


def test_an_export_is_named_with_its_size(ctxembed, collection, tmp_path):
    done = ctxembed("export", collection, "out.npy")
    files = f"{tmp_path / 'out.npy'}, {tmp_path / 'out.npy.jsonl'}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{files}: 6 chunks, vectors as int8\n"
    with Collection.open(collection, read_only=True) as opened:
        assert np.array_equal(np.load(tmp_path / "out.npy"), opened.vectors())
    assert names_of(tmp_path / "out.npy.jsonl") == ROWS


def test_json_and_what_a_format_cannot_hold(ctxembed, collection, tmp_path):
    done = ctxembed("export", collection, "out", "--format", "pgvector", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "format": "pgvector", "vectors": "float16", "chunks": 6,
        "files": [str(tmp_path / "out"), str(tmp_path / "out.sql")], "note": "pgvector has no type of int8 values",
    }  # fmt: skip
    shown = ctxembed("export", collection, "other.pgcopy").stdout
    assert shown.endswith(": 6 chunks, vectors as float16 (pgvector has no type of int8 values)\n")


def test_a_filter_and_other_vectors(ctxembed, collection, tmp_path):
    done = ctxembed("export", collection, "out.npy", "--where", "year = 2020", "--vectors", "bits")
    assert done.returncode == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 128)
    assert names_of(tmp_path / "out.npy.jsonl") == ROWS[:2]


def test_a_target_that_exists_needs_overwrite(ctxembed, collection, tmp_path):
    assert ctxembed("export", collection, "out.npy", "--where", "year = 2020").returncode == 0
    done = ctxembed("export", collection, "out.npy")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "the target exists: --overwrite replaces it" in done.stderr
    assert len(np.load(tmp_path / "out.npy")) == 2
    assert ctxembed("export", collection, "out.npy", "--overwrite").returncode == 0
    assert len(np.load(tmp_path / "out.npy")) == 6


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["out.zip"], 2, "names no format"),
        (["out.npy", "--format", "zip"], 2, "'zip'"),
        (["out.npy", "--vectors", "float64"], 2, "must be 'int8' or 'bits', got 'float64'"),
        (["out.pgcopy", "--vectors", "int8"], 2, "pgvector has no type of int8 values"),
        ([""], 2, "the path is empty"),
        (["absent/out.npy"], 1, "there is no folder to write to"),
        (["out.npy", "--where", "nothing = 1"], 1, "unknown name 'nothing'"),
        (["corpus.ctx/out.npy"], 1, "must not lie in one another"),
    ],
)
def test_errors(ctxembed, collection, tmp_path, arguments, code, words):
    done = ctxembed("export", collection, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == ["corpus.ctx"]
    assert not [name for name in names_in(collection) if name.startswith(("out", ".ctxembed-export"))]
    error = json.loads(ctxembed("export", collection, *arguments, "--json").stderr)
    assert words in error["message"]


def test_progress_is_a_line_now_and_then(collection, tmp_path, monkeypatch, capsys):
    from ctxembed._cli import export_command

    show = export_command._progress(tmp_path / "out.npy")
    show(5)
    monkeypatch.setattr(export_command, "_EVERY", 0.0)
    show(1_200)
    assert capsys.readouterr().err == f"{tmp_path / 'out.npy'}: 1,200 chunks so far\n"


def test_what_is_no_collection_is_one_line(ctxembed, tmp_path):
    done = ctxembed("export", "absent", "out.npy")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
