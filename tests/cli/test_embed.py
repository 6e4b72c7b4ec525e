"""`ctxembed embed`: the collection that it makes, what it refuses, and what it tells."""

from __future__ import annotations

import json
import os

import pytest
from ctxembed import Collection, Limits

from tests.cli.process import (
    DOCUMENTS,
    LONG_DOCUMENTS,
    TOKENIZER,
    ids_of,
    json_lines,
    names_in,
    needs_tokenizer,
    paid_of,
    set_plan,
    write_documents,
)

REJECTED = "corpus.ctx.rejects.jsonl"


def test_embed_makes_a_collection(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "corpus.ctx")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("corpus.ctx: 3 added, 0 unchanged (1 request, ")
    with Collection.open(tmp_path / "corpus.ctx") as made:
        assert (len(made), made.stats().chunks, made.dimensions) == (3, 6, 1024)
        assert made.get("heron").metadata == {"year": 2020}
    assert names_in(tmp_path) == ["corpus.ctx", "docs.jsonl"]


def test_the_same_command_again_sends_nothing(ctxembed, lines, collection, server):
    before = paid_of(server)
    done = ctxembed("embed", lines, collection, "--model", "pplx-embed-context-v1-0.6b", "--dimensions", "1024")
    assert (done.returncode, "0 added, 3 unchanged (nothing was sent)" in done.stderr) == (0, True)
    assert paid_of(server) == before


def test_options_apply_to_a_new_collection(ctxembed, lines, tmp_path):
    options = ("--dimensions", "128", "--encoding-format", "base64_binary", "--concurrency", "1", "--max-retries", "0")
    assert ctxembed("embed", lines, "b", *options, "--requests-per-minute", "600").returncode == 0
    with Collection.open(tmp_path / "b") as made:
        assert (made.dimensions, made.encoding_format) == (128, "base64_binary")


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "pplx-embed-context-v1-4b"),
        ("--dimensions", "128"),
        ("--encoding-format", "base64_binary"),
    ],
)
def test_options_that_differ_from_the_collection_are_an_error_of_usage(ctxembed, lines, collection, server, options):
    before = paid_of(server)
    for more in ([], ["--dry-run"]):
        done = ctxembed("embed", lines, collection, *options, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"was made with {options[0]}" in done.stderr
    assert paid_of(server) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--force"], "there is no --force"),
        (["--max-cost", "nan"], "--max-cost"),
        (["--max-errors", "-1"], "--max-errors"),
        (["--max-wait", "inf"], "--max-wait"),
        (["--requests-per-minute", "0"], "--requests-per-minute"),
        (["--chunk-overlap", "999"], "--chunk-overlap must be less than --chunk-tokens"),
        (["--id-field", "text"], "fields must differ"),
    ],
)
def test_a_wrong_option_is_an_error_of_usage(ctxembed, lines, tmp_path, options, words):
    done = ctxembed("embed", lines, "corpus.ctx", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "corpus.ctx").exists()


def test_other_folders_are_never_written_to(ctxembed, lines, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "diary.txt").write_text("dear diary")
    done = ctxembed("embed", lines, "precious")
    assert (done.returncode, "is not empty, and no collection" in done.stderr) == (1, True)
    assert names_in(tmp_path / "precious") == ["diary.txt"]
    (tmp_path / "old").mkdir()
    for name in ("vectors.npy", "meta.json"):
        (tmp_path / "old" / name).touch()
    done = ctxembed("embed", lines, "old")
    assert (done.returncode, "`ctxembed import " in done.stderr) == (1, True)


def test_a_symbolic_link_is_followed(ctxembed, lines, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert ctxembed("embed", lines, "link").returncode == 0
    assert (tmp_path / "link").is_symlink()
    assert len(ids_of(tmp_path / "real")) == 3


def test_a_second_writer_is_refused_and_told_who_writes(ctxembed, lines, collection):
    with Collection.open(collection):
        done = ctxembed("embed", lines, collection)
    assert (done.returncode, f"process {os.getpid()} on " in done.stderr) == (1, True)
    assert "read_only" not in done.stderr


def test_rejected_documents_stand_in_a_file_with_place_and_reason(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [*DOCUMENTS, {"id": "empty", "chunks": ["a", ""]}, ["no record"]])
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx")
    assert (done.returncode, done.stderr.endswith(f"error: 2 documents were rejected: see {REJECTED}\n")) == (1, True)
    found = json_lines((tmp_path / REJECTED).read_text())
    assert [(item["place"], item["id"]) for item in found] == [
        ("docs.jsonl, line 4", "empty"),
        ("docs.jsonl, line 5", None),
    ]
    assert len(ids_of(tmp_path / "corpus.ctx")) == 3
    # The shell may name the file as an input: it is left out, and each run replaces it.
    assert ctxembed("embed", "docs.jsonl", REJECTED, "corpus.ctx").returncode == 1
    assert len(json_lines((tmp_path / REJECTED).read_text())) == 2
    write_documents(tmp_path / "docs.jsonl", DOCUMENTS)
    assert ctxembed("embed", "docs.jsonl", "corpus.ctx").returncode == 0
    assert names_in(tmp_path) == ["corpus.ctx", "docs.jsonl"]


def test_max_errors_ends_the_job(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [{"id": i, "chunks": []} for i in range(5)] + DOCUMENTS)
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx", "--max-errors", "2")
    assert (done.returncode, "more documents were rejected than --max-errors allows" in done.stderr) == (1, True)
    assert len(json_lines((tmp_path / REJECTED).read_text())) == 3


def test_a_document_that_the_api_refuses_does_not_fail_the_others(ctxembed, lines, fresh_server, tmp_path):
    strict = fresh_server(limits=Limits(tokens_per_document=14))
    done = ctxembed("embed", lines, "corpus.ctx", PERPLEXITY_BASE_URL=strict.base_url)
    assert done.returncode == 1
    (found,) = json_lines((tmp_path / REJECTED).read_text())
    assert (found["place"], found["id"]) == (f"{lines}, line 2", "rust")
    assert ids_of(tmp_path / "corpus.ctx") == ["heron", "7"]
    again = ctxembed("embed", lines, "corpus.ctx", PERPLEXITY_BASE_URL=strict.base_url)
    assert (again.returncode, "nothing was sent" in again.stderr) == (1, True)
    retried = ctxembed("embed", lines, "corpus.ctx", "--retry-failed")
    assert (retried.returncode, "1 added, 2 unchanged" in retried.stderr) == (0, True)


def test_prune_deletes_what_the_input_no_longer_has(ctxembed, collection, tmp_path):
    write_documents(tmp_path / "docs.jsonl", DOCUMENTS[:1])
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    done = ctxembed("embed", "docs.jsonl", "bad.jsonl", collection, "--prune")
    assert (done.returncode, "nothing was pruned: 1 part of the input" in done.stderr) == (1, True)
    done = ctxembed("embed", "docs.jsonl", collection, "--prune")
    assert (done.returncode, "2 deleted" in done.stderr) == (0, True)
    assert ids_of(collection) == ["heron"]


def test_max_cost_ends_the_job_and_the_same_command_goes_on(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", LONG_DOCUMENTS)
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx", "--max-cost", "0.0005", "--concurrency", "1")
    assert (done.returncode, "--max-cost is reached" in done.stderr) == (1, True)
    assert 0 < len(ids_of(tmp_path / "corpus.ctx")) < 10
    assert ctxembed("embed", "docs.jsonl", "corpus.ctx").returncode == 0
    assert len(ids_of(tmp_path / "corpus.ctx")) == 10


def test_a_repeated_id_is_named_with_its_place(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [*DOCUMENTS, DOCUMENTS[0]])
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx")
    assert (done.returncode, "docs.jsonl, line 4: the id 'heron' came twice" in done.stderr) == (1, True)
    assert len(ids_of(tmp_path / "corpus.ctx")) == 3  # what came before is stored, also of the same piece of the input


def test_a_wrong_key_is_reported_without_showing_it(ctxembed, lines, collection, fresh_server):
    guarded = fresh_server(key="the-right-key")
    for arguments in (["embed", lines, "new.ctx"], ["search", collection, "q"]):
        done = ctxembed(*arguments, PERPLEXITY_BASE_URL=guarded.base_url)
        assert done.returncode == 1
        assert "401" in done.stderr
        assert "key-for-tests" not in done.stdout + done.stderr


def test_a_missing_key_is_an_error_before_anything_is_made(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "corpus.ctx", PERPLEXITY_API_KEY="", PPLX_API_KEY="")
    assert (done.returncode, done.stderr.startswith("error: no API key: set PERPLEXITY_API_KEY")) == (1, True)
    assert not (tmp_path / "corpus.ctx").exists()


def test_events_are_json_lines(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [*DOCUMENTS, {"id": "empty", "chunks": []}])
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx", "--json")
    events = json_lines(done.stdout)
    assert [event["event"] for event in events if event["event"] != "progress"] == ["start", "reject", "end"]
    assert (events[-1]["added"], events[-1]["failed"], events[-1]["usage"]["requests"]) == (3, 1, 1)
    assert events[-1]["rejects"] == REJECTED
    assert json.loads(done.stderr)["message"] == f"1 document was rejected: see {REJECTED}"


@needs_tokenizer
def test_long_documents_are_embedded_in_windows(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [{"id": "book", "chunks": ["whale sea ship " * 100] * 150}])
    assert ctxembed("embed", "docs.jsonl", "a.ctx", "--tokenizer", TOKENIZER).returncode == 1
    done = ctxembed("embed", "docs.jsonl", "b.ctx", "--tokenizer", TOKENIZER, "--split-long")
    assert done.returncode == 0, done.stderr
    with Collection.open(tmp_path / "b.ctx") as made:
        assert made.vectors(["book"]).shape == (150, 1024)


def test_an_error_that_every_request_meets_says_what_is_stored(ctxembed, server, tmp_path):
    set_plan(server, [{}, {"fault": "401", "times": "always"}])
    write_documents(tmp_path / "docs.jsonl", LONG_DOCUMENTS)
    done = ctxembed("embed", "docs.jsonl", "corpus.ctx", "--concurrency", "1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "documents of the input are stored, and the same command goes on from there" in done.stderr
    assert "401" in done.stderr
