"""Documents in a folder of text files."""

from __future__ import annotations

import json
import os

import pytest


def test_a_text_file_is_a_document_of_paragraphs(ctxembed, tmp_path):
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("first\n\nsecond,\nstill second\n \n\nthird\n")
    (folder / "sub" / "b.md").write_text("only")
    (folder / "empty.txt").write_text("\n\n")
    (folder / "ignored.bin").write_bytes(b"\xff\xfe")
    assert ctxembed("embed", folder, "out").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [
        ("a.txt", "first"), ("a.txt", "second,\nstill second"), ("a.txt", "third"), ("sub/b.md", "only"),
    ]  # fmt: skip


def planned(ctxembed, *args, **extra):
    """Return the JSON of a plan, which must have no problems."""
    done = ctxembed("plan", *args, "--json", **extra)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def ids_of(ctxembed, tmp_path, *args):
    assert ctxembed("embed", *args, "out").returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()]
    return [row["id"] for row in rows]


@pytest.fixture
def folder(tmp_path):
    """A folder with one document, `a.md`."""
    path = tmp_path / "texts"
    path.mkdir()
    (path / "a.md").write_text("one")
    return path


def write(path, content="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


HIDDEN = [
    ".git/C.txt",
    ".env.txt",
    "._a.md",
    "sub/.cache/deep/x.md",
    "node_modules/x/README.md",
    "sub/node_modules/y.md",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_names_and_node_modules_are_left_out_and_counted(ctxembed, folder, name):
    write(folder / name)
    shown = planned(ctxembed, folder)
    assert (shown["documents"], shown["skipped"]["hidden"] + shown["skipped"]["node_modules"]) == (1, 1)
    done = ctxembed("plan", folder)
    assert done.stderr == ("skipped: 1 node_modules\n" if "node_modules" in name else "skipped: 1 hidden\n")


@pytest.mark.parametrize("root", [".", ".hidden", "node_modules", "link"])
def test_the_folder_itself_may_have_any_name(ctxembed, tmp_path, root):
    write(tmp_path / root / "a.md") if root != "link" else write(tmp_path / "target" / "a.md")
    if root == "link":
        (tmp_path / "link").symlink_to("target")
    assert planned(ctxembed, root)["documents"] == 1


def test_other_kinds_of_files_are_counted_by_suffix(ctxembed, folder):
    for name in ("b.html", "c.HTML", "d.pdf", "LICENSE", "e.markdown", "f.rst", "g.TXT", "h.mdx", "i.text"):
        write(folder / name)
    done = ctxembed("plan", folder)
    assert done.stdout.startswith("6 documents, 6 chunks\n")
    assert done.stderr == "skipped: 4 files of other kinds (2 .html, 1 without suffix, 1 .pdf)\n"
    assert planned(ctxembed, folder)["skipped"]["suffixes"] == {"": 1, ".html": 2, ".pdf": 1}


def test_a_folder_without_text_files_says_what_it_holds(ctxembed, tmp_path):
    write(tmp_path / "texts" / "a.pdf")
    done = ctxembed("plan", "texts")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no documents" in done.stderr
    assert "skipped: 1 file of other kinds (1 .pdf)" in done.stderr


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff", "\ufeff\r\n\r\n", "\ufeff\ufeff \n"])
def test_a_file_without_text_is_skipped_and_counted(ctxembed, folder, content):
    write(folder / "empty.txt", content)
    shown = planned(ctxembed, folder)
    assert (shown["documents"], shown["skipped"]["empty"]) == (1, 1)


@pytest.mark.parametrize("content", ["\ufeff# Title\r\n\r\nBody.\r\n", "# Title\r\r\ufeffBody."])
def test_a_byte_order_mark_is_no_text(ctxembed, tmp_path, content):
    write(tmp_path / "texts" / "a.md", content)
    assert ctxembed("embed", "texts", "out").returncode == 0
    rows = (tmp_path / "out" / "chunks.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in rows] == ["# Title", "Body."]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff\0t", "UTF-16"),
        ("text".encode("utf-32"), "UTF-16"),
        ("text".encode("utf-16-le"), "NUL at byte 1"),
        (b"caf\xe9", "not UTF-8 at byte 3"),
    ],
)
def test_a_file_that_is_not_utf8_is_named_before_anything_is_paid(ctxembed, folder, content, words):
    write(folder / "sub" / "b.txt", content)
    done = ctxembed("embed", folder, "out", PERPLEXITY_BASE_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "b.txt" in done.stderr
    assert words in done.stderr


def close_file(folder):
    write(folder / "b.txt")
    (folder / "b.txt").chmod(0)


def close_folder(folder):
    write(folder / "b" / "c.txt")
    (folder / "b").chmod(0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (close_file, "b.txt: Permission denied"),
        (close_folder, "b: Permission denied"),
        (lambda folder: (folder / "b.txt").symlink_to("absent"), "b.txt: a link to absent, which is not there"),
        (lambda folder: (folder / "b").symlink_to("/absent/b"), "b: a link to /absent/b, which is not there"),
        (lambda folder: (folder / "b.txt").symlink_to("b.txt"), "b.txt: Too many levels of symbolic links"),
        (lambda folder: os.mkfifo(folder / "b.txt"), "b.txt: not a regular file"),
        (lambda folder: os.mkfifo(folder / "b"), "b: not a regular file"),
    ],
)
def test_what_cannot_be_read_is_named(ctxembed, folder, make, words):
    make(folder)
    try:
        done = ctxembed("plan", folder, unprivileged=True)
    finally:
        if (folder / "b").is_dir():
            (folder / "b").chmod(0o700)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert words in done.stderr


def test_everything_that_cannot_be_read_is_named_at_once(ctxembed, folder):
    for number in range(12):
        write(folder / f"b{number:02}.txt", b"\xff")
    done = ctxembed("plan", folder)
    assert "b00.txt: not UTF-8" in done.stderr
    assert "b09.txt: not UTF-8" in done.stderr
    assert "and 2 more" in done.stderr


def test_a_link_that_leads_out_is_followed_on_request_only(ctxembed, folder, tmp_path):
    write(tmp_path / "other" / "b.md")
    write(tmp_path / "other" / "sub" / "c.md")
    (folder / "file.md").symlink_to("../other/b.md")
    (folder / "linked").symlink_to("../other")
    done = ctxembed("plan", folder)
    assert done.stdout.startswith("1 document, 1 chunk\n")
    assert done.stderr == "skipped: 2 symlinks out of the folder (--follow-links reads them)\n"
    assert ids_of(ctxembed, tmp_path, folder, "--follow-links") == [
        "a.md", "file.md", "linked/b.md", "linked/sub/c.md",
    ]  # fmt: skip


def test_loops_of_links_end(ctxembed, folder, tmp_path):
    write(tmp_path / "other" / "b.md")
    (folder / "loop").symlink_to(".")
    (folder / "above").symlink_to("..")
    (folder / "other").symlink_to("../other")
    (folder / "twice").symlink_to("../other")
    (tmp_path / "other" / "back").symlink_to("../texts")
    (tmp_path / "other" / "self").symlink_to(".")
    assert planned(ctxembed, folder)["documents"] == 1
    shown = planned(ctxembed, folder, "--follow-links")
    assert (shown["documents"], shown["skipped"]["repeated"]) == (2, 5)


def test_links_into_a_hidden_folder_are_followed(ctxembed, folder, tmp_path):
    """As in a mounted ConfigMap, whose files are links into a hidden folder."""
    write(folder / "..data" / "b.md")
    write(folder / "..data" / "sub" / "c.md")
    (folder / "b.md").symlink_to("..data/b.md")
    (folder / "sub").symlink_to("..data/sub")
    assert ids_of(ctxembed, tmp_path, folder) == ["a.md", "b.md", "sub/c.md"]


def test_documents_are_sorted_by_path(ctxembed, tmp_path):
    names = [
        "b.md",
        "B.md",
        "a/z.md",
        "a-b.md",
        "\xe9.md",
        "z.md",
        "a/b/c.md",
        "\U0001f600.md",
        "10.md",
        "9.md",
        "\uff5e.md",
    ]
    for name in names:
        write(tmp_path / "texts" / name)
    assert ids_of(ctxembed, tmp_path, "texts") == sorted(names, key=lambda name: name.encode().split(b"/"))


def test_a_name_that_is_not_utf8_is_escaped_in_the_id(ctxembed, folder, tmp_path):
    (folder / os.fsdecode(b"b\xff.txt")).write_text("two")
    assert ids_of(ctxembed, tmp_path, folder) == ["a.md", "b\\xff.txt"]


def test_control_characters_of_names_are_escaped_in_messages(ctxembed, folder):
    write(folder / "b\n\x1b[31m.txt", b"\xff")
    write(folder / "c.\x1b\u202e")
    done = ctxembed("plan", folder)
    assert "b\\n\\x1b[31m.txt: not UTF-8" in done.stderr
    (folder / "b\n\x1b[31m.txt").unlink()
    assert "1 .\\x1b\\u202e" in ctxembed("plan", folder).stderr


def test_folders_may_be_nested_deep(ctxembed, folder):
    nested = folder
    for _ in range(300):
        nested = nested / "d"
    write(nested / "b.md")
    assert planned(ctxembed, folder)["documents"] == 2
