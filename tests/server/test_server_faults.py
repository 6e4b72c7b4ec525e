"""What can be made to go wrong goes wrong exactly as asked, for exactly the requests that were meant."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from email.utils import parsedate_to_datetime

import httpx
import pytest
from ctxembed._server import ServerConfig, create_app
from ctxembed._server.faults import NAMED, Fault, label_of, parse_fault
from ctxembed._server.plan import FaultSource

TEXTS = "/v1/embeddings"
DOCUMENTS = [["one", "two", "three"], ["four"], ["five", "six"]]


def header(fault):
    return {"x-fault": json.dumps(fault)}


def indexes(response):
    return [(document["index"], [item["index"] for item in document["data"]]) for document in response.json()["data"]]


@pytest.mark.parametrize("status", [400, 402, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 529, 599])
def test_a_status_fault_answers_with_json(api, status):
    response = api.texts("a", headers=header({"status": status}))
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


def test_a_422_fault_has_the_shape_of_the_contract(api):
    response = api.texts("a", headers=header({"status": 422}))
    assert response.status_code == 422
    assert set(response.json()["detail"][0]) == {"loc", "msg", "type"}


def test_a_401_fault_is_an_html_page(api):
    response = api.texts("a", headers=header({"status": 401}))
    assert response.status_code == 401
    assert response.headers["content-type"].startswith("text/html")


def test_headers_are_added_to_the_answer(api):
    fault = {"status": 429, "headers": {"Retry-After": "7", "x-ratelimit-remaining": "0"}}
    response = api.texts("a", headers=header(fault))
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-ratelimit-remaining"] == "0"


def test_a_delay_holds_the_answer_back(api):
    assert api.texts("a", headers=header({"delay": 0.2})).elapsed.total_seconds() >= 0.2


def test_a_stall_pauses_inside_the_body(api):
    fault = {"stall": {"after": 10, "seconds": 0.3}}
    body = {"input": "a", "model": "pplx-embed-v1-0.6b"}
    with api.http.stream("POST", "/v1/embeddings", json=body, headers=header(fault)) as response:
        began = time.monotonic()
        pieces = [(piece, time.monotonic() - began) for piece in response.iter_raw()]
    assert pieces[0][0] == b'{"object":'
    assert pieces[-1][1] >= 0.25
    assert json.loads(b"".join(piece for piece, _ in pieces))["object"] == "list"


@pytest.mark.parametrize("after", [0, 1, 100, 10**9])
def test_a_truncated_body_is_shorter_than_its_content_length(api, after):
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        api.texts("a", headers=header({"truncate": {"after": after}}))


def test_a_truncated_body_ends_at_the_byte_that_was_asked_for(server):
    body = json.dumps({"input": "a", "model": "pplx-embed-v1-0.6b"})
    fault = json.dumps({"truncate": {"after": 25}})
    host, port = server.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-type: application/json\r\n"
            f"x-fault: {fault}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"x-request-id: " in head
    assert len(rest) == 25
    assert b"content-length: 1" in head


def test_a_chunked_body_can_be_cut_too(api):
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        api.texts("a", headers=header({"truncate": {"after": 50}, "chunked": True}))


def test_a_chunked_answer_is_whole_without_a_cut(api):
    response = api.texts("a", headers=header({"chunked": True}))
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert response.content == api.texts("a").content


@pytest.mark.parametrize("reset", [True, {"after": 0}, {"after": 64}])
def test_a_reset_ends_the_connection(api, reset):
    with pytest.raises(httpx.ReadError, match="reset"):
        api.texts("a", headers=header({"reset": reset}))


def test_the_server_survives_what_it_broke(api, server):
    for fault in ({"reset": True}, {"truncate": {"after": 5}}, {"reset": {"after": 9}}):
        with pytest.raises(httpx.TransportError):
            api.texts("a", headers=header(fault))
    assert api.texts("a").status_code == 200
    assert "Traceback" not in server.stderr


def test_a_shuffled_answer_holds_all_rows_in_another_order(api):
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


def test_texts_can_be_shuffled_too(api):
    data = api.texts(["a", "b", "c", "d"], headers=header({"shuffle": 3})).json()["data"]
    assert sorted(item["index"] for item in data) == [0, 1, 2, 3]
    assert [item["index"] for item in data] != [0, 1, 2, 3]


def test_a_chunk_can_be_missing(api):
    response = api.documents(DOCUMENTS, headers=header({"missing_chunk": [0, 1]}))
    assert indexes(response) == [(0, [0, 2]), (1, [0]), (2, [0, 1])]


def test_a_text_can_be_missing(api):
    data = api.texts(["a", "b", "c"], headers=header({"missing_chunk": [1, 0]})).json()["data"]
    assert [item["index"] for item in data] == [0, 2]


def test_a_chunk_can_come_twice(api):
    response = api.documents(DOCUMENTS, headers=header({"duplicate_chunk": [2, 0]}))
    assert indexes(response) == [(0, [0, 1, 2]), (1, [0]), (2, [0, 0, 1])]


def test_a_position_beyond_the_input_is_its_last_chunk(api):
    response = api.documents(DOCUMENTS, headers=header({"missing_chunk": [99, 99]}))
    assert indexes(response) == [(0, [0, 1, 2]), (1, [0]), (2, [0])]


def test_a_vector_can_hold_what_is_not_base64(api):
    response = api.documents(DOCUMENTS, headers=header({"corrupt_chunk": [1, 0]}))
    broken = [["*" in item["embedding"] for item in document["data"]] for document in response.json()["data"]]
    assert broken == [[False, False, False], [True], [False, False]]


@pytest.mark.parametrize(("encoding_format", "characters"), [("base64_int8", 4 * 67), ("base64_binary", 4 * 9)])
def test_vectors_can_have_other_dimensions(api, encoding_format, characters):
    fault = header({"dimensions": 200})
    response = api.texts("a", dimensions=128, encoding_format=encoding_format, headers=fault)
    assert len(response.json()["data"][0]["embedding"]) == characters


def test_another_model_can_be_named(api):
    assert api.texts("a", headers=header({"model": 'an "other"'})).json()["model"] == 'an "other"'


def test_every_optional_key_can_be_absent(api):
    bare = api.documents(DOCUMENTS, headers=header({"omit": ["usage", "object", "index", "model"]})).json()
    assert set(bare) == {"data"}
    assert all(set(document) == {"data"} for document in bare["data"])
    assert all(set(item) == {"embedding"} for document in bare["data"] for item in document["data"])
    usage = api.documents(DOCUMENTS, headers=header({"omit": ["cost"]})).json()["usage"]
    assert set(usage) == {"prompt_tokens", "total_tokens"}
    assert api.texts("a", headers=header({"omit": ["usage", "object", "index", "model", "data"]})).json() == {}
    flat = api.texts("a", headers=header({"omit": ["index", "object"]})).json()
    assert set(flat["data"][0]) == {"embedding"}


def test_a_200_can_be_a_page_or_nothing_or_garbage(api):
    page = api.texts("a", headers=header({"payload": "html"}))
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert page.text.startswith("<html>")
    nothing = api.texts("a", headers=header({"payload": "empty"}))
    assert (nothing.status_code, nothing.content) == (200, b"")
    garbage = api.texts("a", headers=header({"payload": "garbage"}))
    assert garbage.status_code == 200
    with pytest.raises(ValueError, match=r"utf-8|JSON|Invalid"):
        garbage.json()


def test_any_body_can_be_given(api):
    response = api.texts("a", headers=header({"status": 500, "body": "plain words"}))
    assert (response.status_code, response.text) == (500, "plain words")


def test_a_body_can_be_compressed_and_say_so_or_not(api):
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
def test_every_named_fault_can_be_asked_for(api, name):
    if NAMED[name].breaks_connection and name != "drop":
        with pytest.raises(httpx.TransportError):
            api.documents(DOCUMENTS, headers=header(name))
    elif name == "mislabelled-gzip":
        with pytest.raises(httpx.DecodingError):
            api.documents(DOCUMENTS, headers=header(name))
    else:
        assert api.documents(DOCUMENTS, headers=header(name)).status_code == (NAMED[name].status or 200)


def raw_answer(server, fault, seconds=10):
    """What the socket brings until the server closes it, or nothing more comes for a while."""
    body = json.dumps({"input": ["a", "b"], "model": "pplx-embed-v1-0.6b", "dimensions": 128})
    host, port = server.base_url.removeprefix("http://").split(":")
    received, closed = [], False
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(
            f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-type: application/json\r\n"
            f"x-fault: {json.dumps(fault)}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        began = time.monotonic()
        try:
            while piece := connection.recv(65536):
                received.append((time.monotonic() - began, piece))
            closed = True
        except TimeoutError:
            pass
    return received, closed


def test_an_answer_can_come_a_few_bytes_at_a_time(server):
    received, _ = raw_answer(server, {"trickle": {"bytes": 100, "seconds": 0.05}}, seconds=0.5)
    assert len(received) > 4
    assert received[-1][0] - received[0][0] > 0.2
    assert json.loads(b"".join(piece for _, piece in received).partition(b"\r\n\r\n")[2])["object"] == "list"


def test_the_server_can_hang_up_without_an_answer(server):
    assert raw_answer(server, "hang-up") == ([], True)


def test_the_server_can_hang_up_after_an_answer_that_does_not_say_so(server):
    received, closed = raw_answer(server, "drop")
    head, _, body = b"".join(piece for _, piece in received).partition(b"\r\n\r\n")
    assert closed
    assert b"connection: close" not in head.lower()
    assert len(json.loads(body)["data"]) == 2


def test_the_server_can_send_what_is_not_http(server):
    received, closed = raw_answer(server, {"raw": "220 mail ready"})
    assert closed
    assert b"".join(piece for _, piece in received) == b"220 mail ready"


def test_documents_can_be_missing_or_come_twice_and_chunks_be_too_many(api):
    assert [n for n, _ in indexes(api.documents(DOCUMENTS, headers=header({"missing_document": 1})))] == [0, 2]
    assert [n for n, _ in indexes(api.documents(DOCUMENTS, headers=header({"duplicate_document": 1})))] == [0, 1, 1, 2]
    extra = api.documents(DOCUMENTS, headers=header({"extra_chunk": 1}))
    assert indexes(extra) == [(0, [0, 1, 2]), (1, [0, 1]), (2, [0, 1])]


def test_a_wait_can_be_named_in_seconds_or_as_a_date(api):
    assert api.texts("a", headers=header({"status": 429, "retry_after": 1.5})).headers["retry-after"] == "1.5"
    date = api.texts("a", headers=header({"status": 429, "retry_after": {"date": 60}})).headers["retry-after"]
    assert 55 <= parsedate_to_datetime(date).timestamp() - time.time() <= 61


def test_a_body_can_be_padded_and_packed_into_a_bomb(api):
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


def test_a_gzip_body_can_end_halfway_and_a_coding_be_unknown(api):
    with api.http.stream(
        "POST", TEXTS, json={"input": "a", "model": "pplx-embed-v1-0.6b"}, headers=header("truncated-gzip")
    ) as response:
        packed = b"".join(response.iter_raw())
    assert len(packed) == int(response.headers["content-length"])
    with pytest.raises(EOFError):
        gzip.decompress(packed)
    assert api.texts("a", headers=header("unknown-coding")).headers["content-encoding"] == "x-nobody-knows"
    assert api.texts("a", headers=header("deflate")).json()["object"] == "list"


def test_a_plan_is_met_one_step_a_request(api):
    plan = ["503", {"status": 429, "headers": {"retry-after": "1"}, "times": 2}, {}, {"shuffle": True}]
    assert api.http.post("/faults", json=plan).json() == {"steps": 4}
    statuses = [api.documents(DOCUMENTS).status_code for _ in range(3)]
    assert statuses == [503, 429, 429]
    assert api.http.get("/faults").json() == [{}, {"shuffle": 0}]
    assert indexes(api.documents(DOCUMENTS)) == [(0, [0, 1, 2]), (1, [0]), (2, [0, 1])]
    assert indexes(api.documents(DOCUMENTS)) != [(0, [0, 1, 2]), (1, [0]), (2, [0, 1])]
    assert api.http.get("/faults").json() == []
    assert api.documents(DOCUMENTS).status_code == 200


def test_a_request_with_a_fault_of_its_own_leaves_the_plan_alone(api):
    api.http.post("/faults", json=["503"])
    assert api.texts("a", headers=header({"status": 500})).status_code == 500
    assert api.texts("a").status_code == 503


def ask_in_process(address, *calls):
    """Send requests to an application without a server around it, as if from ``address``."""

    async def ask():
        transport = httpx.ASGITransport(create_app(ServerConfig()), client=(address, 1))
        headers = {"authorization": "Bearer k"}
        async with httpx.AsyncClient(transport=transport, base_url="http://app", headers=headers) as client:
            return [await client.request(method, path, **options) for method, path, options in calls]

    return asyncio.run(ask())


def test_other_machines_set_no_faults():
    body = {"input": "a", "model": "pplx-embed-v1-0.6b"}
    plan, withdrawal, request = ask_in_process(
        "10.0.0.1",
        ("POST", "/faults", {"json": ["503"]}),
        ("DELETE", "/faults", {}),
        ("POST", "/v1/embeddings", {"json": body, "headers": header("503")}),
    )
    assert (plan.status_code, withdrawal.status_code, request.status_code) == (403, 403, 200)


def test_an_application_without_its_server_says_that_it_cannot_break_connections():
    body = {"input": "a", "model": "pplx-embed-v1-0.6b"}
    whole, broken = ask_in_process(
        "127.0.0.1",
        ("POST", "/v1/embeddings", {"json": body}),
        ("POST", "/v1/embeddings", {"json": body, "headers": header("reset")}),
    )
    assert (whole.status_code, broken.status_code) == (200, 501)


def test_a_plan_can_be_withdrawn(api):
    api.http.post("/faults", json=["503", "503"])
    assert api.http.delete("/faults").status_code == 204
    assert api.texts("a").status_code == 200


def test_a_fault_that_breaks_the_answer_is_still_paid_for_and_one_that_refuses_is_not(fresh_server, connect):
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
def test_a_fault_that_is_not_one_is_refused_by_name(fault, message):
    with pytest.raises(ValueError, match=message):
        parse_fault(fault)


def test_a_wrong_plan_is_refused_with_the_step(api):
    response = api.http.post("/faults", json=[{}, {"status": 1}])
    assert response.status_code == 422
    assert "step 1" in response.json()["detail"][0]["msg"]
    assert api.http.post("/faults", json={"stops": []}).status_code == 422
    assert api.http.post("/faults", content=b"{").status_code == 422
    assert api.http.get("/faults").json() == []


@pytest.mark.parametrize("value", ["{", "[]", "5", '{"status": 1}'])
def test_a_wrong_fault_header_is_refused(api, value):
    response = api.texts("a", headers={"x-fault": value})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["header", "x-fault"]


@pytest.mark.parametrize("name", NAMED)
def test_a_fault_reads_back_as_it_was_written(name):
    assert parse_fault(json.loads(json.dumps(NAMED[name].to_json()))) == NAMED[name]


def test_a_fault_is_called_by_its_name_or_by_its_fields():
    assert label_of(NAMED["truncated"]) == "truncated"
    assert label_of(Fault(status=503, retry_after=2.0)) == "status+retry_after"


def test_dice_spoil_about_their_share_and_the_same_requests_each_time():
    first, again = (FaultSource(0.3, 7, ["429", "reset"]) for _ in range(2))
    dealt = [first.deal() for _ in range(2000)]
    assert dealt == [again.deal() for _ in range(2000)]
    spoilt = [fault for fault in dealt if fault != Fault()]
    assert 500 <= len(spoilt) <= 700
    assert {fault.status for fault in spoilt} == {429, None}


def test_a_server_with_a_fail_rate_spoils_requests(fresh_server, connect):
    api = connect(fresh_server(fail_rate=0.5, fail_seed=1, fail_kinds=("503", "429")))
    statuses = [api.texts("a").status_code for _ in range(40)]
    assert set(statuses) == {200, 429, 503}
