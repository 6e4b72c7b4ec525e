"""`ctxembed embed --dry-run`."""

from __future__ import annotations

import json

from ctxembed import Collection

from tests.cli.process import DOCUMENTS, TOKENIZER, json_lines, names_in, needs_tokenizer, paid_of, write_documents

OFFLINE = {"PERPLEXITY_BASE_URL": "http://127.0.0.1:9", "PERPLEXITY_API_KEY": "", "PPLX_API_KEY": ""}


def dry_run(ctxembed, *arguments):
    done = ctxembed("embed", *arguments, "--dry-run", "--json", **OFFLINE)
    return done.returncode, json.loads(done.stdout)


def test_a_dry_run_sends_nothing_makes_nothing_and_needs_no_key(ctxembed, lines, tmp_path):
    done = ctxembed("embed", lines, "corpus.ctx", "--dry-run", **OFFLINE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 documents to send (3 new, 0 changed)\n0 unchanged, 0 to delete, 0 rejected\n")
    assert names_in(tmp_path) == ["docs.jsonl"]


def test_a_dry_run_counts_what_a_collection_has(ctxembed, collection, tmp_path):
    changed = [{**DOCUMENTS[0], "chunks": ["Other."]}, DOCUMENTS[1], {"id": "new", "chunks": ["Other."]}]
    write_documents(tmp_path / "docs.jsonl", [*changed, {"id": "empty", "chunks": []}])
    code, found = dry_run(ctxembed, "docs.jsonl", collection, "--prune")
    assert code == 1
    counts = {name: found[name] for name in ("added", "updated", "unchanged", "deleted", "failed", "sent", "chunks")}
    assert counts == {
        "added": 1, "updated": 1, "unchanged": 1, "deleted": 1, "failed": 1, "sent": 1, "chunks": 1,
    }  # fmt: skip
    assert [item["place"] for item in found["rejected"]] == ["docs.jsonl, line 4"]
    assert names_in(tmp_path) == ["corpus.ctx", "docs.jsonl"]
    with Collection.open(collection) as opened:
        assert len(opened) == 3


@needs_tokenizer
def test_a_dry_run_with_exact_counts_equals_the_run(ctxembed, fresh_server, tmp_path):
    # A server of its own: it counts the requests of this job alone.
    server = fresh_server()
    documents = [{"id": i, "chunks": [f"word{i} " * (40 + 37 * i % 900)] * (1 + i % 3)} for i in range(600)]
    write_documents(tmp_path / "docs.jsonl", [*documents, {"id": "same", "chunks": documents[5]["chunks"]}])
    options = ("docs.jsonl", "corpus.ctx", "--tokenizer", TOKENIZER, "--concurrency", "3")
    code, planned = dry_run(ctxembed, *options)
    done = ctxembed("embed", *options, "--json", PERPLEXITY_BASE_URL=server.base_url)
    end = json_lines(done.stdout)[-1]
    assert (code, done.returncode) == (0, 0)
    assert (planned["added"], planned["sent"], end["added"]) == (601, 600, 601)
    assert planned["requests"] == end["usage"]["requests"] == paid_of(server)
    assert dry_run(ctxembed, *options)[1]["requests"] == 0
