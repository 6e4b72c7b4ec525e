"""What goes wrong, what becomes of it, and what is kept."""

from __future__ import annotations

import pickle
import time
from decimal import Decimal
from email.utils import formatdate

import ctxembed
import httpx
import numpy as np
import pytest

from .conftest import KEY, FakeClock, answer, documents_of, squeezed

STATUSES = [
    (400, ctxembed.BadRequestError),
    (401, ctxembed.AuthenticationError),
    (402, ctxembed.APIStatusError),
    (403, ctxembed.PermissionDeniedError),
    (404, ctxembed.NotFoundError),
    (408, ctxembed.APIStatusError),
    (413, ctxembed.APIStatusError),
    (418, ctxembed.APIStatusError),
    (422, ctxembed.UnprocessableEntityError),
    (429, ctxembed.RateLimitError),
    (500, ctxembed.InternalServerError),
    (502, ctxembed.InternalServerError),
    (503, ctxembed.InternalServerError),
    (504, ctxembed.InternalServerError),
    (599, ctxembed.InternalServerError),
]


@pytest.fixture
def to(server):
    return {"base_url": server.base_url}


# One request


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_every_status_has_its_class(driver, to, control, clock, status, kind):
    control.faults({"status": status, "times": 9})
    with pytest.raises(kind) as caught:
        driver.create([["a"]], _client={**to, "max_retries": 1}, _clock=clock)
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.request_id == caught.value.headers["x-request-id"]
    assert str(status) in str(caught.value)
    retried = status in (408, 409, 429) or status >= 500
    assert control.stats()["requests"] == (2 if retried else 1)


def test_a_401_is_an_html_page_and_still_an_authentication_error(driver, fresh_server):
    server = fresh_server(key="another-key")
    with pytest.raises(ctxembed.AuthenticationError) as caught:
        driver.create([["a"]], _client={"base_url": server.base_url})
    assert isinstance(caught.value.body, str)
    assert "<html" in caught.value.body


def test_a_422_says_where(driver, to, control, fresh_server):
    server = fresh_server(limits=ctxembed.Limits(tokens_per_document=3))
    with pytest.raises(ctxembed.UnprocessableEntityError) as caught:
        driver.create([["a"], ["one two three four five six seven"]], _client={"base_url": server.base_url})
    assert caught.value.body["detail"][0]["loc"] == ["body", "input", 1]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_error_and_the_key_goes_nowhere(driver, scripted, status):
    scripted.script = lambda request: (status, {"location": scripted.base_url + "/elsewhere"}, b"")
    with pytest.raises(ctxembed.APIStatusError, match="redirects are not followed") as caught:
        driver.create([["a"]], _client={"base_url": scripted.base_url})
    assert caught.value.status_code == status
    assert [request["path"] for request in scripted.requests] == ["/v1/contextualizedembeddings"]


BAD_ANSWERS = [
    "html",
    "empty",
    "garbage",
    "missing-chunk",
    "duplicate-chunk",
    "corrupt-chunk",
    "wrong-dimensions",
    "wrong-model",
    "mislabelled-gzip",
    "unlabelled-gzip",
    {"omit": ["data"]},
    {"body": "null"},
    {"body": '{"data": []}'},
]


@pytest.mark.parametrize("fault", BAD_ANSWERS, ids=str)
def test_a_200_that_does_not_prove_itself_is_retried_and_then_an_error(driver, to, control, clock, fault):
    documents = [["a", "b"], ["c"]]
    control.faults(fault)
    emb = driver.create(documents, _client=to, _clock=clock)
    assert emb.vectors.shape == (3, 1024)
    assert clock.slept == [0.25]

    control.faults(*[fault] * 3)
    with pytest.raises(ctxembed.BadResponseError) as caught:
        driver.create(documents, _client={**to, "max_retries": 2}, _clock=FakeClock())
    assert isinstance(caught.value, ctxembed.APIError)
    assert isinstance(caught.value.body, str)
    if fault in ("garbage", "missing-chunk", "duplicate-chunk", "corrupt-chunk", "wrong-dimensions"):
        assert isinstance(caught.value.__cause__, ctxembed.DecodeError)


@pytest.mark.parametrize("fault", ["shuffled", "gzip", {"chunked": True}, {"omit": ["usage", "object"]}], ids=str)
def test_a_200_that_proves_itself_is_taken_however_it_looks(driver, to, control, fault):
    documents = documents_of(9)
    plain = driver.create(documents, _client=to)
    control.faults(fault)
    odd = driver.create(documents, _client={**to, "max_retries": 0})
    np.testing.assert_array_equal(odd.vectors, plain.vectors)


def test_a_bomb_is_not_unpacked(driver, scripted, clock):
    bomb = squeezed(b" " * 50_000_000)
    scripted.script = lambda request: (200, {"content-encoding": "gzip"}, bomb)
    with pytest.raises(ctxembed.BadResponseError, match="larger than"):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0}, _clock=clock)


def test_an_answer_longer_than_it_can_need_to_be_is_refused(driver, scripted, clock):
    scripted.script = lambda request: (200, {}, answer(request["input"]) + b" " * 1_000_000)
    with pytest.raises(ctxembed.BadResponseError, match="larger than"):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0}, _clock=clock)


def test_an_unasked_content_encoding_is_refused(driver, scripted, clock):
    scripted.script = lambda request: (200, {"content-encoding": "br"}, b"...")
    with pytest.raises(ctxembed.BadResponseError, match="'br'"):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0}, _clock=clock)


def test_a_204_is_no_vectors(driver, scripted, clock):
    scripted.script = lambda request: (204, {}, b"")
    with pytest.raises(ctxembed.BadResponseError, match="204"):
        driver.create([["a"]], _client={"base_url": scripted.base_url, "max_retries": 0}, _clock=clock)


@pytest.mark.parametrize("fault", ["reset", "reset-in-body", "truncated", "truncated-chunked"])
def test_a_broken_connection_is_retried_and_then_an_error(driver, to, control, clock, fault):
    control.faults(fault)
    assert len(driver.create([["a"]], _client=to, _clock=clock)) == 1
    control.faults(fault, fault)
    with pytest.raises(ctxembed.APIConnectionError) as caught:
        driver.create([["a"]], _client={**to, "max_retries": 1}, _clock=FakeClock())
    assert not isinstance(caught.value, ctxembed.APITimeoutError)
    assert isinstance(caught.value.__cause__, httpx.HTTPError)


def test_nobody_there_is_a_connection_error(driver, clock):
    with pytest.raises(ctxembed.APIConnectionError, match=r"refused|failed") as caught:
        driver.create([["a"]], _client={"base_url": "http://127.0.0.1:1", "max_retries": 2}, _clock=clock)
    assert len(clock.slept) == 2
    assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)


def test_no_answer_in_time_is_a_timeout_error(driver, to, control, clock):
    control.faults({"delay": 30}, {"delay": 30})
    began = time.monotonic()
    with pytest.raises(ctxembed.APITimeoutError):
        driver.create([["a"]], _client={**to, "timeout": 0.2, "max_retries": 1}, _clock=clock)
    assert time.monotonic() - began < 5


def test_an_answer_that_drips_is_a_timeout_error_too(driver, to, control, clock):
    control.faults("stall")
    with pytest.raises(ctxembed.APITimeoutError):
        driver.create([["a"]], _client={**to, "timeout": 0.3, "max_retries": 0}, _clock=clock)


# Retries


def test_backoff_is_exponential_with_full_jitter(driver, to, control, clock):
    control.faults({"status": 500, "times": 9})
    with pytest.raises(ctxembed.InternalServerError):
        driver.create([["a"]], _client={**to, "max_retries": 8}, _clock=clock)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_retry_after_in_seconds_wins(driver, to, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "7"}}, {"status": 503, "headers": {"retry-after": "0"}})
    assert len(driver.create([["a"]], _client=to, _clock=clock)) == 1
    assert clock.slept == [7.0]


def test_retry_after_as_a_date_wins(driver, to, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": formatdate(1_000_012, usegmt=True)}})
    driver.create([["a"]], _client=to, _clock=clock)
    assert clock.slept == [12.0]


def test_a_retry_after_that_is_none_is_as_if_it_were_not_there(driver, to, control, clock):
    control.faults(*({"status": 429, "headers": {"retry-after": value}} for value in ("soon", "-5", "nan", "1e9")))
    driver.create([["a"]], _client=to, _clock=clock)
    assert clock.slept == [0.25, 0.5, 1.0, 2.0]


def test_an_hour_is_not_waited_for(driver, to, control, clock):
    control.faults({"status": 429, "headers": {"retry-after": "3600"}})
    with pytest.raises(ctxembed.RateLimitError) as caught:
        driver.create([["a"]], _client=to, _clock=clock)
    assert clock.slept == []
    assert caught.value.headers["retry-after"] == "3600"


def test_a_retry_after_holds_every_request(driver, to, control):
    clock = FakeClock()
    control.faults({"status": 429, "headers": {"retry-after": "9"}})
    limits = ctxembed.Limits(documents=1)
    emb = driver.embed(documents_of(3), _client={**to, "limits": limits, "max_concurrency": 1}, _clock=clock)
    assert len(emb) == 3
    assert clock.slept == [9.0]


def test_retries_never_is_never(driver, to, control, clock):
    control.faults("429")
    with pytest.raises(ctxembed.RateLimitError):
        driver.create([["a"]], _client={**to, "max_retries": 0}, _clock=clock)
    assert control.stats()["requests"] == 1


def test_what_a_useless_answer_cost_is_counted(driver, to, control, clock):
    control.faults("missing-chunk")
    emb = driver.embed([["a", "b"]], _client=to, _clock=clock)
    stats = control.stats()
    assert stats["requests"] == emb.usage.requests == 2
    assert emb.usage.total_tokens == stats["tokens"]
    assert emb.usage.cost_usd == Decimal(stats["tokens"]) * Decimal("0.008") / 1_000_000


# Many requests


def test_what_succeeded_is_kept_when_others_fail(driver, to, control, clock):
    control.faults({"status": 500, "times": 2})
    documents = documents_of(12)
    client = {**to, "limits": ctxembed.Limits(documents=4), "max_retries": 1, "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError, match="4 of 12 documents") as caught:
        driver.embed(documents, _client=client, _clock=clock)
    error = caught.value
    assert isinstance(error.__cause__, ctxembed.InternalServerError)
    failed = [failure.document for failure in error.failures]
    assert len(failed) == 4
    assert all(failure.attempts == 2 for failure in error.failures)
    whole = driver.embed(documents, _client=to)
    assert len(error.partial) == 12
    for position, (got, expected) in enumerate(zip(error.partial, whole, strict=True)):
        np.testing.assert_array_equal(got, expected[:0] if position in failed else expected)
    assert error.partial.failures == error.failures


def test_failures_are_returned_when_asked(driver, to, control, clock):
    control.faults({"status": 500, "times": 2})
    client = {**to, "limits": ctxembed.Limits(documents=4), "max_retries": 1, "max_concurrency": 1}
    emb = driver.embed(documents_of(12), on_error="return", _client=client, _clock=clock)
    assert len(emb.failures) == 4
    assert {type(failure.error) for failure in emb.failures} == {ctxembed.InternalServerError}


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_an_error_that_meets_everybody_stops_the_rest(driver, to, control, clock, status):
    control.faults("none", {"status": status, "times": 99})
    client = {**to, "limits": ctxembed.Limits(documents=1), "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents_of(30), _client=client, _clock=clock)
    assert control.stats()["requests"] == 2
    assert len(caught.value.failures) == 29
    assert [failure.attempts for failure in caught.value.failures] == [1] + [0] * 28
    assert caught.value.__cause__.status_code == status
    assert len(caught.value.partial[0]) == 1


def test_no_connection_stops_the_rest(driver, clock):
    client = {"base_url": "http://127.0.0.1:1", "limits": ctxembed.Limits(documents=1), "max_retries": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents_of(50), _client={**client, "max_concurrency": 2}, _clock=clock)
    assert isinstance(caught.value.__cause__, ctxembed.APIConnectionError)
    assert len(clock.slept) <= 4


def test_a_document_that_is_named_never_fails_its_neighbours(driver, fresh_server, control_of):
    server = fresh_server(limits=ctxembed.Limits(tokens_per_document=12))
    documents = [["short"] for _ in range(20)]
    documents[7] = documents[13] = ["this one has got far too many words for the server to take it in at all, I fear"]
    emb = driver.embed(documents, on_error="return", _client={"base_url": server.base_url})
    assert [failure.document for failure in emb.failures] == [7, 13]
    assert np.diff(emb.offsets).tolist() == [0 if i in (7, 13) else 1 for i in range(20)]
    # One refusal of all, one each, and three runs between them.
    assert control_of(server).stats()["requests"] == 6


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_document_that_is_not_named_is_found_by_halving(driver, scripted, status):
    def script(request):
        if any("poison" in chunk for document in request["input"] for chunk in document):
            return status, {}, b'{"detail": "no"}'
        return 200, {}, answer(request["input"])

    scripted.script = script
    documents = documents_of(32)
    documents[21] = ["fine", "poison"]
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents, _client={"base_url": scripted.base_url})
    assert [(failure.document, failure.attempts) for failure in caught.value.failures] == [(21, 6)]
    assert len(caught.value.partial.vectors) == sum(map(len, documents)) - 2
    assert len(scripted.requests) == 11


def test_a_refusal_of_what_all_share_is_not_split(driver, scripted):
    body = b'{"detail": [{"loc": ["body", "model"], "msg": "not yours", "type": "enum"}]}'
    scripted.script = lambda request: (422, {}, body)
    with pytest.raises(ctxembed.EmbedError):
        driver.embed(documents_of(40), _client={"base_url": scripted.base_url})
    assert len(scripted.requests) == 1


def test_a_refusal_of_everything_ends_the_splitting(driver, scripted):
    scripted.script = lambda request: (400, {}, b"no")
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents_of(512), _client={"base_url": scripted.base_url, "max_concurrency": 2})
    assert len(caught.value.failures) == 512
    assert len(scripted.requests) < 150


def test_a_refusal_of_every_request_ends_the_job(driver, scripted):
    scripted.script = lambda request: (400, {}, b"no")
    client = {"base_url": scripted.base_url, "max_concurrency": 2, "limits": ctxembed.Limits(documents=32)}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(documents_of(2000), _client=client)
    assert len(caught.value.failures) == 2000
    assert len(scripted.requests) < 300


@pytest.mark.parametrize("concurrency", [1, 8])
def test_many_bad_documents_in_a_row_do_not_fail_the_good_ones_after_them(driver, scripted, concurrency):
    def script(request):
        bad = any("bad" in chunk for document in request["input"] for chunk in document)
        return (400, {}, b"no") if bad else (200, {}, answer(request["input"]))

    scripted.script = script
    documents = [["bad"]] * 40 + documents_of(60)
    client = {"base_url": scripted.base_url, "max_concurrency": concurrency}
    emb = driver.embed(documents, on_error="return", _client=client)
    assert [failure.document for failure in emb.failures] == list(range(40))


def test_what_was_paid_before_a_split_is_counted(driver, scripted, clock):
    def script(request):
        if len(scripted.requests) == 1:
            return 200, {}, answer(request["input"][:1])  # paid, and not what was asked for
        if len(scripted.requests) == 2:
            return 400, {}, b"no"
        return 200, {}, answer(request["input"])

    scripted.script = script
    emb = driver.embed([["ab"], ["c"]], _client={"base_url": scripted.base_url}, _clock=clock)
    assert (emb.usage.total_tokens, emb.usage.requests) == (2 + 2 + 1, 3)
    assert (emb.usage.discarded.total_tokens, emb.usage.discarded.requests) == (2, 1)
    assert emb.usage.discarded.cost_usd == Decimal("2E-9")


def test_create_is_never_split(driver, scripted):
    scripted.script = lambda request: (400, {}, b'"no"')
    with pytest.raises(ctxembed.BadRequestError) as caught:
        driver.create(documents_of(8), _client={"base_url": scripted.base_url})
    assert caught.value.body == "no"
    assert len(scripted.requests) == 1


# As values


def test_every_error_pickles_with_what_it_holds(server):
    from ctxembed._client import Client

    emb = Client("any-key", base_url=server.base_url).embed([["a"]])
    failure = ctxembed.Failure(3, ctxembed.APITimeoutError("late"), 2)
    problem = ctxembed.Problem(1, None, "is empty")
    errors = [
        ctxembed.CtxembedError("x"),
        ctxembed.APIError("x"),
        ctxembed.APIConnectionError("x"),
        ctxembed.APITimeoutError("x"),
        *(kind("x", status, {"detail": []}, {"x-request-id": "7"}) for status, kind in STATUSES),
        ctxembed.BadResponseError("x", "body"),
        ctxembed.DecodeError("x", "shape", 5, 1, 2),
        ctxembed.DocumentError(1, None, "is bad"),
        ctxembed.EmbedError("x", emb, (failure,)),
        ctxembed.InvalidDocumentsError("x", emb, (failure,), (problem,)),
        ctxembed.MissingKeyError("x"),
        ctxembed.IndexFileError("x"),
        ctxembed.ClosedClientError("x"),
    ]
    tree = {ctxembed.CtxembedError}
    for _ in range(4):
        tree |= {child for kind in tree for child in kind.__subclasses__() if not child.__name__.startswith("_")}
    assert {type(error) for error in errors} == tree
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy).keys() == vars(error).keys()
        for name, value in vars(error).items():
            if name not in ("partial", "failures"):
                assert vars(copy)[name] == value
        if isinstance(error, ctxembed.EmbedError):
            np.testing.assert_array_equal(copy.partial.vectors, emb.vectors)
            assert [(f.document, str(f.error), f.attempts) for f in copy.failures] == [(3, "late", 2)]


class Stubborn(Exception):  # noqa: N818 - not this package's
    """Needs more than its arguments tell."""

    def __init__(self, *, reason):
        super().__init__(reason)


@pytest.mark.parametrize(("cause", "shown"), [
    (ctxembed.DecodeError("no", "shape", 5, 1, 2), "DecodeError: no (byte 5, document 1, chunk 2)"),
    (httpx.ReadError("reset", request=httpx.Request("GET", "http://x", headers={"k": KEY})), "ReadError: reset"),
    (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
    (Stubborn(reason="because"), "Exception: Stubborn: because"),
    (ValueError(object), "Exception: ValueError: <class 'object'>"),
])  # fmt: skip
def test_an_error_pickles_with_its_cause_and_without_the_key(cause, shown):
    for error in (
        ctxembed.APIConnectionError("x"),
        ctxembed.BadResponseError("x", "body"),
        ctxembed.EmbedError("x", 1, ()),
    ):
        error.__cause__ = cause
        error.add_note("a note")
        pickled = pickle.dumps(error)
        assert KEY.encode() not in pickled
        again = pickle.loads(pickled)
        assert f"{type(again.__cause__).__name__}: {again.__cause__}" == shown
        assert again.__notes__ == ["a note"]
        assert again.__suppress_context__
    chained = ctxembed.EmbedError("outer", 1, ())
    chained.__cause__ = error
    assert str(pickle.loads(pickle.dumps(chained)).__cause__.__cause__) == str(again.__cause__)


def test_a_page_is_shown_by_its_words_and_kept_as_it_came():
    page = "<html>\n<head><title>401 Authorization Required</title></head>\n<!-- a < b --></html>"
    error = ctxembed._errors.status_error(401, page, {})
    assert str(error) == "the API returned 401: 401 Authorization Required <!-- a < b -->"
    assert error.body == page
