"""Documents in JSON Lines."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": [}\n', ["line 2", "not JSON"]),
        ('{"id": 1, "chunks": ["a"]}\n\n{"id": 2}\n', ["line 3", '"chunks"']),
        ('{"id": 1, "chunks": "a"}\n', ["line 1", "list of strings"]),
        ('{"id": 1, "chunks": ["a", 2]}\n', ["line 1", "chunk 1"]),
        ('{"id": true, "chunks": ["a"]}\n', ["line 1", "id"]),
        ('["a"]\n', ["line 1", '"id"']),
        ('{"id": 1, "chunks": ["a"]}\n{"id": "1", "chunks": ["b"]}\n', ["line 2", "line 1", "'1'"]),
        ('{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": ["b", ""]}\n', ["line 2", "chunk 1", "empty"]),
        ('{"id": 1, "chunks": []}\n', ["line 1", "document '1'"]),
        ('{"id": 1, "chunks": ["a\\ud800"]}\n', ["line 1", "chunk 0", "surrogate"]),
        ("", ["no documents"]),
    ],
)
@pytest.mark.parametrize("command", ["embed", "plan"])
def test_invalid_input_is_reported_by_line_before_anything_is_sent(ctxembed, tmp_path, command, text, words):
    (tmp_path / "bad.jsonl").write_text(text)
    arguments = ["bad.jsonl", "out"] if command == "embed" else ["bad.jsonl"]
    done = ctxembed(command, *arguments, PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_invalid_utf8_is_reported_by_line(ctxembed, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b'{"id": 1, "chunks": ["a"]}\n{"id": 2, "chunks": ["\xff"]}\n')
    done = ctxembed("plan", "bad.jsonl")
    assert (done.returncode, "line 2: not UTF-8 at byte 22 of the line" in done.stderr) == (1, True)


def test_utf16_is_rejected(ctxembed, tmp_path):
    (tmp_path / "bad.jsonl").write_bytes('{"id": 1, "chunks": ["a"]}'.encode("utf-16"))
    done = ctxembed("plan", "bad.jsonl")
    assert (done.returncode, "line 1: not UTF-8 at byte 0 of the line" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[\n {"id": "a", "chunks": ["x"]}\n]\n', "line 1: this is one JSON array; expected JSON Lines"),
        ('\n  [{"id": "a", "chunks": ["x"]}]\n', "line 2: this is one JSON array; expected JSON Lines"),
        ("\ufeff[\n]", "line 1: this is one JSON array"),
        ('{\n "id": "a",\n "chunks": ["x"]\n}\n', "line 1: not JSON"),
        ('{\n "id": "a",\n "chunks": ["x"]\n}\n', "a document must be on one line"),
        (f'{{"id": {"9" * 5000}, "chunks": ["a"]}}\n', "line 1: not a document: a number has too many digits"),
        (f'{{"id": 1, "chunks": ["a", {"9" * 5000}]}}\n', "line 1: not a document: a number has too many digits"),
        ('{"id": 1, "chunks": ["a"]}\n' + "[" * 100_000, "line 2: not a document: nested too deep"),
        ('{"id": 1, "chunks": ' + "[" * 900 + "]" * 900 + "}", "line 1: chunk 0 must be a string"),
    ],
)
def test_input_of_another_shape_is_explained(ctxembed, tmp_path, text, words):
    (tmp_path / "bad.jsonl").write_text(text)
    done = ctxembed("plan", "bad.jsonl")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert words in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"id": 1, "chunks": ["a"]}\r\n',
        b'\xef\xbb\xbf\n{"id": 1, "chunks": ["a"]}\n',
        b'{"id": 1, "chunks": ["a"]}\n\xef\xbb\xbf',
    ],
)
def test_a_byte_order_mark_is_no_text(ctxembed, tmp_path, content):
    (tmp_path / "docs.jsonl").write_bytes(content)
    assert json.loads(ctxembed("plan", "docs.jsonl", "--json").stdout)["documents"] == 1
    assert json.loads(ctxembed("plan", "-", "--json", stdin=content).stdout)["documents"] == 1


def test_an_endless_line_is_refused(ctxembed):
    done = ctxembed("plan", "/dev/zero")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "/dev/zero, line 1: longer than 64 MiB" in done.stderr


def test_control_characters_of_ids_are_escaped_in_messages(ctxembed, tmp_path):
    (tmp_path / "docs.jsonl").write_text('{"id": "\\u001b]52;\\u0007\\u202e\\n", "chunks": ["a", ""]}')
    done = ctxembed("plan", "docs.jsonl")
    assert done.returncode == 1
    assert done.stderr.isprintable() or done.stderr.rstrip("\n").isprintable()
    assert "\\x1b]52;\\x07\\u202e\\n" in done.stderr
