"""`ctxembed search`."""

from __future__ import annotations

import json
import os
import pickle
import subprocess

import numpy as np
import pytest

from tests.cli.process import command, write_documents


@pytest.mark.parametrize("encoding", ["base64_int8", "base64_binary"])
def test_search_finds_the_chunk_about_a_question(ctxembed, lines, encoding):
    assert ctxembed("embed", lines, "out", "--encoding-format", encoding, "--dimensions", "512").returncode == 0
    done = ctxembed("search", "out", "who caught a fish?", "bread and flour", "-k", "2")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "who caught a fish?"
    assert "heron[1]  It caught a silver fish." in shown[1]
    assert "7[0]  Bread needs flour" in shown[4]
    as_json = ctxembed("search", "out", "who caught a fish?", "-k", "1", "--json")
    found = json.loads(as_json.stdout)
    assert found["hits"][0]["id"] == "heron"


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("meta.json", lambda p: p.unlink(), "meta.json"),
        ("meta.json", lambda p: p.write_text("{"), "damaged"),
        ("meta.json", lambda p: p.write_text(p.read_text().replace('"version": 1', '"version": 99')), "99"),
        ("vectors.npy", lambda p: p.write_bytes(p.read_bytes()[:-100]), "vectors.npy"),
        ("vectors.npy", lambda p: np.save(p, np.zeros((6, 5))), "float64"),
        ("chunks.jsonl", lambda p: p.write_text(p.read_text() + "{}\n"), "line 7"),
        ("chunks.jsonl", lambda p: p.write_text(p.read_text().split("\n", 1)[1]), "5 lines"),
    ],
)
def test_a_damaged_folder_is_reported_by_file(ctxembed, lines, tmp_path, name, damage, words):
    assert ctxembed("embed", lines, "out").returncode == 0
    damage(tmp_path / "out" / name)
    done = ctxembed("search", "out", "q")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_hits_are_shown_without_control_characters(ctxembed, tmp_path):
    texts = ["\x1b]52;c;cm0gLXJm\x07 \x1b[2J evil \x9b31m", "evil \u202etxt.exe\u2066 \x7f", "evil\u2028line"]
    documents = [{"id": f"i\x1b[{n}m\n", "chunks": [text]} for n, text in enumerate(texts)]
    write_documents(tmp_path / "docs.jsonl", documents)
    assert ctxembed("embed", "docs.jsonl", "out").returncode == 0
    done = ctxembed("search", "out", "evil \x1b[2J")
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "i\\x1b[0m\\n[0]  \\x1b]52;c;cm0gLXJm\\x07 \\x1b[2J evil \\x9b31m" in done.stdout
    found = ctxembed("search", "out", "evil", "--json").stdout
    assert found.isascii()
    assert {hit["text"] for hit in json.loads(found)["hits"]} == set(texts)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_hits_are_shown_on_a_terminal_of_any_encoding(process_environment, tmp_path, encoding, ctxembed):
    write_documents(tmp_path / "docs.jsonl", [{"id": "caf\xe9", "chunks": ["caf\xe9 \u65e5\u672c \U0001f600"]}])
    assert ctxembed("embed", "docs.jsonl", "out").returncode == 0
    for options in ([], ["--json"]):
        done = subprocess.run(
            command("search", "out", "q", *options),
            env={**process_environment, "PYTHONIOENCODING": encoding},
            cwd=tmp_path, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"caf" in done.stdout
        assert done.stdout.isascii() or not options


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ([""], "the query is empty"),
        (["a", ""], "query 2 is empty"),
        ([b"caf\xe9"], "the query is not UTF-8"),
    ],
)
def test_an_invalid_query_is_an_error_of_usage(ctxembed, output, queries, words):
    done = ctxembed("search", output, *map(os.fsdecode, queries), PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_query_that_the_api_would_refuse_is_called_a_query(ctxembed, output):
    done = ctxembed("search", output, "a", "b<|endoftext|>c")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("error: query 2: ")


def test_a_refused_connection_is_one_clear_line(ctxembed, output):
    done = ctxembed("search", output, "q", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the query was not embedded: cannot connect to http://127.0.0.1:9: connection refused\n"
    )


def test_more_hits_than_chunks_are_all_chunks(ctxembed, output):
    done = ctxembed("search", output, "q", "-k", "99999999999999999999999", "--json")
    assert len(json.loads(done.stdout)["hits"]) == 6


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


FILES = ["meta.json", "vectors.npy", "chunks.jsonl"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.chmod(0),
        replace_by_folder,
        replace_by_pipe,
    ],
    ids=["absent", "empty", "not text", "cut", "closed", "folder", "pipe"],
)
def test_a_damaged_file_is_named_before_the_query_is_paid(ctxembed, output, name, damage):
    damage(output / name)
    done = ctxembed("search", output, "q", unprivileged=True, PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert name in done.stderr


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
def test_damage_is_one_line_that_says_what_is_wrong(ctxembed, output, name, damage, words):
    damage(output / name)
    done = ctxembed("search", output, "q", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert name in done.stderr
    assert words in done.stderr


def test_a_pickle_in_an_output_is_not_run(ctxembed, output, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (output / "vectors.npy").write_bytes(pickle.dumps(Evil()))
    assert ctxembed("search", output, "q").returncode == 1
    np.save(output / "vectors.npy", np.array([Evil()] * 6), allow_pickle=True)
    assert ctxembed("search", output, "q").returncode == 1
    assert not (tmp_path / "evil").exists()
