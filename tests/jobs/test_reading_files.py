"""Text, Markdown and HTML files, folders, patterns, pipes and stdin."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import pytest
from ctxembed._jobs.reading import InputDocument, ReadOptions, Rejected, open_inputs, texts
from ctxembed._jobs.reading.html import text_of_html

from tests.cli.process import command
from tests.jobs.conftest import documents, read, rejected

# --- text and Markdown ---


@pytest.mark.parametrize(
    "name", ["a.txt", "a.text", "a.rst", "a.log", "a.md", "a.markdown", "a.mdx", "a.py", "LICENSE"]
)
def test_a_text_file_is_a_document_with_spans(write, name):
    text = "# Title\r\n\r\n" + "A sentence of some words. " * 60
    (document,) = documents(write(f"sub/{name}", "\ufeff" + text), chunk_tokens=40, chunk_overlap=8)
    place = f"sub/{name}"
    assert (document.id, document.source, document.place, document.metadata) == (place, place, place, None)
    assert len(document.chunks) > 3
    assert [text[start:end] for start, end in document.spans] == document.chunks


def test_markdown_is_cut_at_headings_and_front_matter_is_text(write):
    text = "---\nlang: en\n---\n\n# One\n\na b c d\n\n# Two\n\ne f g h"
    count = {"token_counter": lambda texts: [len(text.split()) for text in texts], "chunk_tokens": 6}
    assert [document.chunks for document in documents(write("a.md", text), **count)] == [
        ["---\nlang: en\n---", "# One\n\na b c d", "# Two\n\ne f g h"]
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
@pytest.mark.parametrize("content", ["", " \n", "\ufeff", "\ufeff\ufeff\r\n"])
def test_a_file_without_text_is_skipped(write, name, content):
    inputs = open_inputs([write(name, content)], ReadOptions())
    assert ([*inputs], inputs.skipped.empty) == ([], 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"caf\xe9", "not UTF-8 at byte 3"), (b"a\0b", "not text: a NUL at byte 1"), ("a".encode("utf-16"), "UTF-16")],
)
def test_a_file_that_is_not_text_is_rejected_alone(write, content, words):
    write("d/a.txt", content)
    write("d/b.txt")
    first, second = read("d")
    assert (first.place, first.id, words in first.reason) == ("d/a.txt", "a.txt", True)
    assert second.id == "b.txt"


def test_a_file_of_more_than_the_limit_is_rejected(write, monkeypatch):
    monkeypatch.setattr(texts, "MAX_RECORD", 100)
    assert "longer than" in rejected(write("a.txt", "x" * 101)).reason


# --- HTML ---


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one<p>two", "one\n\ntwo"),
        ("<h1>T</h1>one <b>two</b>three<div>four</div>five", "T\n\none twothree\n\nfour\n\nfive"),
        ("a&amp;b &eacute;&#8364;&nbsp;c", "a&b é€\xa0c"),
        ("one\n  two<br>three<br><br>four", "one two\nthree\n\nfour"),
        ("<script>x</script><style>y</style><template><p>z</p></template><!-- c -->one", "one"),
        ("<ul><li>one<li>two</ul>three", "one\ntwo\n\nthree"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a b\n1 2"),
        ("x<pre>\n  one\n    two\n</pre>y", "x\n\n  one\n    two\n\ny"),
        ("<p> </p><div><div>one</div></div><p></p>", "one"),
        ("<div>" * 20_000 + "deep" + "</div>" * 20_000, "deep"),
        ("<p>one</p> <p>two <i> three</i> four</p>", "one\n\ntwo three four"),
        ("one<hr>two", "one\n\ntwo"),
        ("plain", "plain"),
    ],
)
def test_the_text_of_html_has_the_paragraphs_of_its_blocks(page, text):
    assert text_of_html(page.encode())[1] == text


def test_the_title_of_html_is_metadata(write):
    page = "<!doctype html><html><head><title> A &amp;\n B </title><meta name=x content=y></head><body><p>one</p>"
    (document,) = documents(write("a.html", page))
    assert (document.chunks, document.metadata, document.spans) == (["one"], {"title": "A & B"}, [(0, 3)])
    assert documents(write("b.htm", "<p>one"))[0].metadata is None


@pytest.mark.parametrize(
    "content",
    [
        "<p>café €".encode(),
        b"\xef\xbb\xbf" + "<p>café €".encode(),
        "<meta charset=latin1><p>café €".encode("cp1252"),
        '<META http-equiv="Content-Type" content="text/html; charset=windows-1252"><p>café €'.encode("cp1252"),
        "<p>café €".encode("utf-16"),
        b"\xfe\xff" + "<p>café €".encode("utf-16-be"),
        '<meta charset="utf-16"><p>café €'.encode(),
        '<meta charset="utf-8"><p>café €'.encode(),
    ],
)
def test_the_charset_of_html_is_that_of_its_mark_or_its_meta_element(content):
    assert text_of_html(content)[1] == "café €"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<p>caf\xe9", "not UTF-8 at byte 6"),
        (b"<meta charset=martian><p>x", "its charset 'martian' is unknown"),
        (b"<meta charset=unicode_escape><p>x", "its charset 'unicode_escape' is unknown"),
        (b"<meta charset=hex><p>x", "its charset 'hex' is unknown"),
        (b"<p>x\0", "not text: a NUL at character 4"),
    ],
)
def test_html_of_another_charset_is_rejected(write, content, words):
    assert words in rejected(write("a.html", content)).reason


# --- folders ---


def test_a_folder_is_read_by_the_kinds_of_its_files(write):
    write("d/a.txt")
    write("d/sub/b.md")
    write("d/c.html", "<p>x")
    write("d/d.jsonl", '{"id": 1, "chunks": ["x"]}\n')
    write("d/e.CSV", "id,text\n2,x\n")
    for name in ("d/package.json", "d/x.log", "d/x.bin", "d/.hidden/a.txt", "d/node_modules/a.txt"):
        write(name)
    inputs = open_inputs(["d"], ReadOptions())
    found = [(item.id, item.source) for item in inputs]
    assert found == [
        ("a.txt", "d/a.txt"), ("c.html", "d/c.html"), ("1", None), ("2", None), ("sub/b.md", "d/sub/b.md"),
    ]  # fmt: skip
    assert inputs.skipped.to_dict()["suffixes"] == {".bin": 1, ".json": 1, ".log": 1}
    assert (inputs.skipped.hidden, inputs.skipped.node_modules) == (1, 1)


@pytest.mark.parametrize("follow", [True, False])
def test_links_out_of_a_folder_are_read_on_request(write, tmp_path, follow):
    write("d/a.txt")
    write("other/b.txt")
    (tmp_path / "d" / "link").symlink_to("../other")
    (tmp_path / "d" / "loop").symlink_to(".")
    inputs = open_inputs(["d"], ReadOptions(follow_links=follow))
    assert [item.id for item in inputs] == ["a.txt", *(["link/b.txt"] if follow else [])]
    assert (inputs.skipped.links, inputs.skipped.repeated) == (0 if follow else 1, 1)


def test_entries_that_cannot_be_read_are_rejected_in_place(write, tmp_path):
    write("d/a.txt")
    (tmp_path / "d" / "b.txt").symlink_to("absent")
    os.mkfifo(tmp_path / "d" / "c.txt")
    write("d/e.txt")
    assert [(item.place, getattr(item, "reason", None)) for item in read("d")] == [
        ("d/a.txt", None), ("d/b.txt", "a link to absent, which is not there"),
        ("d/c.txt", "not a regular file"), ("d/e.txt", None),
    ]  # fmt: skip


def test_a_folder_and_a_file_that_may_not_be_read_are_rejected(write, tmp_path):
    for name in ("d/a.txt", "d/b/c.txt", "d/e.txt"):
        write(name)
    (tmp_path / "d" / "a.txt").chmod(0)
    (tmp_path / "d" / "b").chmod(0)
    script = (
        "from ctxembed._jobs.reading import *\n"
        "for item in open_inputs(['d'], ReadOptions()): print(item.place, getattr(item, 'reason', 'read'))"
    )
    prefix = command(unprivileged=True)[:-3]
    try:
        done = subprocess.run([*prefix, sys.executable, "-c", script], capture_output=True, text=True, check=True)
    finally:
        (tmp_path / "d" / "b").chmod(0o700)
    assert done.stdout.splitlines() == ["d/a.txt Permission denied", "d/b Permission denied", "d/e.txt read"]


def test_a_file_that_goes_away_is_rejected(write, tmp_path):
    write("d/a.txt")
    write("d/b.txt")
    write("d/c.jsonl", "{}")
    inputs = open_inputs(["d", "d/c.jsonl"], ReadOptions())
    assert next(inputs).id == "a.txt"
    (tmp_path / "d" / "b.txt").unlink()
    (tmp_path / "d" / "c.jsonl").unlink()
    assert [item.reason for item in inputs] == ["No such file or directory"] * 3


def test_names_that_are_not_utf8_are_escaped_in_ids(write, tmp_path):
    name = os.fsdecode(b"b\xff.txt")
    write(f"d/{name}")
    assert [document.id for document in documents("d", f"d/{name}")] == ["b\\xff.txt", "d/b\\xff.txt"]


# --- patterns ---


@pytest.fixture
def tree(write):
    for name in (
        "a.txt",
        "b.md",
        "x.bin",
        "sub/c.txt",
        "sub/deep/d.txt",
        ".hidden/e.txt",
        "node_modules/f.txt",
        "g[1].txt",
    ):
        write(f"d/{name}")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("d/*.txt", ["a.txt", "g[1].txt"]),
        ("d/**/*.txt", ["a.txt", "g[1].txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("d/**", None),
        ("d/*/c.txt", ["sub/c.txt"]),
        ("d/[ab].*", ["a.txt", "b.md"]),
        ("d/?.txt", ["a.txt"]),
        ("d/.h*/*", [".hidden/e.txt"]),
        ("d/node_modules/*", ["node_modules/f.txt"]),
        ("d/g[1].txt", ["g[1].txt"]),
        ("d/*.bin", ["x.bin"]),
        ("d/x*", None),
        ("**/deep/*", ["sub/deep/d.txt"]),
        ("d/*.pdf", None),
    ],
)
def test_a_pattern_stands_for_the_files_that_match(tree, pattern, names):
    if names is None:
        with pytest.raises(ValueError, match="no such file, and as a pattern it matches none"):
            open_inputs([pattern], ReadOptions())
    else:
        assert [document.id for document in documents(pattern)] == [f"d/{name}" for name in names]


def test_a_pattern_does_not_walk_into_loops_of_links(write, tmp_path):
    write("d/a.txt")
    for name in ("one", "two"):
        (tmp_path / "d" / name).symlink_to(".")
    assert [document.id for document in documents("d/**/*.txt")] == ["d/a.txt"]


def test_matches_of_unknown_kinds_are_counted(tree):
    inputs = open_inputs(["d/*"], ReadOptions())
    assert [item.id for item in inputs] == ["d/a.txt", "d/b.md", "d/g[1].txt"]
    assert dict(inputs.skipped.suffixes) == {".bin": 1}


def test_a_pattern_that_is_absolute(tree, tmp_path):
    assert [document.id for document in documents(f"{tmp_path}/d/a*")] == [f"{tmp_path.as_posix()}/d/a.txt"]


# --- pipes and stdin ---


def test_stdin_has_json_lines(write):
    inputs = open_inputs(["-", write("a.txt")], ReadOptions(), io.BytesIO(b'{"id": 1, "chunks": ["x"]}\n{'))
    assert inputs.total_bytes is None
    first, second, third = inputs
    assert (first.place, second.place, third.place) == ("stdin, line 1", "stdin, line 2", "a.txt")
    assert inputs.bytes_read > 27


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_pipe_is_read_as_its_suffix_says(write, tmp_path, name):
    write("folder/x")
    os.mkfifo(tmp_path / name)
    content = {"a.jsonl": '{"id": 1, "text": "x"}', "a.json": '[{"id": 1, "text": "x"}]', "a.csv": "id,text\n1,x"}
    writer = threading.Thread(target=(tmp_path / name).write_text, args=(content.get(name, "x"),))
    inputs = open_inputs([name], ReadOptions())
    writer.start()
    try:
        assert [item.chunks for item in inputs] == [["x"]]
    finally:
        writer.join()
    assert inputs.total_bytes is None


# --- what is refused before anything is read ---


@pytest.mark.parametrize(
    ("sources", "error", "words"),
    [
        ([], ValueError, "there is no input"),
        ([""], ValueError, "an input is empty"),
        (["good.txt", "absent.txt"], FileNotFoundError, "absent.txt"),
        (["good.txt", "absent*.txt"], ValueError, r"absent\*.txt: no such file"),
        (["/dev/null"], ValueError, "/dev/null: not a file, a folder or a pipe"),
        (["-", "good.txt", "-"], ValueError, r"stdin \(-\) is named twice"),
        (["pipe.parquet"], ValueError, "pipe.parquet: a Parquet file cannot be read from a pipe"),
        ("good.txt", TypeError, "sources must be a sequence of str"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_read(write, tmp_path, sources, error, words):
    write("good.txt")
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(error, match=words):
        open_inputs(sources, ReadOptions(), io.BytesIO())


@pytest.mark.parametrize("stdin", [None, "closed"])
def test_a_closed_stdin_is_refused(stdin):
    stream = io.BytesIO()
    stream.close()
    with pytest.raises(ValueError, match="stdin is closed: nothing to read"):
        open_inputs(["-"], ReadOptions(), stream if stdin else None)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("a.txt", "semantic_text_splitter", "chunk"),
        ("d/a.md", "semantic_text_splitter", "chunk"),
        ("a.html", "selectolax.lexbor", "html"),
        ("a.parquet", "pyarrow.parquet", "arrow"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_read(write, monkeypatch, name, module, extra):
    source = write(name).partition("/")[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module.partition('.')[0]}: pip install 'ctxembed\[{extra}\]'"):
        open_inputs([source], ReadOptions())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"id_field": ""}, ValueError, "id_field must be the name of a field, got ''"),
        ({"text_field": "source"}, ValueError, "text_field cannot be 'source'"),
        ({"text_field": "id"}, ValueError, "the fields must differ"),
        ({"metadata_fields": "year"}, TypeError, "metadata_fields must be a tuple of str, got 'year'"),
        ({"metadata_fields": ("year", "id")}, ValueError, "metadata_fields cannot have 'id'"),
        ({"metadata_fields": ("source",)}, ValueError, "metadata_fields cannot have 'source'"),
        ({"metadata_fields": (3,)}, ValueError, "metadata_fields must be names of fields, got 3"),
        ({"chunk_tokens": 0}, ValueError, "chunk_tokens must be at least 1"),
        ({"chunk_overlap": 256}, ValueError, "chunk_overlap must be less than chunk_tokens = 256"),
        ({"token_counter": 3}, TypeError, "token_counter must"),
        ({"unknown": 3}, TypeError, "unknown"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        ReadOptions(**options)


def test_closing_ends_the_input(write):
    with open_inputs([write("a.jsonl", '{"id": 1, "chunks": ["x"]}\n' * 3)], ReadOptions()) as inputs:
        assert isinstance(next(inputs), InputDocument)
    assert [*inputs] == []


def test_a_rejected_item_is_frozen():
    item = Rejected("a", "b")
    with pytest.raises(AttributeError):
        item.id = "b"
    assert str(item) == "a: b"


def test_a_record_with_a_text_names_the_missing_package(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    inputs = open_inputs([write("a.jsonl", '{"id": 1, "chunks": ["x"]}\n{"id": 2, "text": "x"}')], ReadOptions())
    assert next(inputs).id == "1"
    with pytest.raises(ImportError, match=r"ctxembed\[chunk\]"):
        next(inputs)
