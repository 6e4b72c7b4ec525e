"""Refused requests are split until the refused documents are alone."""

from __future__ import annotations

from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from ctxembed._client.batches import Batch
from ctxembed._client.endpoint import refused_documents
from hypothesis import given
from hypothesis import strategies as st

from .conftest import make_documents, response_body


def refusal(*places):
    detail = [{"loc": list(place), "msg": "no", "type": "value_error"} for place in places]
    return ctxembed.UnprocessableEntityError("no", 422, {"detail": detail})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refusal(("body", "input", 3)), [3]),
        (refusal(("body", "input", 3, 0), ("body", "input", 1), ("body", "input", 3)), [1, 3]),
        (refusal(("body", "input")), []),
        (refusal(("body", "input", 99)), []),
        (refusal(("body", "input", True)), []),
        (refusal(("body", "model")), None),
        (refusal(("body", "model"), ("body", "input", 2)), [2]),
        (refusal(("body",)), []),
        (ctxembed.BadRequestError("no", 400, "text"), []),
        (ctxembed.BadRequestError("no", 400, {"detail": "text"}), []),
        (ctxembed.BadRequestError("no", 400, {"detail": [3, None, {"loc": 3}]}), []),
        (ctxembed.BadRequestError("no", 400, None), []),
    ],
)
def test_refused_documents_are_read_from_the_error(error, expected):
    assert refused_documents(error, 8) == expected


@given(st.integers(2, 60), st.data())
def test_the_pieces_of_a_split_add_up_to_the_batch(n, data):
    named = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=5)))
    batch = Batch(make_documents(n), np.arange(100, 100 + n), data.draw(st.integers(0, 10_000)), root=3)
    pieces = batch.split(named, attempts=2)
    assert [document for piece in pieces for document in piece.documents] == batch.documents
    assert np.concatenate([piece.positions for piece in pieces]).tolist() == batch.positions.tolist()
    assert sum(piece.tokens for piece in pieces) == batch.tokens
    assert all(0 < len(piece.documents) < n for piece in pieces)
    assert {(piece.root, piece.attempts) for piece in pieces} == {(3, 2)}
    for position in named:
        assert any(piece.positions.tolist() == [100 + position] for piece in pieces)


def test_a_document_named_in_a_refusal_fails_alone(driver, fresh_server, control_of):
    server = fresh_server(limits=ctxembed.Limits(tokens_per_document=12))
    documents = [["short"] for _ in range(20)]
    documents[7] = documents[13] = ["this one has got far too many words for the server to take it in at all, I fear"]
    emb = driver.embed(documents, on_error="return", _client={"base_url": server.base_url})
    assert [failure.document for failure in emb.failures] == [7, 13]
    assert np.diff(emb.offsets).tolist() == [0 if i in (7, 13) else 1 for i in range(20)]
    # Three refusals (of all documents, and of each of the two), and three requests for the others.
    assert control_of(server).stats()["requests"] == 6


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_document_not_named_in_a_refusal_is_found_by_halving(driver, scripted_server, status):
    def script(request):
        if any("poison" in chunk for document in request["input"] for chunk in document):
            return status, {}, b'{"detail": "no"}'
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    documents = make_documents(32)
    documents[21] = ["fine", "poison"]
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents, _client={"base_url": scripted_server.base_url})
    assert [(failure.document, failure.attempts) for failure in caught.value.failures] == [(21, 6)]
    assert len(caught.value.partial.vectors) == sum(map(len, documents)) - 2
    assert len(scripted_server.requests) == 11


def test_a_refusal_of_a_shared_field_is_not_split(driver, scripted_server):
    body = b'{"detail": [{"loc": ["body", "model"], "msg": "not yours", "type": "enum"}]}'
    scripted_server.script = lambda request: (422, {}, body)
    with pytest.raises(ctxembed.EmbedError):
        driver.embed(make_documents(40), _client={"base_url": scripted_server.base_url})
    assert len(scripted_server.requests) == 1


def test_splitting_ends_when_every_piece_is_refused(driver, scripted_server):
    scripted_server.script = lambda request: (400, {}, b"no")
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(make_documents(512), _client={"base_url": scripted_server.base_url, "max_concurrency": 2})
    assert len(caught.value.failures) == 512
    assert len(scripted_server.requests) < 150


def test_a_job_ends_when_every_request_is_refused(driver, scripted_server):
    scripted_server.script = lambda request: (400, {}, b"no")
    client = {"base_url": scripted_server.base_url, "max_concurrency": 2, "limits": ctxembed.Limits(documents=32)}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(make_documents(2000), _client=client)
    assert len(caught.value.failures) == 2000
    assert len(scripted_server.requests) < 300


@pytest.mark.parametrize("concurrency", [1, 8])
def test_many_refused_documents_in_a_row_do_not_fail_those_after_them(driver, scripted_server, concurrency):
    def script(request):
        bad = any("bad" in chunk for document in request["input"] for chunk in document)
        return (400, {}, b"no") if bad else (200, {}, response_body(request["input"]))

    scripted_server.script = script
    documents = [["bad"]] * 40 + make_documents(60)
    client = {"base_url": scripted_server.base_url, "max_concurrency": concurrency}
    emb = driver.embed(documents, on_error="return", _client=client)
    assert [failure.document for failure in emb.failures] == list(range(40))


def test_usage_before_a_split_is_counted(driver, scripted_server, clock):
    def script(request):
        if len(scripted_server.requests) == 1:
            return 200, {}, response_body(request["input"][:1])  # charged, and a document is missing
        if len(scripted_server.requests) == 2:
            return 400, {}, b"no"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    emb = driver.embed([["ab"], ["c"]], _client={"base_url": scripted_server.base_url}, _clock=clock)
    assert (emb.usage.total_tokens, emb.usage.requests) == (2 + 2 + 1, 3)
    assert (emb.usage.discarded.total_tokens, emb.usage.discarded.requests) == (2, 1)
    assert emb.usage.discarded.cost_usd == Decimal("2E-9")


def test_create_is_never_split(driver, scripted_server):
    scripted_server.script = lambda request: (400, {}, b'"no"')
    with pytest.raises(ctxembed.BadRequestError) as caught:
        driver.create(make_documents(8), _client={"base_url": scripted_server.base_url})
    assert caught.value.body == "no"
    assert len(scripted_server.requests) == 1
