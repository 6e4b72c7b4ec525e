"""A served collection that moves to another model: searches go over to it, and none mixes vectors of two models."""

from __future__ import annotations

import threading

import httpx
import pytest
from ctxembed import Client, Collection, Model, SearchClient, SpaceError, UnprocessableEntityError, register_model
from ctxembed._server import ServerProcess

from .conftest import CONTEXT_MODEL
from .served import DIMS, documents, ingest, search, texts

NEW = "pplx-embed-context-v1-4b"
QUERIES = [texts(number)[0] for number in range(0, 60, 5)]


@pytest.fixture(scope="module")
def standin():
    """Embeds documents for both models."""
    with ServerProcess() as found:
        yield found


@pytest.fixture
def client(standin):
    with Client(api_key="k", base_url=standin.base_url) as found:
        yield found


@pytest.fixture
def path(tmp_path, standin):
    return ingest(tmp_path / "birds.ctx", standin)


@pytest.fixture
def served(path):
    with ServerProcess("--collection", str(path)) as found:
        yield found


@pytest.fixture
def http(served):
    with httpx.Client(base_url=served.base_url, trust_env=False, timeout=60) as found:
        yield found


def wait_for_model(http, model):
    """Wait until searches are of a model: the server follows commits a few times a second."""
    while (found := search(http, query="heron", k=1)["model"]) != model:
        assert found in (CONTEXT_MODEL, NEW)


def found_in(collection, query, client):
    return [(hit.document, hit.chunk, hit.score) for hit in collection.search(query, 5, client=client)]


@pytest.mark.timeout(300)
def test_each_search_is_answered_by_one_generation(path, served, client):
    with Collection.open(path) as collection:
        expected = {(CONTEXT_MODEL, query): found_in(collection, query, client) for query in QUERIES}
        with Collection.create(path.with_name("new.ctx"), model=NEW, dimensions=DIMS) as other:
            other.ingest(documents(), client)
            expected |= {(NEW, query): found_in(other, query, client) for query in QUERIES}
        models, errors, over = [], [], threading.Event()

        def ask(first):
            place = first
            with httpx.Client(base_url=served.base_url, trust_env=False, timeout=60) as http:
                while not over.is_set() and not errors:
                    query = QUERIES[place % len(QUERIES)]
                    place += 1
                    response = http.post("/v1/search", json={"query": query, "k": 5})
                    body = response.json()
                    if response.status_code != 200:
                        errors.append(response.text)
                        return
                    hits = [(hit["document"], hit["chunk"], hit["score"]) for hit in body["hits"]]
                    if hits != expected[body["model"], query]:
                        errors.append((body["model"], query, hits))
                    models.append(body["model"])

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        try:
            with httpx.Client(base_url=served.base_url, trust_env=False, timeout=60) as http:
                assert collection.migrate(NEW, client, dimensions=DIMS, keep_old=True).switched
                wait_for_model(http, NEW)
                assert collection.rollback().switched
                wait_for_model(http, CONTEXT_MODEL)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert errors == []
    assert set(models) == {CONTEXT_MODEL, NEW}
    assert expected[CONTEXT_MODEL, QUERIES[0]] != expected[NEW, QUERIES[0]]


def test_a_vector_does_not_cross(path, served, http, client):
    old, new = (client.embed_queries(QUERIES[:1], model=model, dimensions=DIMS) for model in (CONTEXT_MODEL, NEW))
    with SearchClient(served.base_url, api_key="k") as searcher:
        assert searcher.search(old, 1) == searcher.search(old.vectors[0], 1)
        assert search(http, vector=old.vectors[0].tolist(), k=1)["model"] == CONTEXT_MODEL
        response = http.post("/v1/search", json={"vector": new.vectors[0].tolist(), "space": new.space})
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "space"])
        with Collection.open(path) as collection:
            collection.migrate(NEW, client, dimensions=DIMS)
        wait_for_model(http, NEW)
        response = http.post("/v1/search", json={"vector": old.vectors[0].tolist()})
        assert response.status_code == 422
        assert (
            "was migrated since this server opened it, and is of the space 'stand-in:"
            in response.json()["detail"][0]["msg"]
        )
        # What the client knows of the collection is of the time before.
        with pytest.raises(UnprocessableEntityError, match="they cannot be compared"):
            searcher.search(old, 1)
        with pytest.raises(UnprocessableEntityError, match="say with the vector"):
            searcher.search(old.vectors[0], 1)
        assert searcher.search(new, 1) == searcher.search(new.vectors[0], 1, space=new.space)
        assert search(http, vector=new.vectors[0].tolist(), space=new.space, k=1)["model"] == NEW
        with pytest.raises(SpaceError, match="cannot be compared"):
            searcher.search(old, 1)
        with pytest.raises(ValueError, match="space is that of a vector, got a text"):
            searcher.search("heron", space="x")
    response = http.post("/v1/search", json={"query": "heron", "space": "x"})
    assert response.json()["detail"][0]["msg"] == "space is that of a vector, got a text"


def test_a_model_that_the_server_cannot_embed_for_is_an_error_that_says_so(path, http, client):
    register_model(Model("elsewhere", 1024, None))
    with Collection.open(path) as collection:
        collection.migrate("elsewhere", _Elsewhere(client), dimensions=DIMS)
    while (response := http.post("/v1/search", json={"query": "heron"})).status_code == 200:
        assert response.json()["model"] == CONTEXT_MODEL
    assert response.status_code >= 400
    assert "elsewhere" in response.text


class _Elsewhere:
    """Embeds by one model under the name of another."""

    def __init__(self, client):
        self._client = client

    def embed(self, given, *, model, **options):
        from dataclasses import replace

        found = self._client.embed(given, model=CONTEXT_MODEL, **options)
        return replace(found, model=model, space="elsewhere")
