"""``--embedder``: a model on this machine in place of the API. No key, no server."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from ctxembed import Collection, backends

from tests.backends.tiny_qwen3 import write_folder
from tests.cli.process import command, environment, write_documents

BIRDS = [
    {"id": "heron", "chunks": ["The grey heron is a wading bird.", "It stands in shallow water and catches fish."]},
    {"id": "bank", "chunks": ["The central bank sets interest rates.", "Higher rates slow inflation."]},
]


@pytest.fixture
def birds(tmp_path):
    (tmp_path / "birds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in BIRDS))
    return "birds.jsonl"


@pytest.fixture
def offline(ctxembed):
    """Run a command without a key and without a server."""

    def run(*arguments):
        return ctxembed(*arguments, PERPLEXITY_API_KEY="", PPLX_API_KEY="", PERPLEXITY_BASE_URL="http://127.0.0.1:9")

    return run


def test_documents_are_embedded_and_found_by_meaning(offline, birds, tmp_path):
    done = offline("embed", birds, "local.ctx", "--embedder", "demo")
    assert done.returncode == 0, done.stderr
    tokens = backends.demo(threads=1).count_tokens([record["chunks"] for record in BIRDS]).sum()
    assert f"local.ctx: 2 added, 0 unchanged ({tokens} tokens, on this machine)" in done.stderr
    again = offline("embed", birds, "local.ctx", "--embedder", "demo", "--json")
    end = json.loads(again.stdout.splitlines()[-1])
    assert (end["unchanged"], end["usage"]["requests"]) == (2, 0)
    found = offline("search", "local.ctx", "monetary policy", "--embedder", "demo", "-k", "1", "--json")
    assert json.loads(found.stdout)["hits"][0]["document"] == "bank", found.stderr
    with Collection.open(tmp_path / "local.ctx") as made:
        assert made.space.startswith("all-MiniLM-L6-v2@384#")


def test_other_weights_do_not_search_a_collection(offline, birds, tmp_path):
    write_folder(tmp_path / "one" / "tiny")
    write_folder(tmp_path / "two" / "tiny", seed=21)
    assert offline("embed", birds, "local.ctx", "--embedder", "one/tiny").returncode == 0
    assert offline("search", "local.ctx", "bird", "--embedder", "one/tiny").returncode == 0
    found = offline("search", "local.ctx", "bird", "--embedder", "two/tiny")
    assert found.returncode == 1
    assert "--embedder two/tiny embeds in the space 'tiny#" in found.stderr
    added = offline("embed", birds, "local.ctx", "--embedder", "demo")
    assert (added.returncode, "was made with --model tiny, got --model all-MiniLM-L6-v2" in added.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--embedder", "demo", "--model", "pplx-embed-context-v1-4b"), "is the model all-MiniLM-L6-v2, got --model"),
        (("--embedder", "demo", "--concurrency", "4"), "--concurrency is for requests to an API"),
        (("--embedder", "demo", "--dry-run"), "--dry-run is for requests to an API"),
        (("--embedder", "demo", "--dimensions", "256"), "dimensions must be 384 for all-MiniLM-L6-v2"),
        (("--embedder", "empty"), "config.json"),
        (("--embedder", "no-such-folder"), "neither a folder nor ORGANISATION/NAME[@REVISION]"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(offline, birds, tmp_path, options, words):
    (tmp_path / "empty").mkdir()
    done = offline("embed", birds, "local.ctx", *options)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert not (tmp_path / "local.ctx").exists()


def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path):
    documents = [{"id": f"{i}", "chunks": [f"Document {i} has words. " * 12, "And more. " * 30]} for i in range(400)]
    write_documents(tmp_path / "docs.jsonl", documents)
    start = command("embed", "docs.jsonl", "local.ctx", "--embedder", "demo", "--json")
    with subprocess.Popen(start, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        events = map(json.loads, process.stdout)
        next(event for event in events if event["event"] == "progress" and event["added"])
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        end = list(events)[-1]
    assert (process.returncode, end["stopped"]) == (130, "interrupted")
    with Collection.open(tmp_path / "local.ctx") as made:
        stored = len(made)
        assert 0 < stored == end["added"] < len(documents)
        assert made.verify() == []
        embedder = backends.demo(threads=1)
        report = made.ingest([(each["id"], each["chunks"]) for each in documents[: stored + 20]], embedder)
        assert (report.unchanged, report.added) == (stored, 20)
