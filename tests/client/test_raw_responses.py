"""``with_raw_response``: headers, body and vectors of one request."""

from __future__ import annotations

import json

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, make_documents, response_body


def raw(driver, documents, clock=None, **options):
    if driver.kind == "sync":
        with Client(KEY, **options) as client:
            return client.with_raw_response.create(documents)

    async def main():
        async with AsyncClient(KEY, **options) as client:
            return await client.with_raw_response.create(documents)

    return anyio.run(main, backend=driver.kind)


def test_a_raw_response_has_headers_body_and_vectors(driver, server_options):
    documents = make_documents(40)
    response = raw(driver, documents, **server_options)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.request_id == response.headers["x-request-id"]
    assert response.retries_taken == 0
    again = ctxembed.decode_response(response.content)
    np.testing.assert_array_equal(again.vectors, response.parse().vectors)
    assert response.json() == json.loads(response.text()) == json.loads(response.read())
    assert len(response.parse()) == 40
    assert "embedding" not in repr(response)


def test_with_raw_response_raises_status_errors(driver, server_options, control):
    control.faults("400")
    with pytest.raises(ctxembed.BadRequestError):
        raw(driver, [["a"]], **server_options)


def test_a_raw_response_is_decompressed_and_checked(driver, server_options, control):
    control.faults("gzip")
    response = raw(driver, [["a"]], **server_options)
    assert response.json()["data"][0]["index"] == 0
    control.faults("missing-chunk")
    with pytest.raises(ctxembed.BadResponseError):
        raw(driver, [["a", "b"]], **server_options, max_retries=0)


def test_a_raw_response_hides_a_key_that_the_server_echoes(driver, scripted_server):
    spellings = [KEY, KEY.upper(), "".join(f"\\u{ord(character):04x}" for character in KEY)]

    def script(request):
        body = response_body(request["input"], echo=[KEY, f"Bearer {KEY.lower()}"], other="@")
        return 200, {"x-echo": KEY, "x-request-id": KEY.lower()}, body.replace(b"@", spelling.encode())

    scripted_server.script = script
    for spelling in spellings:
        response = raw(driver, make_documents(5), base_url=scripted_server.base_url)
        texts = [repr(response.headers), repr(response.json()), response.text(), repr(response), repr(response.content)]
        assert KEY.lower() not in "".join(texts).lower()
        assert spelling not in response.text()
        assert response.json()["echo"] == ["***", "Bearer ***"]
        assert response.json()["other"] == "***"
        assert response.request_id == "***"
        again = ctxembed.decode_response(response.content)
        np.testing.assert_array_equal(again.vectors, response.parse().vectors)
