"""The documents, checks and processes of the measurements of collections."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ctxembed import Client, Collection

from benches import canned
from benches.cases.collections import PREPARED, Corpus, Embedder, Searched
from benches.peers import ingestion
from benches.serving import KEY

ROOT = Path(canned.__file__).parent.parent


@pytest.fixture(scope="module")
def data():
    return Searched(Corpus(20, chunks=3, dimensions=128, metadata=True))


def test_documents_are_the_same_at_each_call_and_have_chunks_of_some_40_words():
    corpus = Corpus(300)
    documents = list(corpus)
    assert documents == list(corpus)
    assert len({document.id for document in documents}) == 300
    words = [len(chunk.split()) for document in documents for chunk in document.chunks]
    assert 38 <= np.mean(words) <= 48


def test_a_prepared_response_serves_all_documents_of_the_same_remainder():
    corpus = Corpus(10, chunks=2, dimensions=128)
    documents = [[f"document {number}: {chunk}." for chunk in range(2)] for number in (3, 13, 9)]
    with Client(api_key=KEY, base_url=corpus.server) as client:
        found = client.embed(documents, dimensions=128)
    expected = canned.expected(10, 2, 128).reshape(10, 2, 128)[[3, 3, 9]]
    assert np.array_equal(found.vectors, expected.reshape(-1, 128))
    assert found.usage.total_tokens > 0


def test_rows_are_compared_with_those_of_the_prepared_responses():
    corpus = Corpus(PREPARED + 5, chunks=1, dimensions=8)
    prepared = canned.expected(PREPARED, 1, 8)
    found = np.concatenate([prepared, prepared[:5]])
    assert corpus.is_expected(found, 0)
    assert corpus.is_expected(found[7:], 7)
    assert not corpus.is_expected(found, 1)


def test_an_embedder_gives_its_rows_in_turn(tmp_path):
    corpus = Corpus(600, chunks=2, dimensions=128)
    rows = np.random.default_rng(1).integers(-127, 128, (1200, 128)).astype(np.int8)
    with Collection.create(tmp_path / "some.ctx", dimensions=128) as collection:
        report = collection.ingest(corpus, Embedder(rows))
        assert report.added == 600
        assert np.array_equal(collection.vectors([document.id for document in corpus]), rows)


def test_a_search_is_right_only_with_the_best_rows_in_order_and_their_scores(data):
    mask = np.arange(data.count) % 2 == 0
    for allowed in (np.ones(data.count, np.bool_), mask):
        order = np.argsort(-np.where(allowed, data.scores[0], -2))
        best, scores = order[:10], data.scores[0][order[:10]]
        assert data.is_best(0, best, scores, allowed)
        assert not data.is_best(0, best[::-1], scores, allowed)
        assert not data.is_best(0, order[1:11], scores, allowed)
        assert not data.is_best(0, best, scores + 0.01, allowed)
        assert not data.is_best(0, best[:9], scores[:9], allowed)
    assert not data.is_best(0, np.argsort(-data.scores[0])[:10], None, mask)


def test_a_collection_finds_the_best_rows_of_its_data(data):
    hits = data.opened.search(data.queries[1], 10, where="year < ?", params=(2010,))
    ids = np.array([data.row(hit.document, hit.chunk) for hit in hits])
    mask = data.metadata["year"] < 2010
    assert 10 <= mask.sum() < data.count
    assert data.is_best(1, ids, np.array([hit.score for hit in hits]), mask)
    data.close()


def test_memory_and_time_are_those_of_the_process_alone():
    held = np.ones(1 << 28, np.uint8)
    took = ingestion.launch(["-c", "print(sum(range(1_000_000)))"], "cpu")
    assert took.output == "499999500000\n"
    assert 0 < took.peak < held.nbytes / 2
    assert 0 < took.seconds == took.cpu


def test_a_process_that_fails_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        ingestion.launch(["-c", "raise SystemExit(3)"])


def test_an_ingestion_in_a_process_is_checked(tmp_path):
    corpus = Corpus(30, chunks=2, dimensions=128)
    for kind in ("stream", "ingest", "again"):
        took = ingestion.run(ingestion.Job(kind, corpus, corpus.server, str(tmp_path / "some.ctx")))
        assert took.correct
        assert took.peak > 0
    assert ingestion.stores(tmp_path / "some.ctx", corpus)
    assert not ingestion.stores(tmp_path / "some.ctx", Corpus(31, chunks=2, dimensions=128))


TIMED = """
from dataclasses import dataclass
from benches.harness import Case, Peer, Verdict

@dataclass(frozen=True)
class Timed(Case):
    group = "timed"
    timed = True
    label = "a case"
    size = {}
    threads = (1,)
    def judge(self, peer, result):
        return Verdict(correct=True)

class Took:
    seconds = 123.0

PEERS = {Timed: (Peer("ours", lambda case, threads: Took, "ours"),)}

def cases(scale):
    return [Timed()]

def test_timed(run, measure):
    measure(run)
"""


def test_a_result_with_its_own_seconds_is_recorded_with_them(tmp_path):
    (tmp_path / "test_timed.py").write_text(TIMED)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    command += ["-p", "benches.conftest", "-p", "no:cacheprovider", "--passes=2", f"--benchmark-json={tmp_path}/raw"]
    # Without the variables of pytest-xdist, in whose processes pytest-benchmark measures nothing.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    subprocess.run(command, cwd=ROOT, env=variables, check=True, stdout=subprocess.DEVNULL)
    found = [entry["stats"]["data"] for entry in json.loads((tmp_path / "raw").read_text())["benchmarks"]]
    assert found == [[123.0], [123.0]]
