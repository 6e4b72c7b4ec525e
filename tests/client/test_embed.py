"""``embed``, ``create``, ``embed_queries`` and ``embed_texts`` against the local server, with every kind of client."""

from __future__ import annotations

import pickle
from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from ctxembed._client import Client

from .conftest import make_documents


def reference(server, documents, **options):
    """Return the vectors of each document, embedded in a request of its own."""
    with Client("any-key", base_url=server.base_url) as client:
        return [client.create([document], **options).vectors for document in documents]


def test_rows_keep_input_order_when_documents_share_requests(driver, server, server_options):
    documents = make_documents(23)
    emb = driver.embed(
        documents, _client={**server_options, "limits": ctxembed.Limits(documents=5), "max_concurrency": 3}
    )
    assert len(emb) == 23
    assert emb.failures == ()
    for got, expected in zip(emb, reference(server, documents), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_rows_keep_input_order_when_responses_arrive_out_of_order(driver, server, server_options, control):
    control.faults({"delay": 0.4}, {"delay": 0.2}, {"delay": 0.1}, "none", {"shuffle": 7, "delay": 0.3})
    documents = make_documents(20)
    emb = driver.embed(
        documents, _client={**server_options, "limits": ctxembed.Limits(documents=4), "max_concurrency": 5}
    )
    for got, expected in zip(emb, reference(server, documents), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_documents_can_be_generators(driver, server_options):
    emb = driver.embed(((f"text {i}" for i in range(n)) for n in (1, 3, 2)), _client=server_options)
    assert np.diff(emb.offsets).tolist() == [1, 3, 2]


def test_usage_and_cost_are_summed_exactly_over_the_requests(driver, server_options, control):
    emb = driver.embed(make_documents(30), _client={**server_options, "limits": ctxembed.Limits(documents=7)})
    stats = control.stats()
    assert emb.usage.requests == stats["requests"] == 5
    assert emb.usage.total_tokens == emb.usage.prompt_tokens == stats["tokens"]
    assert emb.usage.cost_usd == Decimal(stats["tokens"]) * Decimal("0.008") / 1_000_000


@pytest.mark.parametrize(
    ("options", "dtype", "width"),
    [
        ({}, np.int8, 1024),
        ({"dimensions": 256}, np.int8, 256),
        ({"encoding_format": "base64_binary"}, np.uint8, 128),
        ({"encoding_format": "base64_binary", "dimensions": 512}, np.uint8, 64),
        ({"model": "pplx-embed-context-v1-4b"}, np.int8, 2560),
    ],
)
def test_shape_and_dtype_follow_model_format_and_dimensions(driver, server_options, options, dtype, width):
    emb = driver.embed(make_documents(3), _client=server_options, **options)
    assert emb.vectors.dtype == dtype
    assert emb.vectors.shape == (6, width)
    assert emb.vectors.flags.c_contiguous
    assert emb.model == options.get("model", "pplx-embed-context-v1-0.6b")
    assert emb.dimensions == (width if dtype == np.int8 else width * 8)


def test_max_concurrency_is_reached_and_not_exceeded(driver, server_options, control):
    control.faults({"delay": 0.15, "times": 12})
    client = {**server_options, "limits": ctxembed.Limits(documents=1), "max_concurrency": 4}
    driver.embed(make_documents(12), _client=client)
    assert control.stats()["peak_in_flight"] == 4


def test_a_query_is_embedded_as_a_document_of_one_chunk(driver, server, server_options, control):
    queries = ["how do I ...", "what is 日本語?", 'a "quoted" \\ one\n']
    emb = driver.embed_queries(queries, _client=server_options, dimensions=128)
    assert emb.vectors.shape == (3, 128)
    assert control.stats()["requests"] == 1
    expected = reference(server, [[query] for query in queries], dimensions=128)
    np.testing.assert_array_equal(emb.vectors, np.concatenate(expected))


def test_texts_are_sent_to_the_embeddings_endpoint(driver, server_options, control):
    emb = driver.embed_texts(
        [f"text {i}" for i in range(10)], _client={**server_options, "limits": ctxembed.Limits(documents=4)}
    )
    assert emb.vectors.shape == (10, 1024)
    assert emb.model == "pplx-embed-v1-0.6b"
    assert control.stats()["by_path"] == {"/v1/embeddings": 3}


def test_texts_keep_their_order(driver, server_options):
    texts = [f"text {i}" for i in range(9)]
    all_at_once = driver.embed_texts(texts, _client=server_options)
    in_threes = driver.embed_texts(texts[::-1], _client={**server_options, "limits": ctxembed.Limits(documents=3)})
    np.testing.assert_array_equal(all_at_once.vectors, in_threes.vectors[::-1])


def test_create_sends_exactly_one_request(driver, server_options, control):
    emb = driver.create(make_documents(40), _client=server_options)
    assert len(emb) == 40
    assert control.stats()["requests"] == emb.usage.requests == 1


def test_create_refuses_documents_over_the_limits_of_a_request(driver, server_options, control):
    with pytest.raises(ValueError, match=r"3 documents, and limits\.documents = 2"):
        driver.create(make_documents(3), _client={**server_options, "limits": ctxembed.Limits(documents=2)})
    with pytest.raises(ValueError, match=r"6 chunks, and limits\.chunks = 5"):
        driver.create(make_documents(3), _client={**server_options, "limits": ctxembed.Limits(chunks=5)})
    counted = {"token_counter": lambda texts: [10] * len(texts), "limits": ctxembed.Limits(tokens=50)}
    with pytest.raises(ValueError, match=r"tokens, and limits\.tokens = 50"):
        driver.create(make_documents(3), _client={**server_options, **counted})
    assert control.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("method", "argument", "options", "error", "message"),
    [
        ("embed", ["a", "b"], {}, TypeError, "embed_queries"),
        ("embed", "text", {}, TypeError, "one str"),
        ("embed", [["a", 3]], {}, TypeError, "document 0, chunk 1"),
        ("embed", None, {}, TypeError, "documents must be an iterable of documents, got NoneType"),
        ("embed", [["a"]], {"on_error": "ignore"}, ValueError, "'ignore'"),
        ("embed", [["a"]], {"progress": 3}, TypeError, "progress"),
        ("embed", [["a"]], {"model": "gpt-4"}, ValueError, "gpt-4"),
        ("embed", [["a"]], {"model": "pplx-embed-v1-0.6b"}, ValueError, "not contextualized"),
        ("embed", [["a"]], {"dimensions": 64}, ValueError, "64"),
        ("embed", [["a"]], {"dimensions": True}, TypeError, "True"),
        ("embed", [["a"]], {"encoding_format": "float"}, ValueError, "float"),
        ("embed_queries", "one", {}, TypeError, r"pass \[query\]"),
        ("embed_queries", None, {}, TypeError, "queries must be a list of str, got NoneType"),
        ("embed_queries", ["a", None], {}, TypeError, r"queries\[1\]"),
        ("embed_texts", "one", {}, TypeError, r"pass \[text\]"),
        ("embed_texts", None, {}, TypeError, "texts must be an iterable of str, got NoneType"),
        ("embed_texts", ["a"], {"model": "pplx-embed-context-v1-4b"}, ValueError, "contextualized"),
        ("stream", None, {}, TypeError, "documents must be an iterable of documents, got None"),
        ("stream", 3, {}, TypeError, "documents must be an iterable of documents, got int"),
        ("stream", "text", {}, TypeError, "documents must be an iterable of documents, got one"),
        ("stream", {"a": ["b"]}, {}, TypeError, "ordered iterable of documents, got dict"),
        ("stream", [["a"]], {"ordered": "yes"}, TypeError, "ordered"),
        ("create", None, {}, TypeError, "input must be an iterable of documents, got NoneType"),
        ("create", "text", {}, TypeError, "input must be an iterable of documents, got one str"),
        ("create", [], {}, ValueError, "at least one document"),
    ],
)
def test_bad_arguments_raise_before_any_request(
    driver, server_options, control, method, argument, options, error, message
):
    with pytest.raises(error, match=message):
        driver.call(method, argument, _client=server_options, **options)
    assert control.stats()["requests"] == 0


def test_all_problems_are_reported_before_any_request(driver, server_options, control):
    documents = [["good"], ["a", ""], [], ["x <|endoftext|> y"]]
    with pytest.raises(ctxembed.InvalidDocumentsError) as caught:
        driver.embed(documents, _client=server_options)
    assert isinstance(caught.value, ValueError)
    assert [(problem.document, problem.chunk) for problem in caught.value.problems] == [(1, 1), (2, None), (3, 0)]
    assert [failure.document for failure in caught.value.failures] == [1, 2, 3]
    assert caught.value.partial.vectors.shape == (0, 1024)
    assert len(caught.value.partial) == 4
    assert control.stats()["requests"] == 0


def test_problems_become_failures_with_on_error_return(driver, server_options, control):
    emb = driver.embed([["good"], ["a", ""], ["also good", "b"], []], on_error="return", _client=server_options)
    assert np.diff(emb.offsets).tolist() == [1, 0, 2, 0]
    assert [(failure.document, failure.attempts) for failure in emb.failures] == [(1, 0), (3, 0)]
    assert all(isinstance(failure.error, ctxembed.DocumentError) for failure in emb.failures)
    assert control.stats()["documents"] == 2


def test_no_request_is_sent_when_every_document_is_invalid(driver, server_options, control):
    emb = driver.embed([[], [""]], on_error="return", _client=server_options)
    assert len(emb) == len(emb.failures) == 2
    assert emb.vectors.shape == (0, 1024)
    assert control.stats()["requests"] == 0


def test_progress_is_reported_after_each_request(driver, server_options):
    events = []
    limits = ctxembed.Limits(documents=5)
    driver.embed(
        [*make_documents(22), []],
        progress=events.append,
        on_error="return",
        _client={**server_options, "limits": limits},
    )
    assert len(events) == 5
    assert [event.requests_done for event in events] == [1, 2, 3, 4, 5]
    last = events[-1]
    assert (last.documents_done, last.documents_total) == (23, 23)
    assert last.chunks_done == last.chunks_total == sum(len(document) for document in make_documents(22))
    assert (last.requests_total, last.failures, last.retries) == (5, 1, 0)
    assert last.tokens > 0
    assert last.seconds > 0


def test_an_exception_in_progress_is_raised(driver, server_options):
    def stop(event):
        raise LookupError

    with pytest.raises(LookupError):
        driver.embed(
            make_documents(9), progress=stop, _client={**server_options, "limits": ctxembed.Limits(documents=1)}
        )


def test_the_progress_bar_is_silent_without_a_terminal(driver, server_options, capfd):
    driver.embed(make_documents(3), progress=True, _client=server_options)
    assert capfd.readouterr() == ("", "")


def test_special_characters_arrive_unchanged(driver, scripted_server):
    texts = ['"', "\\", "\n\r\t\b\f", "\x00\x1d\x1e\x1f", "\x7f\u2028\ud7ff\ue000", "😀 日本語", "</script>", " "]
    driver.embed([texts, *([text] for text in texts)], _client={"base_url": scripted_server.base_url})
    assert scripted_server.requests[0]["input"] == [texts, *([text] for text in texts)]


def test_dimensions_are_sent_only_when_given(driver, scripted_server):
    driver.create([["a"]], _client={"base_url": scripted_server.base_url})
    assert {k: v for k, v in scripted_server.requests[0].items() if k not in ("headers", "path", "raw")} == {
        "input": [["a"]],
        "model": "pplx-embed-context-v1-0.6b",
        "encoding_format": "base64_int8",
    }
    driver.create([["a"]], dimensions=1024, _client={"base_url": scripted_server.base_url})
    assert scripted_server.requests[1]["dimensions"] == 1024


def test_options_accept_numpy_numbers(driver, scripted_server):
    options = {"max_retries": np.int8(0), "max_concurrency": np.uint16(2), "deadline": np.float32(60)}
    emb = driver.create([["a"]], dimensions=np.int64(1024), _client={"base_url": scripted_server.base_url, **options})
    assert (scripted_server.requests[0]["dimensions"], emb.dimensions, type(emb.dimensions)) == (1024, 1024, int)


@pytest.mark.parametrize("method", ["embed", "embed_queries", "embed_texts"])
def test_no_documents_give_an_empty_result_without_a_request(driver, server_options, control, method):
    for empty in ([], iter(())):
        emb = getattr(driver, method)(empty, dimensions=256, _client=server_options)
        assert len(emb) == 0
        assert emb.vectors.shape == (0, 256)
        assert emb.vectors.dtype == np.int8
        assert emb.offsets.tolist() == [0]
        assert emb.usage == ctxembed.Usage()
    assert control.stats()["requests"] == 0


def test_create_refuses_to_send_no_documents(driver, server_options, control):
    with pytest.raises(ValueError, match="empty"):
        driver.create([], _client=server_options)
    assert control.stats()["requests"] == 0


@pytest.mark.parametrize(("method", "subject", "plural"), [
    ("embed_queries", "query", "queries"),
    ("embed_texts", "text", "texts"),
])  # fmt: skip
def test_errors_of_queries_and_texts_speak_of_these(driver, server_options, control, method, subject, plural):
    with pytest.raises(ctxembed.InvalidDocumentsError, match=f"1 of 2 {plural}; {subject} 1: is empty") as caught:
        getattr(driver, method)(["a", ""], _client=server_options)
    assert str(caught.value.problems[0]).startswith(f"{subject} 1: is empty")
    assert str(caught.value.failures[0].error).startswith(f"{subject} 1: is empty")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy.failures[0].error) == str(caught.value.failures[0].error)
    control.faults("401")
    with pytest.raises(ctxembed.EmbedError, match=f"2 of 2 {plural} were not embedded .*; {subject} 0: Auth"):
        getattr(driver, method)(["a", "b"], _client=server_options)
