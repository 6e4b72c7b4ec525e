"""Models with input types: what each call sends, and the space and role that its vectors carry."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import AsyncClient, Client, Index, Model, SpaceError

from .conftest import KEY

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "v1_requests.json").read_text())
SMALL, LARGE = "pplx-embed-v2-context-0.6b", "pplx-embed-v2-context-9b"
V1, V1_TEXTS = "pplx-embed-context-v1-0.6b", "pplx-embed-v1-0.6b"
DOCUMENTS = [["First chunk.", "Second chunk."], ["Another document."]]


def response_body(request):
    """Return a response of the right shape, of zeros."""
    model = ctxembed.get_model(request["model"])
    width = request.get("dimensions", model.dimensions) // (8 if request["encoding_format"] == "base64_binary" else 1)
    entry = {"embedding": base64.b64encode(bytes(width)).decode()}
    texts = [rows if isinstance(rows, list) else [rows] for rows in request["input"]]
    data = [{"index": i, "data": [{"index": j, **entry} for j in range(len(rows))]} for i, rows in enumerate(texts)]
    if not isinstance(request["input"][0], list):
        data = [{"index": i, **entry} for i in range(len(texts))]
    return json.dumps({"data": data, "model": model.name}).encode()


class Calls:
    """The calls of one kind of client, by name. Each returns embeddings."""

    def __init__(self, kind, base_url, **options):
        self.kind = kind
        self.options = {"api_key": KEY, "base_url": base_url, **options}

    def __call__(self, name, documents, **options):
        if self.kind == "sync":
            with Client(**self.options) as client:
                found = self._method(client, name)(documents, **options)
                return self._result(name, list(found) if name == "stream" else found)
        return asyncio.run(self._call(name, documents, options))

    async def _call(self, name, documents, options):
        async with AsyncClient(**self.options) as client:
            found = self._method(client, name)(documents, **options)
            found = [part async for part in found] if name == "stream" else await found
            return self._result(name, found)

    @staticmethod
    def _method(client, name):
        return client.with_raw_response.create if name == "raw" else getattr(client, name)

    @staticmethod
    def _result(name, found):
        return found[0] if name == "stream" else found.parse() if name == "raw" else found


@pytest.fixture(params=["sync", "async"])
def calls(request, scripted_server):
    def respond(received):
        return 200, scripted_server.extra_headers, response_body(received)

    scripted_server.extra_headers = {}
    scripted_server.script = respond
    return Calls(request.param, scripted_server.base_url)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda entry: f"{entry['call']}-{entry['model']}")
def test_the_bytes_of_requests_of_v1_models_are_those_of_version_0_1(calls, scripted_server, recorded):
    documents = json.loads(recorded["body"])["input"]
    if recorded["call"] == "embed_queries":
        documents = [query for (query,) in documents]
    calls(
        recorded["call"],
        documents,
        model=recorded["model"],
        dimensions=recorded["dimensions"],
        encoding_format=recorded["encoding_format"],
    )
    (sent,) = scripted_server.requests
    assert (sent["path"], sent["raw"]) == (recorded["path"], recorded["body"].encode())


ROLES = {"embed": "document", "stream": "document", "create": "document", "raw": "document", "embed_queries": "query"}


@pytest.mark.parametrize("call", ROLES)
@pytest.mark.parametrize(("model", "dimensions"), [(SMALL, None), (SMALL, 1024), (LARGE, None), (LARGE, 1024)])
def test_each_call_sends_its_role_and_its_vectors_carry_it(calls, scripted_server, call, model, dimensions):
    documents = ["a question"] if call == "embed_queries" else DOCUMENTS
    emb = calls(call, documents, model=model, dimensions=dimensions)
    assert scripted_server.requests[-1]["input_type"] == ROLES[call]
    expected = dimensions or ctxembed.get_model(model).dimensions
    assert (emb.input_type, emb.model, emb.dimensions) == (ROLES[call], model, expected)
    assert emb.space == f"pplx-embed-v2-context@{emb.dimensions}"


@pytest.mark.parametrize("call", [*ROLES, "embed_texts"])
def test_v1_models_send_no_role_and_their_vectors_have_none(calls, scripted_server, call):
    documents = ["a text"] if call in ("embed_queries", "embed_texts") else DOCUMENTS
    model = V1_TEXTS if call == "embed_texts" else V1
    emb = calls(call, documents, model=model)
    assert "input_type" not in scripted_server.requests[-1]
    assert (emb.input_type, emb.space) == (None, model)


@pytest.mark.parametrize("call", ["create", "raw"])
@pytest.mark.parametrize("role", ["document", "query", None])
def test_create_may_override_the_role(calls, scripted_server, call, role):
    emb = calls(call, DOCUMENTS, model=SMALL, input_type=role)
    assert scripted_server.requests[-1]["input_type"] == emb.input_type == (role or "document")


@pytest.mark.parametrize("call", ["create", "raw"])
@pytest.mark.parametrize(
    ("model", "role", "words"),
    [
        (V1, "query", "input_type must be None for pplx-embed-context-v1-0.6b, which has no input types, got 'query'"),
        (SMALL, "passage", "input_type must be 'document', 'query' or None, got 'passage'"),
        (SMALL, 1, "input_type must be 'document', 'query' or None, got 1"),
    ],
)
def test_a_wrong_role_is_refused_before_anything_is_sent(calls, scripted_server, call, model, role, words):
    with pytest.raises(ValueError, match=words):
        calls(call, DOCUMENTS, model=model, input_type=role)
    assert scripted_server.requests == []


def test_a_text_model_with_input_types_sends_the_documents_role(calls, scripted_server):
    ctxembed.register_model(Model("texts-with-roles", 128, None, contextualized=False, input_types=True))
    assert calls("embed_texts", ["a"], model="texts-with-roles").input_type == "document"
    assert scripted_server.requests[-1]["input_type"] == "document"


def test_a_contextualized_model_is_refused_for_texts(calls):
    with pytest.raises(ValueError, match="contextualized"):
        calls("embed_texts", ["a"], model=SMALL)


@pytest.mark.parametrize("call", [*ROLES, "embed_texts"])
def test_the_space_of_a_server_is_taken_over(calls, scripted_server, call):
    scripted_server.extra_headers = {"X-CtxEmbed-Space": " stand-in:é ".encode().decode("latin-1")}
    documents = ["a text"] if call in ("embed_queries", "embed_texts") else DOCUMENTS
    emb = calls(call, documents, model=V1_TEXTS if call == "embed_texts" else SMALL)
    assert emb.space.startswith("stand-in:")


@pytest.mark.parametrize("header", ["", "  ", "x" * 5000])
def test_an_absurd_space_of_a_server_is_ignored(calls, scripted_server, header):
    scripted_server.extra_headers = {"x-ctxembed-space": header}
    assert calls("embed", DOCUMENTS, model=V1).space == V1


def test_vectors_of_two_spaces_are_never_in_one_result(calls, scripted_server):
    spaces = iter(["one", "one", "two", "one"])

    def respond(received):
        return 200, {"x-ctxembed-space": next(spaces)}, response_body(received)

    scripted_server.script = respond
    calls.options |= {"limits": ctxembed.Limits(documents=1), "max_concurrency": 1}
    documents = [["a"], ["b"], ["c"], ["d"]]
    emb = calls("embed", documents, model=V1, on_error="return")
    assert emb.space == "one"
    assert [len(rows) for rows in emb] == [1, 1, 0, 1]
    (failure,) = emb.failures
    assert isinstance(failure.error, SpaceError)
    assert failure.document == 2
    assert "'two'" in str(failure.error)


def test_documents_of_one_v2_model_are_searched_with_queries_of_the_other(calls):
    documents = calls("embed", DOCUMENTS, model=LARGE).truncate(1024)
    queries = calls("embed_queries", ["a"], model=SMALL)
    index = Index(1024)
    index.add(documents)
    assert index.search(queries, 2).ids.shape == (1, 2)
    with pytest.raises(SpaceError, match="of queries"):
        index.add(queries)
    with pytest.raises(SpaceError, match="of documents"):
        index.search(documents, 1)
    with pytest.raises(SpaceError, match="space"):
        index.search(calls("embed_queries", ["a"], model=V1), 1)


SEPARATORS = [(V1, "<|endoftext|>", "<|chunk_sep|>"), (SMALL, "<|chunk_sep|>", "<|endoftext|>")]


@pytest.mark.parametrize("call", ["embed", "create", "stream"])
@pytest.mark.parametrize(("model", "own", "other"), SEPARATORS)
def test_a_chunk_may_not_hold_the_separator_of_its_model(calls, scripted_server, call, model, own, other):
    with pytest.raises((ValueError, ctxembed.EmbedError)) as caught:
        calls(call, [["fine"], ["a", f"é{own}"]], model=model)
    assert f"document 1, chunk 1: holds the separator {own!r} (character 1)" in str(caught.value)
    assert scripted_server.requests == []
    assert len(calls(call, [[f"é{other}"]], model=model)) == 1
    plan = ctxembed.plan([["a", f"é{own}"], [other]], model=model)
    assert [(problem.document, problem.chunk) for problem in plan.problems] == [(0, 1)]


def test_a_model_that_places_its_separator_by_token_id_refuses_no_text(calls):
    ctxembed.register_model(Model("no-separator", 128, None, separator=None))
    assert len(calls("embed", [["<|endoftext|>", "<|chunk_sep|>"]], model="no-separator")) == 1
    assert len(calls("create", [["<|endoftext|>", "<|chunk_sep|>"]], model="no-separator")) == 1
    ctxembed.register_model(Model("own-separator", 128, None, separator="SEP"))
    with pytest.raises(ValueError, match="'SEP'"):
        calls("create", [["a SEP b"]], model="own-separator")


def test_the_estimate_for_another_vocabulary_is_a_quarter_larger():
    documents = [["The heron stood in the reeds and caught a silver fish. " * 20]]
    known = ctxembed.plan(documents, model=V1)
    other = ctxembed.plan(documents, model=SMALL)
    assert other.tokens == known.tokens + known.tokens // 4
    assert other.tokens_upper == known.tokens_upper
    assert not other.exact_tokens
    exact = ctxembed.plan(documents, model=SMALL, token_counter=lambda texts: [7] * len(texts))
    assert (exact.tokens, exact.exact_tokens) == (7, True)
    assert ctxembed.plan([["a" * 10]], model=SMALL).tokens <= 10


def test_only_a_counter_proves_a_document_of_another_vocabulary_too_long():
    words = "heron " * 40_000
    assert ctxembed.plan([[words]], model=V1).problems
    assert not ctxembed.plan([[words]], model=SMALL).problems
    counted = ctxembed.plan([[words]], model=SMALL, token_counter=lambda texts: [40_000] * len(texts))
    assert counted.problems


def test_windows_are_cut_by_the_estimate_of_the_model():
    document = [["heron " * 50] * 8]
    limits = ctxembed.Limits(tokens_per_document=250)
    known = ctxembed.split_long(document, limits=limits)
    other = ctxembed.split_long(document, limits=limits, model=SMALL)
    assert len(other.windows) > len(known.windows)


def test_vocabularies_are_calibrated_apart(server):
    with Client(KEY, base_url=server.base_url) as client:
        calibrations = client._state.calibrations
        assert calibrations.of(V1) is calibrations.of("pplx-embed-context-v1-4b") is calibrations.of(V1_TEXTS)
        assert calibrations.of(SMALL) is calibrations.of(LARGE)
        before = calibrations.of(V1)._mean.copy(), calibrations.of(SMALL)._mean.copy()
        client.embed([["word " * 500]])
        assert (calibrations.of(V1)._mean != before[0]).any()
        assert (calibrations.of(SMALL)._mean == before[1]).all()


@pytest.mark.parametrize(
    ("model", "dimensions", "space"),
    [
        (V1, 1024, V1),
        (V1, 256, V1),
        (SMALL, 1024, "pplx-embed-v2-context@1024"),
        (LARGE, 2048, "pplx-embed-v2-context@2048"),
    ],
)
def test_a_parsed_response_is_of_the_space_of_its_model(model, dimensions, space):
    request = {"model": model, "dimensions": dimensions, "encoding_format": "base64_int8", "input": [["a"]]}
    body = json.loads(response_body(request))
    emb = ctxembed.Embeddings.from_response(body)
    assert (emb.space, emb.input_type) == (space, None)
    named = ctxembed.Embeddings.from_response(body, space="stand-in:x", input_type="query")
    assert (named.space, named.input_type) == ("stand-in:x", "query")
    del body["model"]
    assert ctxembed.Embeddings.from_response(body).space is None


def test_the_space_and_the_role_survive_replacing_and_comparing():
    request = {"model": V1, "encoding_format": "base64_int8", "input": [["a"]]}
    emb = ctxembed.Embeddings.from_response(json.loads(response_body(request)), space="s", input_type="query")
    assert replace(emb, vectors=np.zeros((1, 8), np.int8)).space == "s"
    assert emb.to_binary().input_type == "query"
