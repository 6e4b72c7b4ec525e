"""What `ctxembed embed` reads: see tests/jobs for each kind of input."""

from __future__ import annotations

import json

from ctxembed import Collection

from tests.cli.process import DOCUMENTS, ids_of


def test_files_folders_patterns_and_stdin_are_read_together(ctxembed, lines, tmp_path):
    (tmp_path / "texts" / "sub").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_text("A text.")
    (tmp_path / "texts" / "sub" / "b.md").write_text("# Title\n\nBody.")
    (tmp_path / "texts" / ".hidden.txt").write_text("x")
    (tmp_path / "rows.csv").write_text("id,text,lang\nrow,Some text.,en\n")
    done = ctxembed("embed", lines, "texts", "*.csv", "-", "corpus.ctx", stdin='{"id": "in", "chunks": ["a"]}\n')
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("skipped: 1 hidden\ncorpus.ctx: 7 added")
    assert ids_of(tmp_path / "corpus.ctx") == ["heron", "rust", "7", "a.txt", "sub/b.md", "row", "in"]
    with Collection.open(tmp_path / "corpus.ctx") as made:
        assert made.get("a.txt").spans == [(0, 7)]
        assert made.get("row").metadata == {"lang": "en"}


def test_fields_are_named_by_options(ctxembed, tmp_path):
    record = {"key": 5, "body": "A text to cut. " * 50, "lang": "en", "other": 1}
    (tmp_path / "docs.jsonl").write_text(json.dumps(record))
    options = ("--id-field", "key", "--text-field", "body", "--metadata-field", "lang")
    cut = ("--chunk-tokens", "40", "--chunk-overlap", "10")
    assert ctxembed("embed", "docs.jsonl", "corpus.ctx", *options, *cut).returncode == 0
    with Collection.open(tmp_path / "corpus.ctx") as made:
        document = made.get("5")
    assert document.metadata == {"lang": "en"}
    assert len(document.chunks) > 5
    assert [record["body"][start:stop] for start, stop in document.spans] == document.chunks
    assert document.spans[1][0] < document.spans[0][1]


def test_inputs_are_checked_before_the_collection_is_made(ctxembed, lines, tmp_path):
    for wrong in ("absent.jsonl", "*.nothing", "/dev/zero"):
        done = ctxembed("embed", lines, wrong, "corpus.ctx")
        assert (done.returncode, wrong in done.stderr, len(done.stderr.splitlines())) == (1, True, 1)
    assert not (tmp_path / "corpus.ctx").exists()


def test_an_input_without_documents_is_an_error(ctxembed, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.pdf").touch()
    done = ctxembed("embed", "texts", "corpus.ctx")
    assert done.returncode == 1
    assert "skipped: 1 file of other kinds (1 .pdf)" in done.stderr
    assert done.stderr.endswith("error: no documents in texts\n")


def test_a_lone_surrogate_in_an_id_is_rejected_with_its_place(ctxembed, tmp_path):
    (tmp_path / "docs.jsonl").write_text('{"id": "a\\ud83d", "chunks": ["x"]}\n' + json.dumps(DOCUMENTS[0]))
    assert ctxembed("embed", "docs.jsonl", "corpus.ctx").returncode == 1
    assert ids_of(tmp_path / "corpus.ctx") == ["heron"]
    assert '"docs.jsonl, line 1"' in (tmp_path / "corpus.ctx.rejects.jsonl").read_text()
