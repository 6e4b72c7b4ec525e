"""``ctxembed migrate`` and ``ctxembed rollback`` as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from ctxembed import Client, Collection
from ctxembed._cli.queries import open_embedder

from tests.cli.process import DOCUMENTS, command, environment, paid_of, requests_of, write_documents

OLD, NEW = "pplx-embed-context-v1-0.6b", "pplx-embed-context-v1-4b"
MOVE = ("migrate", "corpus.ctx", "--model", NEW, "--dimensions", "256")
MANY = [{"id": number, "chunks": [f"text {number}"]} for number in range(3000)]  # six requests


def model_of(path):
    with Collection.open(path, read_only=True) as opened:
        assert opened.verify() == []
        return opened.model, opened.dimensions


def test_a_collection_moves_and_goes_back(ctxembed, collection, server):
    before = requests_of(server)
    priced = ctxembed(*MOVE, "--dry-run", PERPLEXITY_API_KEY="")
    assert (priced.returncode, priced.stderr) == (0, "")
    assert f"{NEW}, 256 dimensions, base64_int8: 3 documents to send, 0 there already" in priced.stdout
    assert "1 request, " in priced.stdout
    assert "USD 0.00" in priced.stdout
    assert requests_of(server) == before
    moved = ctxembed(*MOVE, "--keep-old")
    assert moved.returncode == 0, moved.stderr
    assert f"corpus.ctx: {NEW}, 256 dimensions, base64_int8; 3 documents embedded" in moved.stderr
    assert "kept for `ctxembed rollback`" in moved.stderr
    assert model_of(collection) == (NEW, 256)
    found = ctxembed("search", "corpus.ctx", "It caught a silver fish.", "-k", "1", "--json")
    assert found.returncode == 0, found.stderr
    shown = ctxembed("show", "corpus.ctx")
    assert f"model: {NEW}, 256 dimensions" in shown.stdout
    assert f"kept: {OLD}, 1024 dimensions, base64_int8, 3 documents" in shown.stdout
    paid = requests_of(server)
    back = ctxembed("rollback", "corpus.ctx", "--json", PERPLEXITY_API_KEY="")
    assert back.returncode == 0, back.stderr
    end = json.loads(back.stdout.splitlines()[-1])
    assert (end["event"], end["switched"], end["model"], end["embedded"]) == ("end", True, OLD, 0)
    assert requests_of(server) == paid
    assert model_of(collection) == (OLD, 1024)
    again = ctxembed("rollback", "corpus.ctx")
    assert again.returncode == 1
    assert "has kept no earlier vectors: migrate with keep_old=True (--keep-old)" in again.stderr


def test_a_rollback_needs_a_key_only_for_what_is_new(ctxembed, collection, tmp_path):
    assert ctxembed(*MOVE, "--keep-old").returncode == 0
    write_documents(tmp_path / "more.jsonl", [*DOCUMENTS, {"id": "new", "chunks": ["A new one."]}])
    assert ctxembed("embed", "more.jsonl", "corpus.ctx").returncode == 0
    refused = ctxembed("rollback", "corpus.ctx", PERPLEXITY_API_KEY="")
    assert refused.returncode == 1
    assert "documents were added or changed since" in refused.stderr
    done = ctxembed("rollback", "corpus.ctx", "--keep-new")
    assert done.returncode == 0, done.stderr
    assert "1 document embedded, 3 there already" in done.stderr
    assert ctxembed("migrate", "corpus.ctx", "--delete-old").stderr == "corpus.ctx: 1 old generation deleted\n"
    assert not (collection / "generations").exists()


def test_judged_queries_are_compared_before_the_switch(ctxembed, collection, tmp_path):
    write_documents(tmp_path / "queries.jsonl", [{"id": "q", "text": "which bird catches fish?"}])
    (tmp_path / "judged.tsv").write_text("q\theron\t1\n")
    judged = ("--queries", "queries.jsonl", "--judgements", "judged.tsv")
    refused = ctxembed(*MOVE, *judged, "--max-loss", "-2")
    assert refused.returncode == 1
    assert "the new vectors are worse than --max-loss allows. Searches go on as before" in refused.stderr
    before, after = refused.stdout.splitlines()
    assert before.startswith("before: nDCG@10 ")
    assert before.endswith(f", {OLD} as int8, 1 queries")
    assert after.startswith("after: nDCG@10 ")
    assert f", {NEW} as int8" in after
    assert model_of(collection) == (OLD, 1024)
    done = ctxembed(*MOVE, *judged, "--max-loss", "1", "--json")
    assert done.returncode == 0, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["switched"], end["requests"], len(end["comparison"])) == (True, 0, 2)
    assert ctxembed(*MOVE, *judged[:2]).returncode == 2


def test_bits_are_cut_from_stored_vectors_without_a_key(ctxembed, collection, server):
    before = requests_of(server)
    done = ctxembed(
        "migrate", "corpus.ctx", "--encoding-format", "base64_binary", "--from-stored", PERPLEXITY_API_KEY=""
    )
    assert done.returncode == 0, done.stderr
    assert requests_of(server) == before
    with Collection.open(collection, read_only=True) as opened:
        assert (opened.encoding_format, opened.model, opened.verify()) == ("base64_binary", OLD, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("migrate", "corpus.ctx"), "name what is to change: --model, --dimensions or --encoding-format"),
        (("migrate", "corpus.ctx", "--model", "gpt-9"), "model 'gpt-9' is not known"),
        (("migrate", "corpus.ctx", "--model", NEW, "--abandon"), "--abandon and --delete-old stand alone"),
        (("migrate", "corpus.ctx", "--abandon", "--delete-old"), "--abandon and --delete-old stand alone"),
        (("migrate", "corpus.ctx", "--model", NEW, "--dimensions", "9"), "dimensions must be from 128"),
        ((*MOVE, "--max-wait", "nan"), "'--max-wait': must be finite"),
        ((*MOVE, "--requests-per-minute", "0"), "'--requests-per-minute': must be finite and above 0"),
    ],
)
def test_wrong_options_are_errors_of_usage(ctxembed, collection, arguments, message):
    done = ctxembed(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (collection / "generations").exists()


def test_errors_name_what_is_wrong(ctxembed, collection):
    assert "there is nothing to migrate" in ctxembed("migrate", "corpus.ctx", "--model", OLD).stderr
    assert "no such collection" in ctxembed("migrate", "nothing.ctx", "--model", NEW).stderr
    assert ctxembed(*MOVE, PERPLEXITY_API_KEY="").stderr.startswith("error: no API key")
    stopped = ctxembed(*MOVE, "--max-cost", "0")
    assert stopped.returncode == 1
    assert "--max-cost is reached. Searches go on as before" in stopped.stderr
    other = ctxembed("migrate", "corpus.ctx", "--model", NEW)
    assert other.returncode == 1
    assert f"a migration to {NEW} with 256 dimensions as base64_int8 is under way" in other.stderr
    assert "under way: " in ctxembed("show", "corpus.ctx").stdout
    given_up = ctxembed("migrate", "corpus.ctx", "--abandon", "--json")
    assert json.loads(given_up.stdout) == {"collection": "corpus.ctx", "deleted": 1}
    assert model_of(collection) == (OLD, 1024)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_migration_that_is_stopped_goes_on_with_what_was_written_since(fresh_server, tmp_path, number):
    quick, slow = fresh_server(), fresh_server(latency=2.0)
    write_documents(tmp_path / "docs.jsonl", MANY)

    def run(server, *arguments):
        variables = environment(PERPLEXITY_API_KEY="k", PERPLEXITY_BASE_URL=server.base_url)
        return subprocess.Popen(
            command(*arguments), env=variables, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ends_well(process):
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        return output

    ends_well(run(quick, "embed", "docs.jsonl", "corpus.ctx", "--dimensions", "128"))
    process = run(slow, *MOVE, "--concurrency", "1")
    end = time.monotonic() + 100
    while paid_of(slow) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), errors
    if number != signal.SIGKILL:
        assert "error: interrupted. Searches go on as before." in errors
    paid = paid_of(slow)
    assert model_of(tmp_path / "corpus.ctx") == (OLD, 128)
    write_documents(tmp_path / "docs.jsonl", [*MANY[1:], {"id": "late", "chunks": ["late"]}])
    ends_well(run(quick, "embed", "docs.jsonl", "corpus.ctx", "--prune"))
    report = json.loads(ends_well(run(quick, *MOVE, "--json")).splitlines()[-1])
    assert report["switched"]
    assert report["embedded"] + report["unchanged"] == len(MANY)
    assert report["unchanged"] >= 512 * (paid - 1) - 1  # one request may have been in flight, and one document is gone
    assert model_of(tmp_path / "corpus.ctx") == (NEW, 256)
    with Collection.open(tmp_path / "corpus.ctx", read_only=True) as opened:
        assert len(opened) == len(MANY)
        assert "late" in opened
        assert "0" not in opened


def test_the_questions_of_a_long_process_follow_the_switch(collection, server, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "k")
    with (
        Collection.open(collection, read_only=True) as reader,
        open_embedder(reader, None, server.base_url, None, allow_insecure=False) as source,
        Client(api_key="k", base_url=server.base_url) as client,
    ):
        before = reader.search("a silver fish", 1, client=source)
        with Collection.open(collection) as writer:
            assert writer.migrate(NEW, client).switched
        assert reader.search("a silver fish", 1, client=source) == before
        reader.refresh()
        after = reader.search("a silver fish", 1, client=source)
        assert after == reader.search("a silver fish", 1, client=client)
        assert after[0].score != before[0].score


def test_a_local_model_moves_a_collection_without_a_key(ctxembed, collection):
    pytest.importorskip("onnxruntime")
    done = ctxembed("migrate", "corpus.ctx", "--embedder", "demo", PERPLEXITY_API_KEY="", PPLX_API_KEY="")
    if "pip install" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    found = ctxembed(
        "search", "corpus.ctx", "an animal in water", "--embedder", "demo", "-k", "1", PERPLEXITY_API_KEY=""
    )
    assert found.returncode == 0, found.stderr
    wrong = ctxembed("search", "corpus.ctx", "an animal in water", "-k", "1")
    assert wrong.returncode == 1
