"""Measures equal those of trec_eval, for random vectors and judgements, and among ties for our order."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.evaluation import oracle

KS = (1, 3, 10, 100)
METHODS = ("int8", "asymmetric", "bits")


@st.composite
def collections(draw):
    """Documents, queries and judgements, by chunk or by document."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = draw(st.sampled_from([64, 256]))
    names = [f"doc-{number}" for number in rng.permutation(draw(st.integers(1, 40)))]
    documents = {name: rng.integers(-127, 128, (rng.integers(1, 5), width), dtype=np.int8) for name in names}
    queries = {f"q{number}": rng.integers(-127, 128, width, dtype=np.int8) for number in range(draw(st.integers(1, 4)))}
    by_chunk = draw(st.booleans())
    items = [(name, chunk) for name in names for chunk in range(len(documents[name]))] if by_chunk else names
    judgements = {}
    for query in queries:
        count = rng.integers(1, len(items) + 1)
        chosen = [items[place] for place in rng.permutation(len(items))[:count]]
        judgements[query] = {item: int(rng.integers(-1, 4)) for item in chosen}
    return documents, queries, judgements, by_chunk


def orders_of(method, documents, queries, by_chunk):
    """Return the ranking of each query, and whether any two of its scores are equal."""
    rows = np.concatenate([*documents.values()])
    chunks = [(name, chunk) for name, vectors in documents.items() for chunk in range(len(vectors))]
    orders, tied = {}, False
    for query, vector in queries.items():
        scores = oracle.scores_of(method, vector, rows)
        if by_chunk:
            found = dict(zip(chunks, scores.tolist(), strict=True))
        else:
            found = oracle.best_chunks(scores, [name for name, _ in chunks])
        orders[query] = oracle.ordered(found)
        tied = tied or len(set(found.values())) < len(found)
    return orders, tied


def assert_equal(result, method, expected):
    for query, measures in expected.items():
        place = result.query_ids.index(query)
        found = {measure: values[place] for measure, values in result.values[method, "context"].items()}
        assert found == pytest.approx(measures, abs=1e-9)
    row = next(row for row in result.table if row["variant"] == method)
    for measure in found:
        mean = np.mean([measures[measure] for measures in expected.values()])
        assert row[measure] == pytest.approx(mean, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(collections())
def test_measures_of_random_runs_without_ties_equal_trec_eval(drawn):
    documents, queries, judgements, by_chunk = drawn
    orders, tied = orders_of("int8", documents, queries, by_chunk)
    assume(not tied)
    result = ctxembed.evaluate(documents, queries, judgements, k=KS, variants=["int8"], resamples=100)
    assert_equal(result, "int8", oracle.measures(orders, judgements, KS))


@settings(max_examples=40, deadline=None)
@given(collections(), st.sampled_from(["asymmetric", "bits"]))
def test_equal_scores_are_ordered_by_id_then_chunk(drawn, method):
    documents, queries, judgements, by_chunk = drawn
    orders, _ = orders_of(method, documents, queries, by_chunk)
    expected = oracle.measures(orders, judgements, KS)
    result = ctxembed.evaluate(documents, queries, judgements, k=KS, variants=[method], resamples=100)
    assert_equal(result, method, expected)
    packed = {name: ctxembed.pack_bits(rows) for name, rows in documents.items()}
    assert_equal(ctxembed.evaluate(packed, queries, judgements, k=KS, resamples=100), method, expected)


@pytest.mark.parametrize("order", [["b", "a", "c"], ["c", "b", "a"]])
def test_equal_vectors_rank_by_id_whatever_the_order_of_the_documents(order):
    vector = np.array([3, 4, 5, 6, 7, 8, 9, 10], np.int8)
    documents = {name: np.stack([vector, vector]) for name in order}
    result = ctxembed.evaluate(documents, {"q": vector}, {"q": {"b": 1}}, k=[1, 2])
    for row in result.table:
        assert (row["success@1"], row["success@2"], row["mrr"]) == (0.0, 1.0, 0.5)
    result = ctxembed.evaluate(documents, {"q": vector}, {"q": {("b", 0): 1}}, k=[1, 2, 3], variants=["int8", "bits"])
    for row in result.table:
        assert (row["success@2"], row["success@3"], row["mrr"]) == (0.0, 1.0, pytest.approx(1 / 3))


def test_a_document_counts_by_its_best_chunk_and_by_its_highest_grade():
    near, far = np.array([90, 10, 0, 0, 0, 0, 0, 0], np.int8), np.array([-90, 5, 0, 0, 0, 0, 0, 0], np.int8)
    middle = np.array([60, 60, 0, 0, 0, 0, 0, 0], np.int8)
    documents = {"two": np.stack([far, near]), "one": middle}
    chunks = {"q": {("two", 0): 2, ("two", 1): 0, ("one", 0): 1}}
    result = ctxembed.evaluate(documents, {"q": near}, chunks, by="document", k=2, variants=["int8"])
    assert result.level == "document"
    assert result.table[0]["ndcg@2"] == 1.0
    by_chunk = ctxembed.evaluate(documents, {"q": near}, chunks, k=2, variants=["int8"])
    assert by_chunk.level == "chunk"
    assert by_chunk.table[0]["mrr"] == 0.5
    orders = {"q": [("two", 1), ("one", 0), ("two", 0)]}
    assert by_chunk.table[0]["ndcg@2"] == pytest.approx(oracle.measures(orders, chunks, [2])["q"]["ndcg@2"])


def test_prefixes_are_ranked_by_the_prefix_alone():
    rng = np.random.default_rng(3)
    documents = {f"d{number}": rng.integers(-127, 128, (1, 128), dtype=np.int8) for number in range(50)}
    queries = {"q": rng.integers(-127, 128, 128, dtype=np.int8)}
    judgements = {"q": {f"d{number}": 1 for number in range(7)}}
    names = ["int8@64", "bits@64", "asymmetric@64"]
    result = ctxembed.evaluate(documents, queries, judgements, k=KS, variants=names)
    short = {name: rows[:, :64] for name, rows in documents.items()}
    for name in names:
        method = name.partition("@")[0]
        orders, _ = orders_of(method, short, {"q": queries["q"][:64]}, False)
        assert_equal(result, name, oracle.measures(orders, judgements, KS))
    assert [row["bytes"] for row in result.table] == [64, 8, 8]


def test_a_wide_enough_search_in_two_stages_is_the_exact_one_and_a_narrow_one_is_its_candidates():
    rng = np.random.default_rng(5)
    documents = {f"d{number:02}": rng.integers(-127, 128, (3, 64), dtype=np.int8) for number in range(60)}
    queries = {f"q{number}": rng.integers(-127, 128, 64, dtype=np.int8) for number in range(8)}
    judgements = {query: {(f"d{rng.integers(60):02}", 1): 1, ("d03", 2): 2} for query in queries}
    names = ["int8", "two-stage:180", "two-stage:1"]
    result = ctxembed.evaluate(documents, queries, judgements, k=[*KS, 180], variants=names)
    exact, wide, narrow = result.table
    for measure in ("ndcg@10", "recall@100", "mrr", "map"):
        assert wide[measure] == exact[measure]
    # With one candidate a hit, the first k are those of the bits, ordered by their int8 values.
    rows = np.concatenate([*documents.values()])
    chunks = [(name, chunk) for name in documents for chunk in range(3)]
    for k in KS:
        orders = {}
        for query, vector in queries.items():
            bits = dict(zip(chunks, oracle.scores_of("bits", vector, rows).tolist(), strict=True))
            cosines = dict(zip(chunks, oracle.scores_of("int8", vector, rows).tolist(), strict=True))
            candidates = oracle.ordered(bits)[:k]
            orders[query] = sorted(candidates, key=lambda item, cosines=cosines: (-cosines[item], item))
        expected = oracle.measures(orders, judgements, [k])
        for measure in (f"ndcg@{k}", f"recall@{k}"):
            assert narrow[measure] == pytest.approx(np.mean([found[measure] for found in expected.values()]), abs=1e-9)
