"""Arguments of an evaluation that are not what they should be: errors that name place, value and expectation."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest

VECTOR = np.array([3, 4, 5, 6, 7, 8, 9, 10], np.int8)
DOCUMENTS = {"a": np.stack([VECTOR, VECTOR]), "b": VECTOR}
QUERIES = {"q": VECTOR, "r": VECTOR}
JUDGEMENTS = {"q": {"a": 1}, "r": {"b": 1, "a": 0}}


def refused(error, message, documents=DOCUMENTS, queries=QUERIES, judgements=JUDGEMENTS, **options):
    with pytest.raises(error, match=message):
        ctxembed.evaluate(documents, queries, judgements, **options)
    with pytest.raises(error, match=message):
        ctxembed.plan_evaluation(documents, queries, judgements, **options)


@pytest.mark.parametrize(
    ("judgements", "error", "message"),
    [
        ({"q": {"a": 1}, "r": {"z": 1}}, ValueError, "no document 'z', which query 'r' judges"),
        ({"q": {("a", 2): 1}, "r": {("b", 0): 1}}, ValueError, "document 'a' has no chunk 2: its chunks are 0 to 1"),
        ({"q": {("a", 0): 1}, "r": {"b": 1}}, ValueError, "query 'r' judges the document 'b', and others judge chunks"),
        ({"q": {"a": 1}}, ValueError, "query 'r' has no judgement: expected one of each query. skip_unjudged=True"),
        ({"q": {"a": 1}, "r": {}}, ValueError, r"judgements\['r'\] is empty"),
        ({**JUDGEMENTS, "s": {"a": 1}}, ValueError, "there is no query 's' that judgements name"),
        ({"q": {"a": 1.0}, "r": {"b": 1}}, TypeError, "query 'q' grades document 'a' as 1.0: expected an integer"),
        ({"q": {"a": True}, "r": {"b": 1}}, TypeError, "query 'q' grades document 'a' as True: expected an integer"),
        ({"q": {"a": "1"}, "r": {"b": 1}}, TypeError, "query 'q' grades document 'a' as '1': expected an integer"),
        (
            {"q": {("a", "0"): 1}, "r": {"b": 1}},
            TypeError,
            r"key \('a', '0'\): expected a document id or",
        ),
        ({"q": {("a", -1): 1}, "r": {"b": 1}}, TypeError, r"key \('a', -1\): expected a document id or"),
        ({"q": {7: 1}, "r": {"b": 1}}, TypeError, "key 7: expected a document id or"),
        ({7: {"a": 1}}, TypeError, "judgements has the key 7: expected the id of a query, a str"),
        ({"q": ["a"], "r": {"b": 1}}, TypeError, r"judgements\['q'\] must be a dict .*, got list"),
        ({}, ValueError, "there are no judgements"),
        ([], TypeError, "judgements must be a dict of query ids to dicts .*, got list"),
    ],
)
def test_judgements(judgements, error, message):
    refused(error, message, judgements=judgements)


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        ({}, ValueError, "there are no queries"),
        (["q"], TypeError, "queries must be a dict of query ids to texts or vectors, got list"),
        ({"q": VECTOR, "r": "text"}, TypeError, "'q' is int8 and 'r' is text"),
        ({"q": "text", "r": " "}, ValueError, "query 'r' is empty"),
        ({"q": "text", "r": "\ud800"}, ValueError, r"query 'r' holds a lone surrogate \(character 0\)"),
        ({"q": VECTOR, "r": VECTOR[:4]}, ValueError, r"query 'r' has the shape \(4,\): expected \(8,\)"),
        ({"q": VECTOR, "r": VECTOR.astype(float)}, TypeError, "query 'r' must be a text or a vector .*, got float64"),
        ({"q": VECTOR, "r": np.zeros(1, np.uint8)}, TypeError, "query 'r' is packed bits: the vectors .* are int8"),
        ({"q": VECTOR, 7: VECTOR}, TypeError, "queries has the key 7"),
        ({"q": "text", "r": "text"}, TypeError, "queries are texts, and the documents vectors without a model"),
    ],
)
def test_queries(queries, error, message):
    refused(error, message, queries=queries)


@pytest.mark.parametrize(
    ("documents", "error", "message"),
    [
        ({}, ValueError, "the dict of vectors has no documents"),
        ([VECTOR], TypeError, "collection must be a Collection or a dict of document ids to vectors .*, got list"),
        ({"a": VECTOR, 7: VECTOR}, TypeError, "the key 7: expected the id of a document"),
        ({"a": VECTOR, "b": VECTOR.astype(np.int16)}, TypeError, "document 'b' has vectors of int16: expected int8"),
        ({"a": VECTOR, "b": np.zeros((0, 8), np.int8)}, ValueError, r"document 'b' has vectors of shape \(0, 8\)"),
        ({"a": VECTOR, "b": VECTOR[:4]}, ValueError, "document 'b' has vectors of 4 int8 values, and 'a' of 8 int8"),
    ],
)
def test_documents(documents, error, message):
    refused(error, message, documents=documents)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be one or more numbers of at least 1, got 0"),
        ({"k": []}, ValueError, r"k must be one or more numbers of at least 1, got \[\]"),
        ({"k": "10"}, TypeError, "k must be an int, got '10'"),
        ({"k": [1, 2.5]}, TypeError, "k must be an int, got 2.5"),
        ({"variants": "int8"}, TypeError, r"got one str: pass \['int8'\]"),
        ({"variants": []}, ValueError, "variants must not be empty"),
        ({"variants": ["int8", "int8"]}, ValueError, "'int8' stands twice"),
        ({"variants": ["float32"]}, ValueError, "variants: 'float32' is unknown: expected \"int8\", "),
        ({"variants": ["int8:4"]}, ValueError, "variants: 'int8:4' is unknown"),
        ({"variants": ["int8@16"]}, ValueError, "'int8@16' has more dimensions than the vectors, which have 8"),
        ({"variants": [7]}, TypeError, "a name must be a str, got 7"),
        ({"variants": ["hybrid"]}, ValueError, "'hybrid' needs a collection, and queries that are texts"),
        ({"arms": "context"}, TypeError, r"got one str: pass \['context'\]"),
        ({"arms": []}, ValueError, r"arms must be 'context', 'isolated' or both, each once, got \[\]"),
        ({"arms": ["alone"]}, ValueError, r"arms must be .*, got \['alone'\]"),
        (
            {"arms": ["isolated"]},
            TypeError,
            "'isolated' embeds the chunks of a collection, and there",
        ),
        ({"by": "page"}, ValueError, "by must be 'document', 'chunk' or None, got 'page'"),
        ({"by": "chunk"}, ValueError, "query 'q' judges the document 'a', and others judge chunks"),
    ],
)
def test_options(options, error, message):
    refused(error, message, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resamples": 9}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"max_cost_usd": -1}, ValueError),
        ({"max_cost_usd": "1"}, TypeError),
    ],
)
def test_options_that_a_plan_does_not_have(options, error):
    with pytest.raises(error, match=next(iter(options))):
        ctxembed.evaluate(DOCUMENTS, QUERIES, JUDGEMENTS, **options)


def test_bits_are_searched_by_bits():
    documents = {name: ctxembed.pack_bits(np.atleast_2d(rows)) for name, rows in DOCUMENTS.items()}
    queries = {name: ctxembed.pack_bits(vector) for name, vector in QUERIES.items()}
    result = ctxembed.evaluate(documents, queries, JUDGEMENTS)
    assert [row["variant"] for row in result.table] == ["bits"]
    refused(
        ValueError, "'asymmetric' needs int8 queries, and these are bits", documents, queries, variants=["asymmetric"]
    )


def test_what_is_left_out_is_said():
    judgements = {"q": {"a": 1, "z": 1}}
    result = ctxembed.evaluate(
        DOCUMENTS, QUERIES, judgements, k=2, variants=["int8"], skip_unjudged=True, allow_missing=True
    )
    assert result.queries == 1
    assert result.notes == (
        "1 queries without a judgement were left out",
        "1 judged documents are not there, and count as never found: 'z'",
    )
    assert result.table[0]["recall@2"] == 0.5
    nothing = ctxembed.evaluate(DOCUMENTS, QUERIES, {"q": {"a": 0}, "r": {"b": 1}}, k=2, variants=["int8"])
    assert nothing.notes == ("1 queries have no relevant document, and score 0",)
    assert nothing.table[0]["success@2"] == 0.5


def test_vectors_cost_nothing():
    planned = ctxembed.plan_evaluation(DOCUMENTS, QUERIES, JUDGEMENTS)
    assert (planned.queries, planned.requests, planned.tokens) == (0, 0, 0)
