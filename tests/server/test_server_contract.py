"""What the local server answers is what the API documents: fields, limits, errors, usage."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest

CONTEXT_MODELS = {"pplx-embed-context-v1-0.6b": (1024, "0.008"), "pplx-embed-context-v1-4b": (2560, "0.05")}
TEXT_MODELS = {"pplx-embed-v1-0.6b": (1024, "0.004"), "pplx-embed-v1-4b": (2560, "0.03")}


def refusal(response):
    """Return the one detail of a 422, after a check of its shape."""
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


def test_documents_come_back_nested_with_both_indexes(api):
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


def test_texts_come_back_flat(api):
    body = api.texts(["one", "two", "three"]).json()
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(3)]
    assert all(set(item) == {"object", "index", "embedding"} for item in body["data"])


def test_a_text_may_be_a_string_or_a_list_of_one(api):
    assert api.texts("hello").json() == api.texts(["hello"]).json()


@pytest.mark.parametrize(("model", "dimensions"), [(name, entry[0]) for name, entry in CONTEXT_MODELS.items()])
def test_documents_get_their_models_full_dimensions(api, model, dimensions):
    assert api.vectors([["hello"]], model=model).shape == (1, dimensions)
    assert api.vectors([["hello"]], model=model, encoding_format="base64_binary").shape == (1, dimensions // 8)


@pytest.mark.parametrize(("model", "dimensions"), [(name, entry[0]) for name, entry in TEXT_MODELS.items()])
def test_texts_get_their_models_full_dimensions(api, model, dimensions):
    assert len(api.texts("hello", model=model).json()["data"][0]["embedding"]) == -(-dimensions // 3) * 4


@pytest.mark.parametrize(("endpoint", "model", "price"), [
    *[("documents", name, entry[1]) for name, entry in CONTEXT_MODELS.items()],
    *[("texts", name, entry[1]) for name, entry in TEXT_MODELS.items()],
])  # fmt: skip
def test_usage_is_priced_to_the_last_digit_without_an_exponent(api, endpoint, model, price):
    response = getattr(api, endpoint)([["one two"]] if endpoint == "documents" else ["one two"], model=model)
    usage = json.loads(response.content, parse_float=Decimal)["usage"]
    assert set(usage) == {"prompt_tokens", "total_tokens", "cost"}
    assert usage["prompt_tokens"] == usage["total_tokens"] == 2
    expected = Decimal(price) * 2 / 1_000_000
    assert usage["cost"] == {"input_cost": expected, "total_cost": expected, "currency": "USD"}
    assert b"e-" not in response.content[-200:].lower()


def test_usage_counts_the_separators_between_chunks(api):
    assert api.documents([["one", "two", "three"], ["four"]]).json()["usage"]["total_tokens"] == 4 + 2


def test_every_response_has_a_request_id_of_its_own(api):
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
def test_documents_that_break_the_contract_are_refused_where_they_do(api, documents, place, kind):
    detail = refusal(api.documents(documents))
    assert (detail["loc"], detail["type"]) == (place, kind)


@pytest.mark.parametrize("documents", [
    [["a"]] * 512,
    [["a"] * 31] * 512,
    [["word " * 32_000]],
    [["word " * 15_999, "word " * 16_000]],
    [["word " * 30_000]] * 4,
])  # fmt: skip
def test_documents_at_the_limits_are_embedded(api, documents):
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
def test_texts_that_break_the_contract_are_refused(api, texts, kind):
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
def test_options_that_break_the_contract_are_refused_by_name(api, endpoint, options, field, kind):
    detail = refusal(getattr(api, endpoint)([["a"]] if endpoint == "documents" else ["a"], **options))
    assert (detail["loc"], detail["type"]) == (["body", field], kind)


def test_a_model_of_the_other_endpoint_is_refused_and_the_right_ones_are_named(api):
    wrong_way = refusal(api.documents([["a"]], model="pplx-embed-v1-4b"))
    other_way = refusal(api.texts(["a"], model="pplx-embed-context-v1-4b"))
    assert "'pplx-embed-context-v1-0.6b' or 'pplx-embed-context-v1-4b'" in wrong_way["msg"]
    assert "'pplx-embed-v1-0.6b' or 'pplx-embed-v1-4b'" in other_way["msg"]


def test_the_larger_model_takes_more_dimensions(api):
    assert api.vectors([["a"]], model="pplx-embed-context-v1-4b", dimensions=2560).shape == (1, 2560)
    detail = refusal(api.documents([["a"]], model="pplx-embed-context-v1-4b", dimensions=2561))
    assert detail["type"] == "less_than_equal"


@pytest.mark.parametrize("field", ["input", "model"])
def test_a_missing_field_is_named(api, field):
    body = {"input": [["a"]], "model": "pplx-embed-context-v1-0.6b"}
    del body[field]
    detail = refusal(api.http.post("/v1/contextualizedembeddings", json=body))
    assert (detail["loc"], detail["type"]) == (["body", field], "missing")


def test_all_that_is_wrong_is_told_at_once(api):
    response = api.documents([["a"]], model="nope", dimensions=1, encoding_format="float")
    places = {detail["loc"][1] for detail in response.json()["detail"]}
    assert places == {"model", "dimensions", "encoding_format"}


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b'{"input": [["\xff"]]}', b'{"input": [["\\ud800"]]}'])
def test_a_body_that_is_not_json_is_a_400_in_json(api, body):
    response = api.http.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == 400


def test_a_body_that_is_json_but_no_object_is_a_422(api):
    response = api.http.post("/v1/embeddings", content=b"[1]", headers={"content-type": "application/json"})
    assert refusal(response)["loc"] == ["body"]


def test_a_body_that_does_not_say_it_is_json_is_a_422(api):
    body = json.dumps({"input": "a", "model": "pplx-embed-v1-0.6b"})
    detail = refusal(api.http.post("/v1/embeddings", content=body, headers={"content-type": "text/plain"}))
    assert detail["loc"] == ["header", "content-type"]


def test_a_body_beyond_the_servers_size_is_a_413(fresh_server, connect):
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


def test_without_a_key_of_its_own_the_server_takes_any_but_none(api):
    assert api.texts("a", headers={"authorization": "Bearer whatever"}).status_code == 200
    assert api.texts("a", headers={"authorization": "Bearer"}).status_code == 401


def test_other_paths_and_methods_get_what_the_framework_says(api):
    assert api.http.get("/v1/embeddings").status_code == 405
    assert api.http.post("/v1/embeddings/", json={}).status_code == 404
    assert api.http.get("/docs").status_code == 404


def test_beyond_the_rate_limit_it_answers_429_and_says_when_to_come_back(fresh_server, connect):
    api = connect(fresh_server(requests_per_minute=2, burst=2))
    statuses = [api.texts("a").status_code for _ in range(3)]
    refused = api.texts("a")
    assert statuses == [200, 200, 429]
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["error"]["code"] == 429


def test_the_rate_limit_refills_continuously(fresh_server, connect):
    api = connect(fresh_server(tokens_per_minute=6000))  # 100 a second
    assert api.texts("word " * 6000).status_code == 200
    assert api.texts("word " * 6000).status_code == 429
    for _ in range(200):
        if api.texts("a word").status_code == 200:
            break
    else:
        pytest.fail("two tokens were not admitted again within 200 attempts")


def test_healthz_answers_without_a_key(server):
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


def test_stats_see_how_many_requests_were_under_way_at_once(fresh_server, connect):
    api = connect(fresh_server(latency=0.3))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: api.texts("a"), range(4)))
    assert 2 <= api.stats()["peak_in_flight"] <= 4


def test_answers_take_the_latency_at_least(fresh_server, connect):
    response = connect(fresh_server(latency=0.2)).texts("a")
    assert response.elapsed.total_seconds() >= 0.2


def test_kept_answers_are_the_answers(fresh_server, connect):
    plain, keeping = connect(fresh_server()), connect(fresh_server(cache=1))
    for texts in (["a"], ["a"], ["b"], ["a"]):
        assert keeping.texts(texts).content == plain.texts(texts).content
    assert keeping.documents([["a"]]).content == plain.documents([["a"]]).content
    assert keeping.texts(["a"], headers={"authorization": ""}).status_code == 401
    assert keeping.stats()["documents"] == plain.stats()["documents"]
