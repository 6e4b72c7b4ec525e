"""``POST /v1/search``: the same hits as ``Collection.search`` of the same collection, and what is refused."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading

import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed import Client, Collection
from ctxembed._server import ServerProcess

from .conftest import CONTEXT_MODEL
from .served import DIMS, ingest, search


@pytest.fixture(scope="module")
def standin():
    with ServerProcess() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, standin):
    """Two collections: ``birds`` of int8 vectors, and ``bits``."""
    path = tmp_path_factory.mktemp("served")
    ingest(path / "birds.ctx", standin)
    ingest(path / "bits.ctx", standin, encoding_format="base64_binary")
    return path


@pytest.fixture(scope="module")
def birds(folder):
    with Collection.open(folder / "birds.ctx", read_only=True) as found:
        yield found


@pytest.fixture(scope="module")
def served(folder):
    with ServerProcess("--collection", str(folder / "birds.ctx"), "--collection", str(folder / "bits.ctx")) as found:
        yield found


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served.base_url, trust_env=False, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    with Client(api_key="k", base_url=served.base_url) as found:
        yield found


def as_json(hits):
    return json.loads(json.dumps([dataclasses.asdict(hit) for hit in hits]))


SEARCHES = {
    "plain": {},
    "k": {"k": 3},
    "more than there are": {"k": 1000},
    "where": {"where": "year >= ? AND lang = ?", "params": [2000, "en"]},
    "named parameters": {"where": "year >= :year", "params": {"year": 2005}},
    "nothing matches": {"where": "year > 3000"},
    "hybrid": {"hybrid": True},
    "hybrid with a filter": {"hybrid": True, "where": "lang = 'en'"},
    "two stages": {"stage": "two-stage"},
    "two stages, oversampled": {"stage": "two-stage", "oversample": 8, "k": 5},
    "a prefix": {"dimensions": 128},
    "by document": {"group_by_document": True, "k": 7},
    "neighbours": {"neighbours": 1, "k": 7},
    "by document, hybrid, with neighbours": {"neighbours": 2, "hybrid": True, "group_by_document": True},
}


@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES.keys())
def test_a_text_finds_what_the_collection_finds(http, birds, client, options):
    found = search(http, query="a heron at the river", **options)
    expected = birds.search("a heron at the river", client=client, **options)
    assert found["hits"] == as_json(expected)
    assert (found["object"], found["collection"], found["model"]) == ("search", "birds", CONTEXT_MODEL)


@pytest.mark.parametrize("options", [SEARCHES[name] for name in ("plain", "where", "hybrid", "by document")])
def test_several_texts_have_a_list_of_hits_each(http, birds, client, options):
    queries = ["heron", "a boat under the bridge", "heron", "price of paper"]
    found = search(http, queries=queries, **options)["hits"]
    assert found == [as_json(birds.search(query, client=client, **options)) for query in queries]


def test_a_vector_is_base64_or_numbers(http, birds):
    vector = birds.vectors(["birds/7.md"])[1]
    expected = as_json(birds.search(vector))
    assert search(http, vector=base64.b64encode(vector.tobytes()).decode())["hits"] == expected
    assert search(http, vector=vector.tolist())["hits"] == expected
    assert (expected[0]["document"], expected[0]["chunk"]) == ("birds/7.md", 1)


def test_bits_are_searched_by_bits_and_by_int8(http, folder, client):
    with Collection.open(folder / "bits.ctx", read_only=True) as bits:
        packed = bits.vectors(["birds/7.md"])[1]
        expected = as_json(bits.search(packed))
        assert search(http, "bits", vector=base64.b64encode(packed.tobytes()).decode())["hits"] == expected
        assert search(http, "bits", vector=packed.tolist())["hits"] == expected
        query = client.embed_queries(["heron"], dimensions=DIMS).vectors
        assert search(http, "bits", vector=query[0].tolist())["hits"] == as_json(bits.search(query))
        assert search(http, "bits", query="heron")["hits"] == as_json(bits.search("heron", client=client))


def test_the_time_of_each_stage_is_reported(http):
    timings = search(http, query="heron")["timings_ms"]
    assert set(timings) == {"embed", "queue", "scan", "read", "total"}
    assert all(value >= 0 for value in timings.values())
    assert timings["total"] >= timings["scan"]


def test_concurrent_searches_get_their_own_hits(http, birds, served):
    vectors = birds.vectors()
    expected = [as_json(birds.search(vector, 3)) for vector in vectors[:40]]
    wrong = []

    def ask(place):
        with httpx.Client(base_url=served.base_url, trust_env=False, timeout=60) as own:
            for turn in range(10):
                number = (place * 10 + turn) % 40
                if search(own, vector=vectors[number].tolist(), k=3)["hits"] != expected[number]:
                    wrong.append(number)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert http.get("/healthz").json() == {"status": "ok", "collections": ["birds", "bits"]}


REFUSED = {
    "no query": ({}, ["body"], "exactly one of query, queries and vector, got none"),
    "two queries": ({"query": "a", "vector": [1]}, ["body"], "got query and vector"),
    "an empty query": ({"query": ""}, ["body", "query"], "at least 1 character"),
    "an empty one of several": ({"queries": ["a", ""]}, ["body", "queries", 1], "at least 1 character"),
    "no queries": ({"queries": []}, ["body", "queries"], "at least 1 item"),
    "too many queries": ({"queries": ["a"] * 513}, ["body", "queries"], "at most 512 items"),
    "k 0": ({"query": "a", "k": 0}, ["body", "k"], "greater than or equal to 1"),
    "k 10,001": ({"query": "a", "k": 10_001}, ["body", "k"], "less than or equal to 10000"),
    "k a text": ({"query": "a", "k": "3"}, ["body", "k"], "valid integer"),
    "an unknown field": ({"query": "a", "filter": "x"}, ["body", "filter"], "not permitted"),
    "neighbours": ({"query": "a", "neighbours": 101}, ["body", "neighbours"], "less than or equal to 100"),
    "a stage": ({"query": "a", "stage": "both"}, ["body", "stage"], "'exact' or 'two-stage'"),
    "no base64": ({"vector": "!"}, ["body", "vector"], "no base64"),
    "a short vector": ({"vector": "AAAA"}, ["body", "vector"], "3 bytes: expected 256 int8 values"),
    "few numbers": ({"vector": [1, 2]}, ["body", "vector"], "2 numbers: expected 256 int8 values"),
    "a large number": ({"vector": [0] * 255 + [128]}, ["body", "vector", 255], "128 is not between -128 and 127"),
    "hybrid by a vector": ({"vector": [0] * 256, "hybrid": True}, ["body", "hybrid"], "needs a text query"),
    "an unknown name": ({"query": "a", "where": "cost > 1"}, ["body", "where"], "unknown name 'cost'"),
    "a statement": ({"query": "a", "where": "1; DROP TABLE documents"}, ["body", "where"], "';' ends a statement"),
    "a subquery": ({"query": "a", "where": "(SELECT 1)"}, ["body", "where"], "SELECT has no place here"),
    "few parameters": ({"query": "a", "where": "year = ?"}, ["body", "where"], "do not fit"),
    "a list as parameter": ({"query": "a", "where": "year = ?", "params": [[1]]}, ["body", "params"], ""),
    "dimensions": ({"query": "a", "dimensions": 300}, ["body", "dimensions"], "300"),
    "oversample alone": ({"query": "a", "oversample": 3}, ["body", "oversample"], ""),
}


@pytest.mark.parametrize(("body", "place", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_searched_is_a_422_that_says_where(http, body, place, message):
    response = http.post("/v1/search", json={"collection": "birds", **body})
    assert response.status_code == 422, response.text
    details = response.json()["detail"]
    matching = [one for one in details if one["loc"][: len(place)] == place and message in one["msg"]]
    assert matching, details
    assert {"loc", "msg", "type"} <= set(matching[0])


def test_one_of_several_collections_must_be_named(http):
    response = http.post("/v1/search", json={"query": "a"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "collection"]
    response = http.post("/v1/search", json={"collection": "fish", "query": "a"})
    assert response.status_code == 404
    assert "'fish'" in response.json()["error"]["message"]


def test_a_query_that_the_model_refuses_fails_alone(http):
    queries = ["heron", "a <|endoftext|> b"]
    response = http.post("/v1/search", json={"collection": "birds", "queries": queries})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "queries", 1]
    response = http.post("/v1/search", json={"collection": "birds", "query": queries[1]})
    assert response.json()["detail"][0]["loc"] == ["body", "query"]
    assert search(http, query="heron")["hits"]


def test_what_is_no_search_at_all(http):
    assert http.post("/v1/search", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert http.post("/v1/search", content=b'{"query": "a"}').status_code == 415
    assert http.post("/v1/search", json={"query": "a" * (4 << 20)}).status_code == 413
    assert http.get("/v1/search").status_code == 405
    assert http.get("/v1/nothing").status_code == 404


def test_an_empty_collection_has_no_hits_and_embeds_nothing(tmp_path):
    Collection.create(tmp_path / "empty.ctx", model=CONTEXT_MODEL).close()
    with (
        ServerProcess("--collection", str(tmp_path / "empty.ctx")) as server,
        httpx.Client(base_url=server.base_url, trust_env=False) as own,
    ):
        assert search(own, "empty", query="heron")["hits"] == []
        assert search(own, "empty", queries=["heron", "reed"], hybrid=True)["hits"] == [[], []]
        assert "ctxembed_query_cache_misses_total 0.0" in own.get("/metrics").text


def test_a_text_is_embedded_once(http):
    def misses():
        [line] = [line for line in http.get("/metrics").text.splitlines() if "cache_misses_total " in line][-1:]
        return float(line.split()[-1])

    before = misses()
    for _ in range(5):
        search(http, query="a text that nobody has asked for")
    search(http, queries=["a text that nobody has asked for", "another such text", "another such text"])
    assert misses() - before == 2


def test_vectors_of_queries_are_kept_within_a_bound(folder):
    with (
        ServerProcess("--collection", str(folder / "birds.ctx"), "--cached-queries", "3") as server,
        httpx.Client(base_url=server.base_url, trust_env=False) as own,
    ):
        for number in range(10):
            search(own, query=f"query {number}")
        assert "ctxembed_query_cache_vectors 3.0" in own.get("/metrics").text


def test_results_are_those_of_ctxembed(birds, http, client):
    """The oracle above is the collection; this one is NumPy."""
    query = client.embed_queries(["a boat"], dimensions=DIMS).vectors[0].astype(np.int64)
    stored = birds.vectors().astype(np.int64)
    cosines = stored @ query / np.sqrt((stored**2).sum(1) * (query**2).sum())
    found = [hit["score"] for hit in search(http, query="a boat", k=5)["hits"]]
    assert np.allclose(found, np.sort(cosines)[::-1][:5], atol=1e-6)
    assert ctxembed.Hit(**search(http, query="a boat", k=1)["hits"][0]).document.startswith("birds/")
