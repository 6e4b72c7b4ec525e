"""Each fault has exactly its documented effect, on exactly the requests it applies to."""

from __future__ import annotations

import asyncio
import gzip
import json

import httpx
import pytest
from ctxembed._server.faults import NAMED, Fault, fault_label, parse_fault
from ctxembed._server.faults.plan import FaultSchedule
from ctxembed._server.faults.response import FaultyResponse

TEXTS = "/v1/embeddings"
DOCUMENTS = [["one", "two", "three"], ["four"], ["five", "six"]]


def header(fault):
    return {"x-fault": json.dumps(fault)}


def indexes(response):
    return [(document["index"], [item["index"] for item in document["data"]]) for document in response.json()["data"]]


@pytest.mark.parametrize("status", [400, 402, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 529, 599])
def test_a_status_fault_returns_a_json_error(api, status):
    response = api.texts("a", headers=header({"status": status}))
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


def test_a_422_fault_has_the_documented_format(api):
    response = api.texts("a", headers=header({"status": 422}))
    assert response.status_code == 422
    assert set(response.json()["detail"][0]) == {"loc", "msg", "type"}


def test_a_401_fault_is_an_html_page(api):
    response = api.texts("a", headers=header({"status": 401}))
    assert response.status_code == 401
    assert response.headers["content-type"].startswith("text/html")


def test_fault_headers_are_added_to_the_response(api):
    fault = {"status": 429, "headers": {"Retry-After": "7", "x-ratelimit-remaining": "0"}}
    response = api.texts("a", headers=header(fault))
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-ratelimit-remaining"] == "0"


def test_a_delay_pauses_before_the_response(in_process, embed_text, clock):
    (response,) = in_process(embed_text(fault={"delay": 0.25}))
    assert (response.status_code, clock.pauses) == (200, [0.25])


def send_body(fault, body, clock):
    """Send a response through ASGI; return the pieces of its body."""
    messages = []

    async def send(message):
        messages.append(message)

    async def run():
        response = FaultyResponse(
            body,
            status_code=200,
            headers={},
            media_type="application/json",
            fault=parse_fault(fault),
            stopping=asyncio.Event(),
            clock=clock,
        )
        await response({"type": "http"}, None, send)

    asyncio.run(run())
    return [message["body"] for message in messages if message["type"] == "http.response.body"]


def test_a_stall_pauses_inside_the_body(api, clock):
    fault = {"stall": {"after": 4, "seconds": 0.3}}
    assert send_body(fault, b"0123456789", clock) == [b"0123", b"456789", b""]
    assert clock.pauses == [0.3]
    stalled = api.texts("a", headers=header({"stall": {"after": 4, "seconds": 0.01}}))
    assert stalled.content == api.texts("a").content


@pytest.mark.parametrize("after", [0, 1, 100, 10**9])
def test_a_truncated_body_is_shorter_than_its_content_length(api, after):
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        api.texts("a", headers=header({"truncate": {"after": after}}))


def test_a_truncated_body_ends_at_the_requested_byte(server, receive_all):
    head, _, body = receive_all(server, {"truncate": {"after": 25}}).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"x-request-id: " in head
    assert len(body) == 25
    assert b"content-length: 1" in head


def test_a_chunked_body_can_be_truncated(api):
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        api.texts("a", headers=header({"truncate": {"after": 50}, "chunked": True}))


def test_a_chunked_response_is_complete_without_truncation(api):
    response = api.texts("a", headers=header({"chunked": True}))
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert response.content == api.texts("a").content


@pytest.mark.parametrize("reset", [True, {"after": 0}, {"after": 64}])
def test_a_reset_ends_the_connection(api, reset):
    with pytest.raises(httpx.ReadError, match="reset"):
        api.texts("a", headers=header({"reset": reset}))


def test_the_server_keeps_working_after_broken_connections(api, server):
    for fault in ({"reset": True}, {"truncate": {"after": 5}}, {"reset": {"after": 9}}):
        with pytest.raises(httpx.TransportError):
            api.texts("a", headers=header(fault))
    assert api.texts("a").status_code == 200
    assert "Traceback" not in server.stderr


def test_a_shuffled_response_has_all_rows_in_another_order(api):
    plain = api.documents(DOCUMENTS, dimensions=128)
    shuffled = api.documents(DOCUMENTS, dimensions=128, headers=header({"shuffle": True}))
    assert indexes(shuffled) != indexes(plain)
    assert [n for n, _ in indexes(shuffled)] != [0, 1, 2]

    def rows(response):
        return {
            (document["index"], item["index"]): item["embedding"]
            for document in response.json()["data"]
            for item in document["data"]
        }

    assert rows(shuffled) == rows(plain)


def test_texts_can_be_shuffled(api):
    data = api.texts(["a", "b", "c", "d"], headers=header({"shuffle": 3})).json()["data"]
    assert sorted(item["index"] for item in data) == [0, 1, 2, 3]
    assert [item["index"] for item in data] != [0, 1, 2, 3]


def test_a_chunk_can_be_missing(api):
    response = api.documents(DOCUMENTS, headers=header({"missing_chunk": [0, 1]}))
    assert indexes(response) == [(0, [0, 2]), (1, [0]), (2, [0, 1])]


def test_a_text_can_be_missing(api):
    data = api.texts(["a", "b", "c"], headers=header({"missing_chunk": [1, 0]})).json()["data"]
    assert [item["index"] for item in data] == [0, 2]


def test_a_chunk_can_be_sent_twice(api):
    response = api.documents(DOCUMENTS, headers=header({"duplicate_chunk": [2, 0]}))
    assert indexes(response) == [(0, [0, 1, 2]), (1, [0]), (2, [0, 0, 1])]


def test_a_position_beyond_the_input_means_its_last_chunk(api):
    response = api.documents(DOCUMENTS, headers=header({"missing_chunk": [99, 99]}))
    assert indexes(response) == [(0, [0, 1, 2]), (1, [0]), (2, [0])]


def test_a_vector_can_contain_invalid_base64(api):
    response = api.documents(DOCUMENTS, headers=header({"corrupt_chunk": [1, 0]}))
    broken = [["*" in item["embedding"] for item in document["data"]] for document in response.json()["data"]]
    assert broken == [[False, False, False], [True], [False, False]]


@pytest.mark.parametrize(("encoding_format", "characters"), [("base64_int8", 4 * 67), ("base64_binary", 4 * 9)])
def test_vectors_can_have_other_dimensions(api, encoding_format, characters):
    fault = header({"dimensions": 200})
    response = api.texts("a", dimensions=128, encoding_format=encoding_format, headers=fault)
    assert len(response.json()["data"][0]["embedding"]) == characters


def test_a_response_can_name_another_model(api):
    assert api.texts("a", headers=header({"model": 'an "other"'})).json()["model"] == 'an "other"'


def test_every_optional_key_can_be_left_out(api):
    bare = api.documents(DOCUMENTS, headers=header({"omit": ["usage", "object", "index", "model"]})).json()
    assert set(bare) == {"data"}
    assert all(set(document) == {"data"} for document in bare["data"])
    assert all(set(item) == {"embedding"} for document in bare["data"] for item in document["data"])
    usage = api.documents(DOCUMENTS, headers=header({"omit": ["cost"]})).json()["usage"]
    assert set(usage) == {"prompt_tokens", "total_tokens"}
    assert api.texts("a", headers=header({"omit": ["usage", "object", "index", "model", "data"]})).json() == {}
    flat = api.texts("a", headers=header({"omit": ["index", "object"]})).json()
    assert set(flat["data"][0]) == {"embedding"}


def test_a_200_can_be_html_or_empty_or_garbage(api):
    page = api.texts("a", headers=header({"payload": "html"}))
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert page.text.startswith("<html>")
    nothing = api.texts("a", headers=header({"payload": "empty"}))
    assert (nothing.status_code, nothing.content) == (200, b"")
    garbage = api.texts("a", headers=header({"payload": "garbage"}))
    assert garbage.status_code == 200
    with pytest.raises(ValueError, match=r"utf-8|JSON|Invalid"):
        garbage.json()


def test_a_fault_can_replace_the_body(api):
    response = api.texts("a", headers=header({"status": 500, "body": "plain words"}))
    assert (response.status_code, response.text) == (500, "plain words")


def test_a_body_can_be_compressed_with_a_right_or_wrong_label(api):
    plain = api.texts("a").content
    labelled = api.texts("a", headers=header({"encoding": "gzip"}))
    assert labelled.headers["content-encoding"] == "gzip"
    assert labelled.content == plain
    silent = api.texts("a", headers=header({"encoding": "unlabelled-gzip"}))
    assert "content-encoding" not in silent.headers
    assert gzip.decompress(silent.content) == plain
    with pytest.raises(httpx.DecodingError):
        api.texts("a", headers=header({"encoding": "mislabelled-gzip"}))


SLOW = ("stall", "delay", "slow-loris")


@pytest.mark.parametrize("name", [name for name in NAMED if name not in (*SLOW, "gzip-bomb")])
def test_every_named_fault_takes_effect(api, name):
    if NAMED[name].breaks_connection and name != "drop":
        with pytest.raises(httpx.TransportError):
            api.documents(DOCUMENTS, headers=header(name))
    elif name == "mislabelled-gzip":
        with pytest.raises(httpx.DecodingError):
            api.documents(DOCUMENTS, headers=header(name))
    else:
        assert api.documents(DOCUMENTS, headers=header(name)).status_code == (NAMED[name].status or 200)


def test_a_trickle_sends_a_few_bytes_at_a_time(api, clock):
    fault = {"trickle": {"bytes": 4, "seconds": 0.5}}
    assert send_body(fault, b"0123456789", clock) == [b"0123", b"4567", b"89", b""]
    assert clock.pauses == [0.5, 0.5, 0.5]
    trickled = api.texts("a", headers=header({"trickle": {"bytes": 100, "seconds": 0.001}}))
    assert trickled.content == api.texts("a").content


def test_the_server_can_hang_up_without_a_response(server, receive_all):
    assert receive_all(server, "hang-up") == b""


def test_the_server_can_close_the_connection_unannounced_after_a_response(server, receive_all):
    head, _, body = receive_all(server, "drop", input=["a", "b"]).partition(b"\r\n\r\n")
    assert b"connection: close" not in head.lower()
    assert len(json.loads(body)["data"]) == 2


def test_the_server_can_send_bytes_that_are_not_http(server, receive_all):
    assert receive_all(server, {"raw": "220 mail ready"}) == b"220 mail ready"


def test_documents_can_be_missing_or_duplicated_and_chunks_added(api):
    assert [n for n, _ in indexes(api.documents(DOCUMENTS, headers=header({"missing_document": 1})))] == [0, 2]
    assert [n for n, _ in indexes(api.documents(DOCUMENTS, headers=header({"duplicate_document": 1})))] == [0, 1, 1, 2]
    extra = api.documents(DOCUMENTS, headers=header({"extra_chunk": 1}))
    assert indexes(extra) == [(0, [0, 1, 2]), (1, [0, 1]), (2, [0, 1])]


def test_retry_after_can_be_seconds_or_a_date(in_process, embed_text):
    seconds, date = in_process(
        embed_text(fault={"status": 429, "retry_after": 1.5}),
        embed_text(fault={"status": 429, "retry_after": {"date": 60}}),
    )
    assert seconds.headers["retry-after"] == "1.5"
    assert date.headers["retry-after"] == "Thu, 01 Jan 1970 00:01:00 GMT"


def test_a_body_can_be_padded_or_become_a_gzip_bomb(api):
    assert api.texts("a", headers=header({"pad": 100_000})).content.endswith(b"}" + b" " * 100_000)
    with api.http.stream(
        "POST", TEXTS, json={"input": "a", "model": "pplx-embed-v1-0.6b"}, headers=header("gzip-bomb")
    ) as response:
        packed = b"".join(response.iter_raw())
    plain = api.texts("a").content
    unpacked = gzip.decompress(packed)  # its checksum is right
    assert len(packed) < 1_000_000
    assert len(unpacked) == len(plain) + NAMED["gzip-bomb"].pad
    assert unpacked.startswith(plain)
    assert unpacked.endswith(b" " * 1_000_000)


def test_a_gzip_body_can_end_halfway_and_a_content_coding_be_unknown(api):
    with api.http.stream(
        "POST", TEXTS, json={"input": "a", "model": "pplx-embed-v1-0.6b"}, headers=header("truncated-gzip")
    ) as response:
        packed = b"".join(response.iter_raw())
    assert len(packed) == int(response.headers["content-length"])
    with pytest.raises(EOFError):
        gzip.decompress(packed)
    assert api.texts("a", headers=header("unknown-coding")).headers["content-encoding"] == "x-nobody-knows"
    assert api.texts("a", headers=header("deflate")).json()["object"] == "list"


def test_each_request_uses_one_step_of_a_plan(api):
    plan = ["503", {"status": 429, "headers": {"retry-after": "1"}, "times": 2}, {}, {"shuffle": True}]
    assert api.http.post("/faults", json=plan).json() == {"steps": 4}
    statuses = [api.documents(DOCUMENTS).status_code for _ in range(3)]
    assert statuses == [503, 429, 429]
    assert api.http.get("/faults").json() == [{}, {"shuffle": 0}]
    assert indexes(api.documents(DOCUMENTS)) == [(0, [0, 1, 2]), (1, [0]), (2, [0, 1])]
    assert indexes(api.documents(DOCUMENTS)) != [(0, [0, 1, 2]), (1, [0]), (2, [0, 1])]
    assert api.http.get("/faults").json() == []
    assert api.documents(DOCUMENTS).status_code == 200


def test_a_fault_header_does_not_use_up_the_plan(api):
    api.http.post("/faults", json=["503"])
    assert api.texts("a", headers=header({"status": 500})).status_code == 500
    assert api.texts("a").status_code == 503


def test_other_machines_cannot_set_faults(in_process, embed_text):
    plan, deletion, request = in_process(
        ("POST", "/faults", {"json": ["503"]}),
        ("DELETE", "/faults", {}),
        embed_text(fault="503"),
        address="10.0.0.1",
    )
    assert (plan.status_code, deletion.status_code, request.status_code) == (403, 403, 200)


def test_an_application_without_its_server_returns_501_for_broken_connections(in_process, embed_text):
    complete, broken = in_process(embed_text(), embed_text(fault="reset"))
    assert (complete.status_code, broken.status_code) == (200, 501)


def test_a_plan_can_be_deleted(api):
    api.http.post("/faults", json=["503", "503"])
    assert api.http.delete("/faults").status_code == 204
    assert api.texts("a").status_code == 200


def test_broken_responses_are_charged_and_error_responses_are_not(fresh_server, connect):
    api = connect(fresh_server())
    with pytest.raises(httpx.RemoteProtocolError):
        api.texts(["a", "b"], headers=header("truncated"))
    api.texts(["a", "b"], headers=header("503"))
    stats = api.stats()
    assert stats["documents"] == 2
    assert stats["by_status"] == {"truncated": 1, "503": 1}


@pytest.mark.parametrize(("fault", "message"), [
    ({"status": 200}, "'status': expected an integer from 201 to 599, got 200"),
    ({"status": "500"}, "'status'"),
    ({"delay": -1}, "'delay'"),
    ({"delay": float("inf")}, "'delay'"),
    ({"delay": float("nan")}, "'delay'"),
    ({"omit": ["nothing"]}, "'omit'"),
    ({"omit": "usage"}, "'omit': expected a list"),
    ({"missing_chunk": [1]}, "'missing_chunk'"),
    ({"missing_chunk": [-1, 0]}, "'missing_chunk'"),
    ({"stall": {"after": 1}}, "'stall': expected an object with after and seconds"),
    ({"truncate": 5}, "'truncate'"),
    ({"truncate": {"after": 1}, "reset": True}, "exclude each other"),
    ({"headers": {"a": "b\r\nc: d"}}, "'headers'"),
    ({"headers": {"a b": "c"}}, "'headers'"),
    ({"headers": {"a": 1}}, "'headers'"),
    ({"headers": {"Content-Length": "5"}}, "framing"),
    ({"encoding": "br"}, "'encoding'"),
    ({"payload": "xml"}, "'payload'"),
    ({"chunked": 1}, "'chunked'"),
    ({"times": 1}, "'times': expected one of the fields"),
    ({"trickle": {"bytes": 0, "seconds": 1}}, "'trickle.bytes'"),
    ({"retry_after": -1}, "'retry_after'"),
    ({"retry_after": {"when": 1}}, "'retry_after'"),
    ({"pad": -1}, "'pad'"),
    ({"hang_up": True, "raw": "x"}, "'raw' and 'hang_up' exclude each other"),
    ({"unheard": 1}, "'unheard': expected one of the fields"),
    ("unheard", "expected one of none"),
    (5, "expected an object or a name"),
])  # fmt: skip
def test_an_invalid_fault_is_rejected_by_name(fault, message):
    with pytest.raises(ValueError, match=message):
        parse_fault(fault)


def test_an_invalid_plan_is_rejected_with_the_step(api):
    response = api.http.post("/faults", json=[{}, {"status": 1}])
    assert response.status_code == 422
    assert "step 1" in response.json()["detail"][0]["msg"]
    assert api.http.post("/faults", json={"stops": []}).status_code == 422
    assert api.http.post("/faults", content=b"{", headers={"content-type": "application/json"}).status_code == 422
    assert api.http.get("/faults").json() == []


@pytest.mark.parametrize("value", ["{", "[]", "5", '{"status": 1}'])
def test_an_invalid_fault_header_is_rejected(api, value):
    response = api.texts("a", headers={"x-fault": value})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["header", "x-fault"]


@pytest.mark.parametrize("name", NAMED)
def test_a_fault_round_trips_through_json(name):
    assert parse_fault(json.loads(json.dumps(NAMED[name].to_json()))) == NAMED[name]


def test_a_fault_label_is_its_name_or_its_fields():
    assert fault_label(NAMED["truncated"]) == "truncated"
    assert fault_label(Fault(status=503, retry_after=2.0)) == "status+retry_after"


def test_random_faults_hit_their_share_of_requests_repeatably():
    first, again = (FaultSchedule(0.3, 7, ["429", "reset"]) for _ in range(2))
    faults = [first.next_fault() for _ in range(2000)]
    assert faults == [again.next_fault() for _ in range(2000)]
    hits = [fault for fault in faults if fault != Fault()]
    assert 500 <= len(hits) <= 700
    assert {fault.status for fault in hits} == {429, None}


def test_a_fail_rate_makes_requests_fail(fresh_server, connect):
    api = connect(fresh_server(fail_rate=0.5, fail_seed=1, fail_kinds=("503", "429")))
    statuses = [api.texts("a").status_code for _ in range(40)]
    assert set(statuses) == {200, 429, 503}
