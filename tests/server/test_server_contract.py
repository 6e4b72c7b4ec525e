"""The server keeps the API's documented contract: fields, limits, errors, usage."""

from __future__ import annotations

import json
import time
from decimal import Decimal

import ctxembed
import httpx
import pytest

CONTEXT_MODELS = {"pplx-embed-context-v1-0.6b": (1024, "0.008"), "pplx-embed-context-v1-4b": (2560, "0.05")}
TEXT_MODELS = {"pplx-embed-v1-0.6b": (1024, "0.004"), "pplx-embed-v1-4b": (2560, "0.03")}
SMALL_ROLE_MODEL = "pplx-embed-v2-context-0.6b"
ROLE_MODEL = "pplx-embed-v2-context-9b"
TEXT_ROLE_MODEL = ctxembed.Model("texts-with-roles", 512, None, contextualized=False, input_types=True)


def detail_of(response):
    """Check the format of a 422, and return its single detail."""
    assert response.status_code == 422, response.text
    body = response.json()
    assert set(body) == {"detail"}
    for detail in body["detail"]:
        assert set(detail) == {"loc", "msg", "type"}
        assert isinstance(detail["loc"], list)
        assert isinstance(detail["msg"], str)
        assert isinstance(detail["type"], str)
    assert len(body["detail"]) == 1, body
    return body["detail"][0]


def test_a_documents_response_is_nested_with_both_indexes(api):
    response = api.documents([["one", "two"], ["three"]])
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert body["object"] == "list"
    assert body["model"] == "pplx-embed-context-v1-0.6b"
    assert [(document["object"], document["index"]) for document in body["data"]] == [("list", 0), ("list", 1)]
    items = [[(item["object"], item["index"]) for item in document["data"]] for document in body["data"]]
    assert items == [[("embedding", 0), ("embedding", 1)], [("embedding", 0)]]


def test_a_texts_response_is_flat(api):
    body = api.texts(["one", "two", "three"]).json()
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(3)]
    assert all(set(item) == {"object", "index", "embedding"} for item in body["data"])


def test_a_text_may_be_a_string_or_a_list_of_one(api):
    assert api.texts("hello").json() == api.texts(["hello"]).json()


@pytest.mark.parametrize(("model", "dimensions"), [(name, entry[0]) for name, entry in CONTEXT_MODELS.items()])
def test_document_vectors_have_the_models_dimensions_by_default(api, model, dimensions):
    assert api.vectors([["hello"]], model=model).shape == (1, dimensions)
    assert api.vectors([["hello"]], model=model, encoding_format="base64_binary").shape == (1, dimensions // 8)


@pytest.mark.parametrize(("model", "dimensions"), [(name, entry[0]) for name, entry in TEXT_MODELS.items()])
def test_text_vectors_have_the_models_dimensions_by_default(api, model, dimensions):
    assert len(api.texts("hello", model=model).json()["data"][0]["embedding"]) == -(-dimensions // 3) * 4


@pytest.mark.parametrize(("endpoint", "model", "price"), [
    *[("documents", name, entry[1]) for name, entry in CONTEXT_MODELS.items()],
    *[("texts", name, entry[1]) for name, entry in TEXT_MODELS.items()],
])  # fmt: skip
def test_cost_is_exact_and_has_no_exponent(api, endpoint, model, price):
    response = getattr(api, endpoint)([["one two"]] if endpoint == "documents" else ["one two"], model=model)
    usage = json.loads(response.content, parse_float=Decimal)["usage"]
    assert set(usage) == {"prompt_tokens", "total_tokens", "cost"}
    assert usage["prompt_tokens"] == usage["total_tokens"] == 2
    expected = Decimal(price) * 2 / 1_000_000
    assert usage["cost"] == {"input_cost": expected, "total_cost": expected, "currency": "USD"}
    assert b"e-" not in response.content[-200:].lower()


def test_a_model_without_a_price_has_usage_without_cost(api):
    usage = api.documents([["one two"]], model=SMALL_ROLE_MODEL, input_type="document").json()["usage"]
    assert usage == {"prompt_tokens": 2, "total_tokens": 2}


@pytest.mark.parametrize("input_type", ["document", "query"])
def test_roles_do_not_change_the_cost(api, input_type):
    response = api.documents([["one", "two"]], model=ROLE_MODEL, input_type=input_type)
    usage = json.loads(response.content, parse_float=Decimal)["usage"]
    assert (usage["total_tokens"], usage["cost"]["total_cost"]) == (3, Decimal("0.12") * 3 / 1_000_000)


def test_usage_includes_the_separators_between_chunks(api):
    assert api.documents([["one", "two", "three"], ["four"]]).json()["usage"]["total_tokens"] == 4 + 2


def test_every_response_has_a_unique_request_id(api):
    responses = [
        api.texts("x"),
        api.texts(""),
        api.texts("x", headers={"authorization": ""}),
        api.texts("x", headers={"x-fault": '{"status": 503}'}),
        api.http.get("/nowhere"),
        api.http.get("/v1/embeddings"),
        api.http.get("/healthz"),
    ]
    identities = [response.headers["x-request-id"] for response in responses]
    assert all(identities)
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(("documents", "place", "kind"), [
    ([], ["body", "input"], "too_short"),
    ([["a"], []], ["body", "input", 1], "too_short"),
    ([["a", ""]], ["body", "input", 0, 1], "string_too_short"),
    ([["a", 1]], ["body", "input", 0, 1], "string_type"),
    ([["a", None]], ["body", "input", 0, 1], "string_type"),
    (["a"], ["body", "input", 0], "list_type"),
    ("a", ["body", "input"], "list_type"),
    (None, ["body", "input"], "list_type"),
    ([["a"]] * 513, ["body", "input"], "too_long"),
    ([["a"] * 8001, ["a"] * 8000], ["body", "input"], "too_long"),
    ([["a"], ["word " * 32_001]], ["body", "input", 1], "value_error"),
    ([["word " * 30_001]] * 4, ["body", "input"], "value_error"),
])  # fmt: skip
def test_invalid_documents_are_rejected_with_their_location(api, documents, place, kind):
    detail = detail_of(api.documents(documents))
    assert (detail["loc"], detail["type"]) == (place, kind)


@pytest.mark.parametrize("documents", [
    [["a"]] * 512,
    [["a"] * 31] * 512,
    [["word " * 32_000]],
    [["word " * 15_999, "word " * 16_000]],
    [["word " * 30_000]] * 4,
])  # fmt: skip
def test_documents_at_the_limits_are_accepted(api, documents):
    response = api.documents(documents, dimensions=128, encoding_format="base64_binary")
    assert response.status_code == 200, response.text
    assert [len(document["data"]) for document in response.json()["data"]] == [len(chunks) for chunks in documents]


@pytest.mark.parametrize(("texts", "kind"), [
    ([], "too_short"),
    ([""], "string_too_short"),
    (["a"] * 513, "too_long"),
    (["word " * 32_001], "value_error"),
    (["word " * 30_001] * 4, "value_error"),
])  # fmt: skip
def test_invalid_texts_are_rejected(api, texts, kind):
    response = api.texts(texts)
    assert response.status_code == 422
    details = response.json()["detail"]
    assert kind in [detail["type"] for detail in details]
    assert all(detail["loc"][:2] == ["body", "input"] for detail in details)


@pytest.mark.parametrize("endpoint", ["documents", "texts"])
@pytest.mark.parametrize(("options", "field", "kind"), [
    ({"dimensions": 127}, "dimensions", "greater_than_equal"),
    ({"dimensions": 1025}, "dimensions", "less_than_equal"),
    ({"dimensions": -1}, "dimensions", "greater_than_equal"),
    ({"dimensions": "128"}, "dimensions", "int_type"),
    ({"dimensions": 128.5}, "dimensions", "int_type"),
    ({"dimensions": True}, "dimensions", "int_type"),
    ({"dimensions": None}, "dimensions", "int_type"),
    ({"dimensions": 130, "encoding_format": "base64_binary"}, "dimensions", "multiple_of"),
    ({"encoding_format": "base64"}, "encoding_format", "literal_error"),
    ({"encoding_format": "float"}, "encoding_format", "literal_error"),
    ({"encoding_format": 1}, "encoding_format", "string_type"),
    ({"encoding_format": None}, "encoding_format", "string_type"),
    ({"model": "pplx-embed-context-v9"}, "model", "literal_error"),
    ({"model": ["pplx-embed-v1-0.6b"]}, "model", "string_type"),
])  # fmt: skip
def test_invalid_options_are_rejected_by_name(api, endpoint, options, field, kind):
    detail = detail_of(getattr(api, endpoint)([["a"]] if endpoint == "documents" else ["a"], **options))
    assert (detail["loc"], detail["type"]) == (["body", field], kind)


def test_a_model_of_the_other_endpoint_is_rejected_with_the_valid_names(api):
    documents = detail_of(api.documents([["a"]], model="pplx-embed-v1-4b"))
    texts = detail_of(api.texts(["a"], model="pplx-embed-context-v1-4b"))
    assert "'pplx-embed-context-v1-0.6b', 'pplx-embed-context-v1-4b', " in documents["msg"]
    assert "'pplx-embed-v1-4b'" not in documents["msg"]
    assert "'pplx-embed-v1-0.6b' or 'pplx-embed-v1-4b'" in texts["msg"]


def test_the_larger_model_accepts_more_dimensions(api):
    assert api.vectors([["a"]], model="pplx-embed-context-v1-4b", dimensions=2560).shape == (1, 2560)
    detail = detail_of(api.documents([["a"]], model="pplx-embed-context-v1-4b", dimensions=2561))
    assert detail["type"] == "less_than_equal"


@pytest.mark.parametrize(("model", "dimensions"), [(SMALL_ROLE_MODEL, 1024), (ROLE_MODEL, 1024), (ROLE_MODEL, 2048)])
@pytest.mark.parametrize("input_type", ["document", "query"])
def test_a_model_with_input_types_accepts_both_roles(api, model, dimensions, input_type):
    assert api.vectors([["a", "b"]], model=model, dimensions=dimensions, input_type=input_type).shape == (2, dimensions)


def test_a_model_with_input_types_has_its_largest_dimensions_by_default(api):
    assert api.vectors([["a"]], model=SMALL_ROLE_MODEL, input_type="query").shape == (1, 1024)
    assert api.vectors([["a"]], model=ROLE_MODEL, input_type="query").shape == (1, 2048)
    bits = api.vectors([["a"]], model=ROLE_MODEL, input_type="query", encoding_format="base64_binary")
    assert bits.shape == (1, 256)


@pytest.mark.parametrize("model", [SMALL_ROLE_MODEL, ROLE_MODEL])
def test_a_model_with_input_types_requires_one(api, model):
    detail = detail_of(api.documents([["a"]], model=model))
    assert (detail["loc"], detail["type"]) == (["body", "input_type"], "missing")
    assert detail["msg"].startswith("Field required")


@pytest.mark.parametrize("value", [None, 1, True, 0.5, "", "Query", "passage", "query ", ["query"], {"query": "query"}])
def test_an_unknown_input_type_is_rejected(api, value):
    detail = detail_of(api.documents([["a"]], model=ROLE_MODEL, input_type=value))
    assert (detail["loc"], detail["type"]) == (["body", "input_type"], "literal_error")
    assert detail["msg"] == "Input should be 'document' or 'query'"


@pytest.mark.parametrize("value", ["document", "query", "passage", None, 1])
@pytest.mark.parametrize(("endpoint", "model"), [
    *[("documents", name) for name in CONTEXT_MODELS],
    *[("texts", name) for name in TEXT_MODELS],
])  # fmt: skip
def test_an_input_type_is_rejected_for_a_model_without(api, endpoint, model, value):
    given = [["a"]] if endpoint == "documents" else ["a"]
    detail = detail_of(getattr(api, endpoint)(given, model=model, input_type=value))
    assert (detail["loc"], detail["type"]) == (["body", "input_type"], "extra_forbidden")
    assert model in detail["msg"]


@pytest.mark.parametrize(("model", "dimensions", "message"), [
    (SMALL_ROLE_MODEL, 512, "Input should be 1024"),
    (SMALL_ROLE_MODEL, 2048, "Input should be 1024"),
    (ROLE_MODEL, 64, "Input should be 1024 or 2048"),
    (ROLE_MODEL, 1025, "Input should be 1024 or 2048"),
    (ROLE_MODEL, 2560, "Input should be 1024 or 2048"),
])  # fmt: skip
@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_only_a_models_choices_of_dimensions_are_accepted(api, model, dimensions, message, encoding_format):
    options = {"dimensions": dimensions, "encoding_format": encoding_format}
    detail = detail_of(api.documents([["a"]], model=model, input_type="document", **options))
    assert (detail["loc"], detail["type"]) == (["body", "dimensions"], "literal_error")
    assert detail["msg"] == message


def test_all_problems_of_a_model_with_input_types_are_reported_at_once(api):
    response = api.documents([["a"]], model=ROLE_MODEL, dimensions=128, encoding_format="float")
    places = {detail["loc"][1] for detail in response.json()["detail"]}
    assert places == {"input_type", "dimensions", "encoding_format"}


def test_texts_of_a_model_with_input_types_have_a_role(in_process):
    roles = [{"input_type": "document"}, {"input_type": "query"}, {}, {"input_type": "other"}]
    bodies = [{"input": ["a"], "model": TEXT_ROLE_MODEL.name, **role} for role in roles]
    responses = in_process(*[("POST", "/v1/embeddings", {"json": body}) for body in bodies], models=(TEXT_ROLE_MODEL,))
    assert [response.status_code for response in responses] == [200, 200, 422, 422]
    first, second = (response.json()["data"][0]["embedding"] for response in responses[:2])
    assert first != second
    assert [detail_of(response)["type"] for response in responses[2:]] == ["missing", "literal_error"]


@pytest.mark.parametrize(("endpoint", "given", "options"), [
    *[("documents", [["a"]], {"model": name}) for name in CONTEXT_MODELS],
    *[("documents", [["a"]], {"model": name, "input_type": role})
      for name in (SMALL_ROLE_MODEL, ROLE_MODEL) for role in ("document", "query")],
    *[("texts", "a", {"model": name}) for name in TEXT_MODELS],
])  # fmt: skip
def test_every_response_with_vectors_names_their_space(api, endpoint, given, options):
    response = getattr(api, endpoint)(given, **options)
    assert response.headers["x-ctxembed-space"] == f"stand-in:{options['model']}"


def test_an_error_names_no_space(api):
    for response in (api.texts(""), api.texts("x", headers={"authorization": ""}), api.http.get("/healthz")):
        assert "x-ctxembed-space" not in response.headers


@pytest.mark.parametrize("field", ["input", "model"])
def test_a_missing_field_is_rejected_by_name(api, field):
    body = {"input": [["a"]], "model": "pplx-embed-context-v1-0.6b"}
    del body[field]
    detail = detail_of(api.http.post("/v1/contextualizedembeddings", json=body))
    assert (detail["loc"], detail["type"]) == (["body", field], "missing")


def test_all_problems_are_reported_at_once(api):
    response = api.documents([["a"]], model="nope", dimensions=1, encoding_format="float")
    places = {detail["loc"][1] for detail in response.json()["detail"]}
    assert places == {"model", "dimensions", "encoding_format"}


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b'{"input": [["\xff"]]}', b'{"input": [["\\ud800"]]}'])
def test_a_body_that_is_not_json_is_a_400_in_json(api, body):
    response = api.http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400


def test_a_json_body_that_is_not_an_object_is_a_422(api):
    response = api.http.post("/v1/embeddings", content=b"[1]", headers={"content-type": "application/json"})
    assert detail_of(response)["loc"] == ["body"]


def test_a_body_without_the_json_content_type_is_a_422(api):
    body = json.dumps({"input": "a", "model": "pplx-embed-v1-0.6b"})
    detail = detail_of(api.http.post("/v1/embeddings", content=body, headers={"content-type": "text/plain"}))
    assert detail["loc"] == ["header", "content-type"]


def test_a_body_above_max_body_bytes_is_a_413(fresh_server, connect):
    api = connect(fresh_server(max_body_bytes=1000))
    assert api.texts("a" * 2000).status_code == 413
    assert api.texts("a").status_code == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer wrong", "Basic right", "right"])
def test_a_missing_or_wrong_key_gets_an_html_page(fresh_server, connect, value):
    api = connect(fresh_server(key="right"))
    response = api.texts("a", headers={"authorization": value})
    assert response.status_code == 401
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<html>")
    assert api.texts("a", headers={"authorization": "Bearer right"}).status_code == 200


def test_without_a_configured_key_any_nonempty_key_is_accepted(api):
    assert api.texts("a", headers={"authorization": "Bearer whatever"}).status_code == 200
    assert api.texts("a", headers={"authorization": "Bearer"}).status_code == 401


def test_unknown_paths_and_methods_are_404_and_405(api):
    assert api.http.get("/v1/embeddings").status_code == 405
    assert api.http.post("/v1/embeddings/", json={}).status_code == 404
    assert api.http.get("/docs").status_code == 404


def test_a_429_gives_the_seconds_to_wait(in_process, embed_text):
    *accepted, rejected = in_process(*[embed_text()] * 3, requests_per_minute=2, burst=2)
    assert [response.status_code for response in accepted] == [200, 200]
    assert (rejected.status_code, rejected.headers["retry-after"]) == (429, "30")
    assert rejected.json()["error"]["code"] == 429


def test_the_rate_limit_refills_continuously(in_process, embed_text):
    full = embed_text("word " * 6000)
    two_tokens = embed_text("a word")
    responses = in_process(full, full, 0.015, two_tokens, 0.005, two_tokens, two_tokens, tokens_per_minute=6000)
    assert [response.status_code for response in responses] == [200, 429, 429, 200, 429]


def test_healthz_needs_no_key(server):
    assert httpx.get(server.base_url + "/healthz", trust_env=False).json() == {"status": "ok"}


def test_stats_count_requests_documents_and_chunks_by_status(fresh_server, connect):
    api = connect(fresh_server())
    api.documents([["a", "b"], ["c"]])
    api.texts(["a", "b"])
    api.texts("")
    stats = api.stats()
    assert (stats["requests"], stats["documents"], stats["chunks"]) == (3, 4, 5)
    assert stats["by_status"] == {"200": 2, "422": 1}
    assert stats["by_path"] == {"/v1/contextualizedembeddings": 1, "/v1/embeddings": 2}
    assert [entry["status"] for entry in stats["recent"]] == [200, 200, 422]
    assert api.http.delete("/stats").status_code == 204
    assert api.stats()["requests"] == 0


def test_stats_hold_neither_key_nor_text(fresh_server, connect):
    server = fresh_server("--access-log", key="sk-very-secret")
    api = connect(server, key="sk-very-secret")
    api.texts("a private sentence")
    kept = api.http.get("/stats").text + server.stderr
    assert "secret" not in kept
    assert "private" not in kept


def test_stats_count_concurrent_requests(fresh_server, connect, open_request):
    server = fresh_server()
    api = connect(server)
    for _ in range(4):
        open_request(server, {"delay": 60})
    while api.stats()["in_flight"] < 4:
        time.sleep(0.01)
    assert api.stats()["peak_in_flight"] == 4


def test_responses_wait_for_the_latency(in_process, embed_text, clock):
    (response,) = in_process(embed_text(), latency=0.25)
    assert (response.status_code, clock.pauses) == (200, [0.25])


def test_cached_responses_equal_computed_ones(fresh_server, connect):
    plain, caching = connect(fresh_server()), connect(fresh_server(cache=1))
    for texts in (["a"], ["a"], ["b"], ["a"]):
        assert caching.texts(texts).content == plain.texts(texts).content
    assert caching.documents([["a"]]).content == plain.documents([["a"]]).content
    assert caching.texts(["a"], headers={"authorization": ""}).status_code == 401
    assert caching.stats()["documents"] == plain.stats()["documents"]


def test_a_cached_response_names_the_space(fresh_server, connect):
    api = connect(fresh_server(cache=2))
    spaces = [api.texts("a").headers["x-ctxembed-space"] for _ in range(2)]
    assert spaces == ["stand-in:pplx-embed-v1-0.6b"] * 2


def test_cached_responses_keep_roles_apart(fresh_server, connect):
    api = connect(fresh_server(cache=4))
    rows = {role: api.vectors([["a"]], model=ROLE_MODEL, input_type=role).tobytes() for role in ("document", "query")}
    assert rows["document"] != rows["query"]
    assert rows == {role: api.vectors([["a"]], model=ROLE_MODEL, input_type=role).tobytes() for role in rows}
