"""A server of collections besides its searches: documents, states, keys, other sites, and how it lives and ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from ctxembed import Client, Collection, Document
from ctxembed._server import ServerConfig, ServerProcess
from ctxembed._server.search.search_request import SearchRequest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import CONTEXT_MODEL
from .served import DIMS, documents, ingest, search, texts

pytestmark = pytest.mark.timeout(180)
JSON = {"content-type": "application/json"}
ODD_IDS = ["a/b c.md", "..", "../x", "ünïcode ☃", "a?b#c%d", "<script>alert(1)</script>"]


@pytest.fixture(scope="module")
def standin():
    with ServerProcess() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, standin):
    path = tmp_path_factory.mktemp("served")
    odd = [Document(name, [f"text of {number}", "<b>more</b>"]) for number, name in enumerate(ODD_IDS)]
    refused = Document("refused", ["a <|endoftext|> b"])
    ingest(path / "birds.ctx", standin, [*documents(), *odd, refused])
    return path


@pytest.fixture(scope="module")
def birds(folder):
    with Collection.open(folder / "birds.ctx", read_only=True) as found:
        yield found


@pytest.fixture(scope="module")
def served(folder):
    with ServerProcess("--collection", str(folder / "birds.ctx")) as found:
        yield found


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served.base_url, trust_env=False, timeout=30) as found:
        yield found


@contextlib.contextmanager
def serving(path, *args, config=None, **options):
    """Serve a collection by a process of its own."""
    with (
        ServerProcess("--collection", str(path), *args, config=config) as server,
        httpx.Client(base_url=server.base_url, trust_env=False, timeout=30, **options) as http,
    ):
        yield server, http


# --- documents ---


def test_a_document_with_its_chunks(http, birds):
    found = http.get("/v1/documents/birds/birds/7.md").json()
    document = birds.get("birds/7.md")
    assert found["chunks"] == [
        {"chunk": number, "text": text, "span": list(span)}
        for number, (text, span) in enumerate(zip(document.chunks, document.spans, strict=True))
    ]
    assert (found["id"], found["source"], found["metadata"]) == ("birds/7.md", document.source, document.metadata)
    assert (found["chunk_count"], found["first"]) == (3, 0)


@pytest.mark.parametrize(("window", "chunks"), [("first=1", [1, 2]), ("limit=1", [0]), ("first=1&limit=1", [1]),
                                                ("first=9", []), ("limit=0", [])])  # fmt: skip
def test_a_part_of_a_document(http, window, chunks):
    found = http.get(f"/v1/documents/birds/birds/7.md?{window}").json()
    assert [chunk["chunk"] for chunk in found["chunks"]] == chunks
    assert found["chunk_count"] == 3


@pytest.mark.parametrize("name", ODD_IDS)
def test_a_document_with_any_id(http, name):
    found = http.get("/v1/documents/birds", params={"id": name}).json()
    assert found["id"] == name
    if ".." not in name:  # clients take these out of paths
        assert http.get(f"/v1/documents/birds/{quote(name, safe='')}").json() == found


def test_the_scores_of_all_chunks_for_a_question(http):
    hits = search(http, query="heron river", k=1000)["hits"]
    expected = {(hit["document"], hit["chunk"]): hit["score"] for hit in hits}
    found = http.get("/v1/documents/birds/birds/7.md?query=heron+river&first=2&limit=1").json()
    assert found["scores"] == [expected["birds/7.md", chunk] for chunk in range(3)]


@pytest.mark.parametrize(("path", "status"), [("birds/nothing", 404), ("fish/birds/7.md", 404),
                                              ("birds/birds/7.md?first=-1", 422), ("birds", 422),
                                              ("birds/birds/7.md?query=", 422)])  # fmt: skip
def test_a_document_that_is_not_there(http, path, status):
    assert http.get(f"/v1/documents/{path}").status_code == status


# --- collections ---


def test_collections_are_listed_with_what_they_hold(http, birds):
    [found] = http.get("/v1/collections").json()["data"]
    stats = birds.stats()
    for name in (
        "documents",
        "chunks",
        "deleted_chunks",
        "failed",
        "segments",
        "bytes",
        "model",
        "dimensions",
        "space",
    ):
        assert found[name] == getattr(stats, name)
    assert found["name"] == "birds"
    assert (found["queries"], found["hybrid"], found["two_stage"], found["writer"]) == ("embedder", True, True, None)
    assert float(found["usage"]["cost_usd"]) == pytest.approx(float(stats.usage.cost_usd))
    assert str(birds.path) not in json.dumps(found)


def test_a_collection_with_the_values_of_its_fields(http):
    found = http.get("/v1/collections/birds").json()
    fields = {field["name"]: field for field in found["fields"]}
    assert set(fields) == {"lang", "source", "year"}
    assert fields["lang"]["values"] == [{"value": "de", "documents": 30}, {"value": "en", "documents": 30}]
    assert (fields["year"]["minimum"], fields["year"]["maximum"], fields["year"]["distinct"]) == (1990, 2019, 30)
    assert fields["year"]["types"] == ["int"]
    assert found["sampled"] is False
    assert http.get("/v1/collections/fish").status_code == 404


def test_documents_that_failed_are_listed_with_their_causes(http):
    found = http.get("/v1/collections/birds/failures").json()
    assert found["total"] == 1
    assert found["data"][0]["id"] == "refused"
    assert "separator" in found["data"][0]["error"] or "<|endoftext|>" in found["data"][0]["error"]
    assert http.get("/v1/collections/birds/failures?limit=0").json() == {"object": "list", "data": [], "total": 1}


# --- metrics and the description ---


def test_metrics_are_what_prometheus_reads(http):
    search(http, query="heron")
    http.post("/v1/search", json={"k": 0})
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    requests = {
        (sample.labels["endpoint"], sample.labels["status"]): sample.value
        for sample in families["ctxembed_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests["/v1/search", "200"] >= 1
    assert requests["/v1/search", "422"] >= 1
    documents_ = {
        sample.labels["collection"]: sample.value for sample in families["ctxembed_collection_documents"].samples
    }
    assert documents_ == {"birds": 60 + len(ODD_IDS)}
    for name in ("ctxembed_request_seconds", "ctxembed_search_stage_seconds", "ctxembed_scan_queries",
                 "ctxembed_scan_waiting", "ctxembed_query_cache_hits", "ctxembed_embedder_tokens",
                 "ctxembed_query_api_cost_usd"):  # fmt: skip
        assert families[name].samples
    assert "heron" not in response.text


def test_the_description_names_every_endpoint_and_its_examples_are_searches(http):
    found = http.get("/openapi.json").json()
    assert set(found["paths"]) >= {
        "/v1/search", "/v1/documents/{collection}/{id}", "/v1/collections", "/v1/collections/{name}",
        "/v1/collections/{name}/failures", "/v1/collections/{name}/events", "/metrics", "/healthz",
    }  # fmt: skip
    schema = found["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for example in schema["examples"]:
        SearchRequest.model_validate(example)
    hit = found["paths"]["/v1/search"]["post"]["responses"]["200"]["content"]["application/json"]["example"]["hits"][0]
    assert set(hit) == set(search(http, query="heron")["hits"][0])


# --- who may search ---


def test_a_key_is_wanted_where_the_server_has_one(folder):
    config = ServerConfig(key="first,second")
    with serving(folder / "birds.ctx", config=config) as (_, http):
        for path in ("/v1/collections", "/v1/collections/birds", "/v1/documents/birds/birds/7.md",
                     "/v1/collections/birds/failures", "/v1/collections/birds/events"):  # fmt: skip
            assert http.get(path).status_code == 401
        body = {"query": "heron"}
        assert http.post("/v1/search", json=body).status_code == 401
        assert http.post("/v1/search", json=body, headers={"authorization": "Bearer third"}).status_code == 401
        for key in ("first", "second"):
            assert http.post("/v1/search", json=body, headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert http.get("/healthz").status_code == 200
        assert http.get("/metrics").status_code == 200


@pytest.mark.parametrize("path", ["/v1/documents/birds/birds/7.md?query=a", "/v1/collections", "/v1/search"])
def test_pages_of_other_sites_may_not_search(http, path):
    for headers in ({"origin": "https://evil.test"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        if path == "/v1/search":
            response = http.post(path, json={"query": "a"}, headers=headers)
        else:
            response = http.get(path, headers=headers)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert http.post("/v1/search", json={"query": "a"}, headers={"host": "evil.test"}).status_code == 421


def test_a_site_that_the_configuration_names_may_search(folder):
    with serving(folder / "birds.ctx", "--cors-origins", "https://app.test") as (_, http):
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        allowed = {"origin": "https://app.test", "sec-fetch-site": "cross-site"}
        response = http.options("/v1/search", headers={**allowed, **asked})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.test"
        response = http.post("/v1/search", json={"query": "a"}, headers=allowed)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.test"
        assert http.post("/v1/search", json={"query": "a"}, headers={"origin": "https://evil.test"}).status_code == 403


@pytest.mark.parametrize("origin", ["app.test", "https://app.test/page", "https://user@app.test", ""])
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(ValueError, match=r"cors_origins: expected SCHEME://HOST\[:PORT\] or \*"):
        ServerConfig(cors_origins=(origin,))


# --- who embeds queries ---


# The server's own stand-in is of another model there.
def test_queries_are_embedded_by_the_api_of_the_environment(folder, standin, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "a-key")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", standin.base_url)
    with serving(folder / "birds.ctx", "--model", "pplx-embed-v1-4b") as (_, http):
        [found] = http.get("/v1/collections").json()["data"]
        assert found["queries"] == "api"
        with Client(api_key="k", base_url=standin.base_url) as client, Collection.open(folder / "birds.ctx") as birds:
            expected = [(hit.document, hit.chunk) for hit in birds.search("heron", client=client)]
        assert [(hit["document"], hit["chunk"]) for hit in search(http, query="heron")["hits"]] == expected
        families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
        assert families["ctxembed_query_api_tokens"].samples[0].value > 0
        assert families["ctxembed_query_api_cost_usd"].samples[0].value > 0
        refused = http.post("/v1/search", json={"query": "a <|endoftext|> b"})
        assert refused.status_code == 422


def test_an_api_that_fails_is_named(folder, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("PERPLEXITY_API_KEY", "a-secret-key")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", f"http://127.0.0.1:{port}")
    with serving(folder / "birds.ctx", "--model", "pplx-embed-v1-4b") as (server, http):
        response = http.post("/v1/search", json={"query": "heron"}, timeout=60)
        assert response.status_code == 502
        assert "could not be embedded" in response.json()["error"]["message"]
        assert "a-secret-key" not in response.text + server.stderr


def test_without_a_key_vectors_can_be_searched_all_the_same(folder, birds, monkeypatch):
    for name in ("PERPLEXITY_API_KEY", "PPLX_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving(folder / "birds.ctx", "--model", "pplx-embed-v1-4b") as (_, http):
        response = http.post("/v1/search", json={"query": "heron"})
        assert response.status_code == 503
        assert "PERPLEXITY_API_KEY" in response.json()["error"]["message"]
        assert http.get("/v1/collections").json()["data"][0]["queries"] is None
        assert search(http, vector=birds.vectors()[0].tolist(), k=1)["hits"][0]["score"] > 0.99


# --- the life of a server ---


def test_what_a_writer_commits_is_found_and_no_search_fails_meanwhile(tmp_path, standin):
    path = ingest(tmp_path / "moving.ctx", standin, documents(40))
    failed, stop = [], threading.Event()

    def ask(base_url):
        with httpx.Client(base_url=base_url, trust_env=False, timeout=30) as own:
            while not stop.is_set():
                response = own.post("/v1/search", json={"query": "heron", "k": 5, "where": "year > 1980"})
                if response.status_code != 200 or len(response.json()["hits"]) != 5:
                    failed.append(response.text)

    with serving(path) as (server, http), ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, server.base_url) for _ in range(4)]
        try:
            with Client(api_key="k", base_url=standin.base_url) as client, Collection.open(path) as writer:
                for first in (40, 80, 120):
                    writer.ingest(documents(40, first), client)
                writer.delete([f"birds/{number}.md" for number in range(30)])
                writer.compact()
            wait_for(http, lambda found: found["documents"] == 130 and found["deleted_chunks"] == 0)
        finally:
            stop.set()
            for one in asking:
                one.result(timeout=60)
        assert not failed
        hits = search(http, "moving", query=texts(150)[1], k=1)["hits"]
        assert (hits[0]["document"], hits[0]["chunk"]) == ("birds/150.md", 1)
        assert http.get("/v1/documents/moving/birds/7.md").status_code == 404


def wait_for(http, condition):
    """Follow the events of a collection until its state is as it should be."""
    name = http.get("/v1/collections").json()["data"][0]["name"]
    with http.stream("GET", f"/v1/collections/{name}/events", timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data:") and condition(http.get(f"/v1/collections/{name}").json()):
                return


def test_events_tell_of_a_job_and_of_who_writes(tmp_path, standin):
    path = ingest(tmp_path / "moving.ctx", standin, documents(2))
    with serving(path) as (_, http), http.stream("GET", "/v1/collections/moving/events", timeout=60) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data:"))
        first = json.loads(next(lines)[5:])
        assert (first["documents"], first["chunks"], first["failed"], first["writer"]) == (2, 6, 0, None)
        with Client(api_key="k", base_url=standin.base_url) as client, Collection.open(path) as writer:
            writing = json.loads(next(lines)[5:])
            assert writing["writer"]["pid"] == os.getpid()
            writer.ingest(documents(5), client)
            states = [json.loads(next(lines)[5:])]
            while states[-1]["documents"] < 5:
                states.append(json.loads(next(lines)[5:]))
        last = states[-1]
        assert last["requests"] > first["requests"]
        assert float(last["cost_usd"]) > float(first["cost_usd"])
        while json.loads(next(lines)[5:])["writer"] is not None:
            pass


def test_a_folder_that_is_replaced_is_opened_anew(tmp_path, standin):
    path = ingest(tmp_path / "birds.ctx", standin, documents(4))
    with serving(path) as (_, http):
        other = ingest(tmp_path / "other.ctx", standin, documents(9))
        path.rename(tmp_path / "old.ctx")
        other.rename(path)
        wait_until(lambda: http.get("/v1/collections/birds").json()["documents"] == 9)
        shutil.rmtree(path)
        assert search(http, query="heron", k=1)["hits"]  # what was read last is served on


def wait_until(condition):
    done = threading.Event()
    while not condition():
        assert not done.wait(0.05)


def test_a_server_that_is_stopped_responds_to_all_that_it_has_begun(folder):
    with serving(folder / "birds.ctx", "--model", "stand-in") as (server, http):
        search(http, query="heron")
        statuses = []

        def ask(number):
            with httpx.Client(base_url=server.base_url, trust_env=False, timeout=30) as own:
                search(own, query="heron")  # connected
                started.wait(30)
                statuses.append(own.post("/v1/search", json={"query": f"heron {number}", "k": 50}).status_code)

        started = threading.Barrier(33)
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        with http.stream("GET", "/v1/collections/birds/events") as events:
            started.wait(30)
            wait_until(lambda: len(statuses) > 0)
            os.kill(server.pid, signal.SIGTERM)
            for _ in events.iter_raw():  # ends with the server
                pass
        for thread in threads:
            thread.join(timeout=30)
        assert set(statuses) == {200}


def test_a_damaged_collection_is_an_error_that_names_no_path(tmp_path, standin):
    path = ingest(tmp_path / "birds.ctx", standin, documents(4))
    with sqlite3.connect(path / "catalogue.sqlite") as connection:
        connection.execute("UPDATE chunks SET text = 'another text' WHERE row = 0")
    connection.close()
    with serving(path) as (_, http):
        [found] = [http.post("/v1/search", json={"query": "heron", "k": 100})]
        assert found.status_code == 500
        assert "damaged" in found.json()["error"]["message"]
        assert str(tmp_path) not in found.text
        response = http.post("/v1/search", json={"query": texts(3)[0], "k": 1})
        assert response.status_code == 200


def test_a_collection_that_cannot_be_opened_ends_the_server_before_it_listens(tmp_path):
    with (
        pytest.raises(RuntimeError, match="no such collection"),
        ServerProcess("--collection", str(tmp_path / "no.ctx")),
    ):
        pass
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Collection.create(tmp_path / name / "birds.ctx", model=CONTEXT_MODEL, dimensions=DIMS).close()
    with (
        pytest.raises(RuntimeError, match="two collections are called 'birds'"),
        ServerProcess(*(f"--collection={tmp_path / name / 'birds.ctx'}" for name in ("a", "b"))),
    ):
        pass


def test_callers_that_hang_up_leave_nothing_behind(served, http):
    host, port = served.base_url.removeprefix("http://").split(":")
    body = json.dumps({"queries": [f"query {number}" for number in range(200)], "k": 50}).encode()
    head = f"POST /v1/search HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    assert search(http, query="heron")["hits"]

    def waiting():
        families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
        return (
            families["ctxembed_scan_waiting"].samples[0].value + families["ctxembed_embedder_requests"].samples[0].value
        )

    wait_until(lambda: waiting() == 0)
    assert "Traceback" not in served.stderr


def test_heads_of_requests_are_bounded_in_bytes(served):
    host, port = served.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n")
            for _ in range(100):
                connection.sendall(b"x-filler: " + b"a" * 4000 + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1 << 16).startswith((b"HTTP/1.1 400", b""))
