"""`ctxembed plan`."""

from __future__ import annotations

import json

from tests.cli.process import TOKENIZER, needs_tokenizer, write_documents


def test_plan_sends_nothing_and_can_print_json(ctxembed, lines):
    offline = {"PERPLEXITY_BASE_URL": "http://127.0.0.1:9", "PERPLEXITY_API_KEY": ""}
    done = ctxembed("plan", lines, **offline)
    assert done.returncode == 0
    assert "3 documents, 6 chunks" in done.stdout
    planned = json.loads(ctxembed("plan", lines, "--json", **offline).stdout)
    assert (planned["documents"], planned["chunks"], planned["requests"], planned["problems"]) == (3, 6, 1, [])


def test_plan_shows_how_long_requests_take_at_a_rate(ctxembed, lines):
    assert "30 seconds at 2 requests a minute" in ctxembed("plan", lines, "--rpm", "2").stdout
    planned = json.loads(ctxembed("plan", lines, "--rpm", "2", "--json").stdout)
    assert (planned["requests_per_minute"], planned["minutes"]) == (2.0, 0.5)
    rejected = ctxembed("plan", lines, "--rpm", "0")
    assert rejected.returncode == 2
    assert "--rpm must be finite and above 0" in rejected.stderr


def test_counts_of_one_are_singular(ctxembed, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": 1, "chunks": ["a"]}')
    assert "1 second at 60 requests" in ctxembed("plan", "one.jsonl", "--rpm", "60").stdout
    assert "out: 1 added, 0 unchanged (1 request, " in ctxembed("embed", "one.jsonl", "out").stderr


def test_problems_in_json_have_a_code(ctxembed, tmp_path):
    write_documents(tmp_path / "docs.jsonl", [{"id": "a", "chunks": ["text", ""]}])
    done = ctxembed("plan", "docs.jsonl", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["code"], problem["id"], problem["chunk"]) == ("CTX-015", "a", 1)


def test_what_is_no_document_is_listed(ctxembed, tmp_path):
    (tmp_path / "docs.jsonl").write_text('{"id": 1, "chunks": ["a"]}\nnope\n')
    done = ctxembed("plan", "docs.jsonl")
    assert (done.returncode, done.stdout.startswith("1 document, 1 chunk\n")) == (1, True)
    assert done.stderr == "error: docs.jsonl, line 2: not JSON: Expecting value at column 1\n"
    planned = json.loads(ctxembed("plan", "docs.jsonl", "--json").stdout)
    assert [(item["place"], item["id"]) for item in planned["rejected"]] == [("docs.jsonl, line 2", None)]
    (tmp_path / "docs.jsonl").write_text("nope\n")
    assert ctxembed("plan", "docs.jsonl").returncode == 1


@needs_tokenizer
def test_a_tokenizer_makes_the_plan_exact(ctxembed, lines):
    estimated = json.loads(ctxembed("plan", lines, "--json").stdout)
    counted = json.loads(ctxembed("plan", lines, "--json", "--tokenizer", TOKENIZER).stdout)
    assert (estimated["exact_tokens"], counted["exact_tokens"]) == (False, True)
    assert counted["tokens"] == counted["tokens_upper"] < estimated["tokens_upper"]


def test_an_invalid_tokenizer_is_rejected_with_a_reason(ctxembed, lines, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    done = ctxembed("plan", lines, "--tokenizer", "other.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "other.json" in done.stderr
    assert ctxembed("plan", lines, "--tokenizer", "absent.json").returncode == 2
