"""The exceptions of a call: their classes, their causes, and the partial result that they carry."""

from __future__ import annotations

import pickle

import ctxembed
import httpx
import numpy as np
import pytest

from .conftest import KEY, FakeClock, make_documents

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


# One request


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_each_status_raises_its_class(driver, server_options, control, clock, status, kind):
    control.faults({"status": status, "times": 9})
    with pytest.raises(kind) as caught:
        driver.create([["a"]], _client={**server_options, "max_retries": 1}, _clock=clock)
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.request_id == caught.value.headers["x-request-id"]
    assert str(status) in str(caught.value)
    retried = status in (408, 409, 429) or status >= 500
    assert control.stats()["requests"] == (2 if retried else 1)


def test_a_401_with_an_html_body_is_an_authentication_error(driver, fresh_server):
    server = fresh_server(key="another-key")
    with pytest.raises(ctxembed.AuthenticationError) as caught:
        driver.create([["a"]], _client={"base_url": server.base_url})
    assert isinstance(caught.value.body, str)
    assert "<html" in caught.value.body


def test_a_422_keeps_the_location_of_the_refusal(driver, server_options, control, fresh_server):
    server = fresh_server(limits=ctxembed.Limits(tokens_per_document=3))
    with pytest.raises(ctxembed.UnprocessableEntityError) as caught:
        driver.create([["a"], ["one two three four five six seven"]], _client={"base_url": server.base_url})
    assert caught.value.body["detail"][0]["loc"] == ["body", "input", 1]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(driver, scripted_server, status):
    scripted_server.script = lambda request: (status, {"location": scripted_server.base_url + "/elsewhere"}, b"")
    with pytest.raises(ctxembed.APIStatusError, match="redirects are not followed") as caught:
        driver.create([["a"]], _client={"base_url": scripted_server.base_url})
    assert caught.value.status_code == status
    assert [request["path"] for request in scripted_server.requests] == ["/v1/contextualizedembeddings"]


@pytest.mark.parametrize("fault", ["reset", "reset-in-body", "truncated", "truncated-chunked"])
def test_a_broken_connection_is_retried_and_then_raised(driver, server_options, control, clock, fault):
    control.faults(fault)
    assert len(driver.create([["a"]], _client=server_options, _clock=clock)) == 1
    control.faults(fault, fault)
    with pytest.raises(ctxembed.APIConnectionError) as caught:
        driver.create([["a"]], _client={**server_options, "max_retries": 1}, _clock=FakeClock())
    assert not isinstance(caught.value, ctxembed.APITimeoutError)
    assert isinstance(caught.value.__cause__, httpx.HTTPError)


def test_a_refused_connection_is_retried_and_then_raised(driver, clock):
    with pytest.raises(ctxembed.APIConnectionError, match=r"refused|failed") as caught:
        driver.create([["a"]], _client={"base_url": "http://127.0.0.1:1", "max_retries": 2}, _clock=clock)
    assert len(clock.slept) == 2
    assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)


# Many requests


def test_embed_error_holds_the_documents_that_succeeded(driver, server_options, control, clock):
    control.faults({"status": 500, "times": 2})
    documents = make_documents(12)
    client = {**server_options, "limits": ctxembed.Limits(documents=4), "max_retries": 1, "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError, match="4 of 12 documents") as caught:
        driver.embed(documents, _client=client, _clock=clock)
    error = caught.value
    assert isinstance(error.__cause__, ctxembed.InternalServerError)
    failed = [failure.document for failure in error.failures]
    assert len(failed) == 4
    assert all(failure.attempts == 2 for failure in error.failures)
    whole = driver.embed(documents, _client=server_options)
    assert len(error.partial) == 12
    for position, (got, expected) in enumerate(zip(error.partial, whole, strict=True)):
        np.testing.assert_array_equal(got, expected[:0] if position in failed else expected)
    assert error.partial.failures == error.failures


def test_failures_are_returned_with_on_error_return(driver, server_options, control, clock):
    control.faults({"status": 500, "times": 2})
    client = {**server_options, "limits": ctxembed.Limits(documents=4), "max_retries": 1, "max_concurrency": 1}
    emb = driver.embed(make_documents(12), on_error="return", _client=client, _clock=clock)
    assert len(emb.failures) == 4
    assert {type(failure.error) for failure in emb.failures} == {ctxembed.InternalServerError}


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_an_error_that_every_request_would_meet_ends_the_job(driver, server_options, control, clock, status):
    control.faults("none", {"status": status, "times": 99})
    client = {**server_options, "limits": ctxembed.Limits(documents=1), "max_concurrency": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(make_documents(30), _client=client, _clock=clock)
    assert control.stats()["requests"] == 2
    assert len(caught.value.failures) == 29
    assert [failure.attempts for failure in caught.value.failures] == [1] + [0] * 28
    assert caught.value.__cause__.status_code == status
    assert len(caught.value.partial[0]) == 1


def test_an_unreachable_api_ends_the_job(driver, clock):
    client = {"base_url": "http://127.0.0.1:1", "limits": ctxembed.Limits(documents=1), "max_retries": 1}
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.embed(make_documents(50), _client={**client, "max_concurrency": 2}, _clock=clock)
    assert isinstance(caught.value.__cause__, ctxembed.APIConnectionError)
    assert len(clock.slept) <= 4


# Pickling and messages


def test_every_error_pickles_with_its_attributes(server):
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
        ctxembed.SpaceError("x"),
        ctxembed.CollectionError("x"),
        ctxembed.CollectionLockedError("x", "host", 7, "2026-11-29T00:00:00+00:00"),
        ctxembed.ClosedClientError("x"),
        ctxembed.ChunkOrderError("a", 3, "is missing"),
        ctxembed.LimiterError("x"),
        ctxembed.MissingShardsError("x", ("a.idx",)),
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


class NeedsKeyword(Exception):  # noqa: N818 - not this package's
    """Cannot be created from its ``args``."""

    def __init__(self, *, reason):
        super().__init__(reason)


@pytest.mark.parametrize(("cause", "shown"), [
    (ctxembed.DecodeError("no", "shape", 5, 1, 2), "DecodeError: no (byte 5, document 1, chunk 2)"),
    (httpx.ReadError("reset", request=httpx.Request("GET", "http://x", headers={"k": KEY})), "ReadError: reset"),
    (ConnectionResetError(104, "reset"), "ConnectionResetError: [Errno 104] reset"),
    (NeedsKeyword(reason="because"), "Exception: NeedsKeyword: because"),
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


def test_an_html_body_is_shown_as_text_and_kept_whole():
    page = "<html>\n<head><title>401 Authorization Required</title></head>\n<!-- a < b --></html>"
    error = ctxembed._errors.status_error(401, page, {})
    assert str(error) == "the API returned 401: 401 Authorization Required <!-- a < b -->"
    assert error.body == page


def test_the_title_of_an_html_body_is_not_shown_again_as_its_heading():
    """As nginx sends it. A text that is no page is shown as it is."""
    title = "502 Bad Gateway"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><hr>nginx</body></html>"
    assert str(ctxembed._errors.status_error(502, page, {})) == f"the API returned 502: {title} nginx"
    page = page.replace(f"<h1>{title}", f"<h1>{title}s")
    assert str(ctxembed._errors.status_error(502, page, {})) == f"the API returned 502: {title} {title}s nginx"
    assert str(ctxembed._errors.status_error(502, "no no", {})) == "the API returned 502: no no"


# Bodies of errors


@pytest.mark.parametrize("status", [400, 401, 422, 429, 500])
@pytest.mark.parametrize("depth", [33, 500, 5_000, 30_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"detail":', "}"), ('{"detail":[', "]}"), ("[", "")])
def test_a_deeply_nested_error_body_is_kept_as_text(driver, scripted_server, status, depth, brackets):
    text = brackets[0] * depth + "1" * (brackets[1] != "") + brackets[1] * depth
    scripted_server.script = lambda request: (status, {}, text.encode())
    with pytest.raises(ctxembed.APIStatusError) as caught:
        driver.create([["a"], ["b"]], _client={"base_url": scripted_server.base_url, "max_retries": 0})
    assert caught.value.status_code == status
    assert caught.value.body == text[: 8 * 1024]
    assert pickle.loads(pickle.dumps(caught.value)).body == caught.value.body
    with pytest.raises(ctxembed.EmbedError, match=str(status)):
        driver.embed([["a"], ["b"]], _client={"base_url": scripted_server.base_url, "max_retries": 0})


@pytest.mark.parametrize(
    "body",
    [
        b"1" * 5_000,
        b"-1e999999",
        b'{"detail": NaN}',
        b'"\\ud800"',
        b"\xff\xfe",
        b"\x1b[2J\x1b]52;c;AA\x07",
        b"[[1]]" * 9,
    ],
)
def test_an_odd_error_body_is_a_status_error_that_can_be_printed(driver, scripted_server, body):
    scripted_server.script = lambda request: (400, {}, body)
    with pytest.raises(ctxembed.BadRequestError) as caught:
        driver.create([["a"]], _client={"base_url": scripted_server.base_url, "max_retries": 0})
    assert str(caught.value).isprintable()
    str(caught.value).encode()
