"""plan and prepare: documents are validated, counted, packed and priced before anything is paid for."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal

import numpy as np
import pytest
from ctxembed import Limits, Model, Plan, Problem, plan, register_model
from ctxembed._models import SEPARATOR
from ctxembed._planning.prepare import prepare, prepare_texts

WORDS = "The quick brown fox jumps over the lazy dog. "


def characters(texts):
    """Count each character as a token."""
    return [len(text) for text in texts]


class Counter:
    """Count each word as a token, and record the calls."""

    def __init__(self):
        self.calls = []

    def count_batch(self, texts):
        self.calls.append(texts)
        return np.array([len(text.split()) for text in texts], dtype=np.int32)


def test_a_plan_counts_packs_and_prices_documents():
    found = plan([["ab", "c"], ["d"]], token_counter=characters)
    assert (found.documents, found.chunks, found.requests) == (2, 3, 1)
    assert found.tokens == found.tokens_upper == 2 + 1 + 1 + 1  # the separator between the chunks is a token
    assert found.exact_tokens
    assert (found.lower_bound, found.optimal) == (1, True)
    assert found.cost_usd == found.cost_usd_upper == Decimal("0.008") * 5 / 1_000_000
    assert found.problems == ()
    assert (found.model, found.dimensions, found.encoding_format) == ("pplx-embed-context-v1-0.6b", 1024, "base64_int8")


def test_estimates_lie_below_the_upper_bound():
    found = plan([[WORDS * 20, WORDS]] * 10)
    assert not found.exact_tokens
    assert found.tokens < found.tokens_upper == 10 * (21 * len(WORDS) + 1)
    assert found.cost_usd < found.cost_usd_upper


def test_a_request_rate_gives_the_duration():
    documents = [["a"]] * 600
    found = plan(documents, requests_per_minute=4)
    assert (found.requests, found.requests_per_minute, found.minutes) == (2, 4.0, 0.5)
    assert "30 seconds at 4 requests a minute" in str(found)
    assert "4.0 minutes at 0.5 requests a minute" in str(plan(documents, requests_per_minute=0.5))
    assert plan(documents).minutes is None


@pytest.mark.parametrize(
    ("rate", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("9", TypeError), (True, TypeError)],
)
def test_an_invalid_request_rate_is_rejected(rate, error):
    with pytest.raises(error, match=f"requests_per_minute must be .*{rate!r}"):
        plan([["a"]], requests_per_minute=rate)


def test_an_unknown_price_is_none():
    register_model(Model("test-unpriced", 256, None))
    found = plan([["a"]], model="test-unpriced")
    assert (found.cost_usd, found.cost_usd_upper) == (None, None)
    assert "price of test-unpriced not known" in str(found)
    assert found.to_dict()["cost_usd"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((5, 256, None), TypeError, "Model.name must be a str, got 5"),
        (("m", "256", None), TypeError, "Model.dimensions must be an int, got '256'"),
        (("m", 127, None), ValueError, "Model.dimensions must be at least 128, got 127"),
        (("m", 256, 0.02), TypeError, r'Decimal\("0.02"\), or None, got 0.02'),
        (("m", 256, Decimal("NaN")), ValueError, "finite and at least 0, got NaN"),
        (("m", 256, Decimal(-1)), ValueError, "finite and at least 0, got -1"),
    ],
)
def test_an_invalid_model_is_rejected(arguments, error, words):
    with pytest.raises(error, match=words):
        Model(*arguments)


def test_register_model_rejects_anything_but_a_model():
    with pytest.raises(TypeError, match="model must be a ctxembed.Model, got 'name'"):
        register_model("name")


def test_numpy_integers_are_accepted_and_converted():
    limits = Limits(documents=np.int64(1))
    found = plan([["a"], ["b"]], limits=limits, dimensions=np.int32(256), requests_per_minute=np.int64(2))
    assert (found.requests, found.minutes, found.dimensions) == (2, 1.0, 256)
    assert {type(limits.documents), type(found.dimensions), type(found.minutes)} == {int, float}
    with pytest.raises(TypeError, match="Limits.documents must be an int, got np.True_"):
        Limits(documents=np.True_)


def test_problems_are_reported_by_document_and_chunk():
    documents = [
        ["fine"],
        [],
        ["fine", "", f"ab{SEPARATOR}"],
        ["x" * 5, "lone \ud800 surrogate"],
        ["y"] * 21,
        ["word " * 60],
    ]
    found = plan(documents, limits=Limits(chunks=20, tokens_per_document=50, tokens=100))
    assert found.problems == (
        Problem(1, None, "has no chunks: a document needs at least one"),
        Problem(2, 1, "is empty: a chunk needs at least one character"),
        Problem(2, 2, "holds the separator '<|endoftext|>' (character 2), which would misalign every later chunk"),
        Problem(3, 1, "holds a lone surrogate (character 5), which UTF-8 cannot encode"),
        Problem(4, None, "has 21 chunks, more than limits.chunks = 20 allows a request"),
        Problem(5, None, "has at least 60 tokens, more than limits.tokens_per_document = 50"),
    )
    assert (found.documents, found.requests) == (6, 1)
    assert found.tokens_upper == len("fine")
    assert str(found.problems[1]) == "document 2, chunk 1: is empty: a chunk needs at least one character"


def test_an_exact_count_over_the_limit_is_a_problem():
    limits = Limits(tokens_per_document=10)
    found = plan([["a" * 10], ["a" * 5, "b" * 5]], token_counter=characters, limits=limits)
    assert found.problems == (Problem(1, None, "has 11 tokens, more than limits.tokens_per_document = 10"),)


def test_a_document_whose_estimate_exceeds_the_limit_gets_its_own_request():
    limits = Limits(tokens_per_document=100, tokens=400)
    large = "pneumonoultramicroscopic" * 25  # lower bound: one token; estimate: over a hundred
    prepared = prepare([["a"], [large], ["b"], [large]], limits=limits)
    assert prepared.problems == ()
    assert prepared.tokens[1] > 100
    assert [request.tolist() for request in prepared.requests] == [[0, 2], [1], [3]]
    assert prepared.lower_bound == 3


def test_documents_with_problems_are_left_out_of_requests():
    prepared = prepare([["a"], [], ["b"]])
    assert [request.tolist() for request in prepared.requests] == [[0, 2]]
    assert prepared.sendable.tolist() == [True, False, True]
    assert prepared.offsets.tolist() == [0, 1, 1, 2]
    assert prepared.documents == [["a"], [], ["b"]]


def test_documents_that_all_have_problems_make_no_request():
    found = plan([[], [""]])
    assert (found.requests, found.lower_bound, found.tokens) == (0, 0, 0)
    assert len(found.problems) == 2


def test_problems_are_numbered_from_first_document():
    prepared = prepare([["a"], [""]], first_document=1000)
    assert [(problem.document, problem.chunk) for problem in prepared.problems] == [(1001, 0)]
    assert prepared.sendable.tolist() == [True, False]


def test_any_iterable_of_iterables_is_accepted_and_read_once():
    prepared = prepare((str(i) for i in range(n)) for n in (1, 3))
    assert prepared.documents == [["0"], ["0", "1", "2"]]
    assert prepare((("a", "b"), np.array(["c"]))).documents == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        (["a", "b"], TypeError, r"document 0 is a str.*\[\[text\] for text in texts\].*embed_queries.*embed_texts"),
        ([["a"], "b"], TypeError, "document 1 is a str"),
        ("abc", TypeError, "documents must be an iterable of documents, got one str"),
        (b"abc", TypeError, "documents must be an iterable of documents, got one bytes"),
        ({"a": ["b"]}, TypeError, "documents must be an ordered iterable of documents, got dict"),
        ([{"a": "b"}], TypeError, "document 0 must be an ordered iterable of str, got dict"),
        ([["a"], {"b"}], TypeError, "document 1 must be an ordered iterable of str, got set"),
        ([b"a"], TypeError, "document 0 must be an iterable of str, got bytes"),
        ([["a"], 7], TypeError, "document 1 must be an iterable of str, got int"),
        (None, TypeError, "documents must be an iterable of documents, got NoneType"),
        ([["a"], ["b", None]], TypeError, "document 1, chunk 1: must be a str, got NoneType"),
        ([["a", ["b"]]], TypeError, "document 0, chunk 1: must be a str, got list"),
        ([], ValueError, "documents is empty"),
    ],
)
def test_invalid_documents_are_rejected(documents, error, message):
    with pytest.raises(error, match=message):
        plan(documents)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "nope"}, ValueError, "model 'nope' is not known"),
        ({"model": "pplx-embed-v1-4b"}, ValueError, "is not contextualized"),
        ({"dimensions": 64}, ValueError, "dimensions must be from 128 to 1024"),
        ({"dimensions": 129, "encoding_format": "base64_binary"}, ValueError, "multiple of 8"),
        ({"encoding_format": "float"}, ValueError, "encoding_format must be"),
        ({"limits": {"tokens": 5}}, TypeError, "limits must be a ctxembed.Limits"),
        ({"token_counter": 5}, TypeError, "token_counter must have the method count_batch, or be callable"),
        ({"token_counter": lambda _: [1]}, ValueError, "token_counter returned 1 counts for 2 chunks"),
        ({"token_counter": lambda _: [3, -1]}, ValueError, "token_counter returned -1 for chunk 1 of 2"),
        ({"token_counter": lambda _: [1.5, 2]}, TypeError, r"token_counter\(chunks\)\[0\] must be an int, got 1.5"),
        ({"token_counter": lambda _: None}, TypeError, r"token_counter\(chunks\) must be a sequence .* got NoneType"),
    ],
)
def test_invalid_options_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        plan([["a", "b"]], **options)


def test_a_counter_is_called_once_with_all_valid_chunks():
    counter = Counter()
    prepared = prepare([["a b", ""], ["c \ud800"], ["d"]], token_counter=counter)
    assert counter.calls == [["a b", "d"]]
    assert prepared.exact
    assert prepared.tokens[2] == 1


def test_every_chunk_has_at_least_one_token():
    assert prepare([["a", "b"]], token_counter=lambda texts: [0] * len(texts)).tokens.tolist() == [3]


def test_a_counter_cannot_modify_the_documents():
    def clear(texts):
        counts = [1] * len(texts)
        texts.clear()
        return counts

    assert prepare([["a", "b"]], token_counter=clear).documents == [["a", "b"]]


def test_errors_of_a_counter_propagate():
    def broken(texts):
        raise ZeroDivisionError("broken")

    with pytest.raises(ZeroDivisionError, match="broken"):
        plan([["a"]], token_counter=broken)


def test_independent_texts_become_documents_of_one_chunk():
    prepared = prepare_texts(["a", "", "c"])
    assert prepared.documents == [["a"], [""], ["c"]]
    assert [(problem.document, problem.chunk) for problem in prepared.problems] == [(1, 0)]
    assert [request.tolist() for request in prepared.requests] == [[0, 2]]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("abc", TypeError, r"texts must be an iterable of str, got one str: pass \[text\]"),
        (["a", ["b"]], TypeError, r"texts\[1\] must be a str, got list: documents of several chunks go to embed"),
        ([3], TypeError, r"texts\[0\] must be a str, got int"),
        ([], ValueError, "texts is empty"),
        ({"a"}, TypeError, "texts must be an ordered iterable of str, got set"),
    ],
)
def test_invalid_texts_are_rejected(texts, error, message):
    with pytest.raises(error, match=message):
        prepare_texts(texts)


def test_a_plan_prints_a_summary():
    text = str(plan([[WORDS * 10, WORDS]] * 2000 + [[""]]))
    assert repr(plan([["a"]])) == str(plan([["a"]]))
    for part in (
        "2,001 documents",
        "4,001 chunks",
        "(proven fewest)",
        "estimated with a margin; at most",
        "USD",
        "full #",
    ):
        assert part in text
    assert "problems (1):\n  document 2000, chunk 0: is empty" in text


def test_a_plan_is_frozen_picklable_and_json_serializable():
    found = plan([["a", "b"], []], token_counter=characters)
    with pytest.raises(AttributeError):
        found.requests = 0
    assert pickle.loads(pickle.dumps(found)) == found
    fields = json.loads(json.dumps(found.to_dict()))
    assert fields["tokens"] == 3
    assert Decimal(fields["cost_usd"]) == found.cost_usd
    assert fields["problems"] == [
        {"document": 1, "chunk": None, "reason": "has no chunks: a document needs at least one"}
    ]
    assert set(fields) == set(Plan.__dataclass_fields__)


def test_a_hundred_thousand_chunks_are_all_planned():
    documents = [[f"{WORDS * 3} chunk {i} of document {j}" for i in range(10)] for j in range(10_000)]
    prepared = prepare(documents)
    assert np.sort(np.concatenate(prepared.requests)).tolist() == list(range(10_000))
