"""``group_by_document``: the best chunk of each of the best documents, as a brute force finds them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from ctxembed import Collection, Document, pack_bits
from ctxembed._collection.ranking import RankedRow, distinct_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collection.ranked import best_by_document, ranked_chunks
from tests.collection.samples import DIMENSIONS, GivenVectors, LocalEmbedder, document, vectors_of

QUERY = vectors_of(["query"])[0]
DOCUMENTS = [document(number, chunks=1 + number % 7, lang="en" if number % 3 else "de") for number in range(60)]
ROWS = {text: row for one in DOCUMENTS for text, row in zip(one.chunks, vectors_of(one.chunks), strict=True)}


def found_by(collection, k, query=QUERY, **options):
    return [(hit.document, hit.chunk) for hit in collection.search(query, k, group_by_document=True, **options)]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    with Collection.create(tmp_path_factory.mktemp("grouping") / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([document(7, version=9), document(99)], LocalEmbedder())
        collection.ingest(DOCUMENTS, LocalEmbedder())
        collection.delete(["doc-99"])
        yield collection


@pytest.mark.parametrize("k", [1, 2, 13, 59, 60, 61, 10_000])
def test_documents_are_ranked_by_their_best_chunks(collection, k):
    assert found_by(collection, k) == best_by_document(ranked_chunks(DOCUMENTS, ROWS, QUERY), k)


def test_hits_are_those_of_a_search(collection):
    hits = collection.search(QUERY, 8, group_by_document=True)
    every = {(hit.document, hit.chunk): hit for hit in collection.search(QUERY, 1000)}
    assert hits == [every[hit.document, hit.chunk] for hit in hits]
    assert asyncio.run(collection.asearch(QUERY, 8, group_by_document=True)) == hits
    assert collection.search("query", 8, client=LocalEmbedder(), group_by_document=True) == hits


def test_filters_and_prefixes_apply_before_documents_are_ranked(collection):
    german = [one for one in DOCUMENTS if one.metadata["lang"] == "de"]
    for k in (5, 1000):
        expected = best_by_document(ranked_chunks(german, ROWS, QUERY), k)
        assert found_by(collection, k, where="lang = ?", params=("de",)) == expected
    expected = best_by_document(ranked_chunks(DOCUMENTS, ROWS, QUERY, 64), 12)
    assert found_by(collection, 12, dimensions=64) == expected
    assert found_by(collection, 3, where="0") == []


def test_stages(collection):
    exact = found_by(collection, 9)
    assert found_by(collection, 9, stage="two-stage", oversample=1000) == exact
    for stage, oversample in (("two-stage", 1), ("binary", None)):
        hits = collection.search(QUERY, 60, group_by_document=True, stage=stage, oversample=oversample)
        assert len({hit.document for hit in hits}) == len(hits) == 60
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_binary_collections(tmp_path):
    rows = {text: np.where(row >= 0, 1, -1).astype(np.int8) for text, row in ROWS.items()}
    with Collection.create(tmp_path / "b.ctx", dimensions=DIMENSIONS, encoding_format="base64_binary") as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        for query, compared in ((QUERY, QUERY), (pack_bits(QUERY[None])[0], np.where(QUERY >= 0, 1, -1))):
            expected = best_by_document(ranked_chunks(DOCUMENTS, rows, compared), 20)
            assert found_by(collection, 20, query) == expected


def test_one_document_with_thousands_of_the_best_chunks(tmp_path):
    """The other documents are found behind them, by few searches."""
    rng = np.random.default_rng(5)
    rows, documents = {}, []
    for name, count, noise in (("long", 5000, 2), ("longer", 7000, 4), *((f"d{n}", 3, 60) for n in range(30))):
        texts = [f"{name} {chunk}" for chunk in range(count)]
        near = QUERY + rng.integers(-noise, noise + 1, (count, DIMENSIONS))
        rows |= zip(texts, np.clip(near, -127, 127).astype(np.int8), strict=True)
        documents.append(Document(name, texts))
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, GivenVectors(rows))
        ranked = ranked_chunks(documents, rows, QUERY)
        assert {name for _, name, _ in ranked[:11_000]} == {"long", "longer"}
        for k in (1, 2, 3, 10, 32, 33):
            expected = best_by_document(ranked, k)
            assert len(expected) == min(k, 32)
            assert found_by(collection, k) == expected


class Listed:
    """A ranking that is no ranking of vectors: a list of rows, of which a mask may be left out, or not."""

    def __init__(self, rows, *, can_leave_out):
        self.rows = rows
        self.can_leave_out = can_leave_out
        self.depths = []

    def best(self, depth):
        self.depths.append(depth)
        return [RankedRow(row, -place) for place, row in enumerate(self.rows[:depth])]

    def without(self, mask):
        if not self.can_leave_out:
            return None
        return Listed([row for row in self.rows if not mask[row]], can_leave_out=True)


@given(
    rows=st.permutations(range(200)), size=st.integers(1, 60), k=st.integers(1, 12), can_leave_out=st.booleans(),
    passed=st.sets(st.integers(0, 199), max_size=50),
)  # fmt: skip
def test_rows_are_chosen_from_any_ranking(rows, size, k, can_leave_out, passed):
    def extent(row):
        return row // size * size, row // size * size + size

    covered = np.zeros(200, bool)
    covered[list(passed)] = True
    before = covered.copy()
    found = distinct_rows(Listed(rows, can_leave_out=can_leave_out), k, covered, extent)
    expected = {}
    for row in rows:
        if row not in passed:
            expected.setdefault(row // size, row)
    # A better row of the same group may be passed over, so that the group stands where its next row does.
    assert [ranked.row for ranked in found] == list(expected.values())[:k]
    assert np.array_equal(covered, before)


def test_a_ranking_that_changes_with_its_depth_is_read_from_its_beginning():
    class Changing(Listed):
        def best(self, depth):
            super().best(depth)
            return [RankedRow(row, 0) for row in (self.rows if depth < 20 else self.rows[::-1])[:depth]]

    ranking = Changing([*range(100)], can_leave_out=False)
    found = distinct_rows(ranking, 3, np.zeros(100, bool), lambda row: (row // 20 * 20, row // 20 * 20 + 20))
    assert [ranked.row for ranked in found] == [99, 79, 59]
    assert ranking.depths == [12, 192]


@pytest.mark.parametrize("wrong", [1, 0, None, "yes"])
def test_what_is_no_bool(collection, wrong):
    with pytest.raises(TypeError, match="group_by_document must be a bool"):
        collection.search(QUERY, group_by_document=wrong)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    kinds=st.integers(1, 6),
    removed=st.sets(st.integers(0, 11)),
)
def test_any_collection_with_many_ties(tmp_path_factory, counts, seed, kinds, removed):
    rng = np.random.default_rng(seed)
    pool = rng.integers(-3, 4, (kinds, DIMENSIONS), dtype=np.int8)
    documents = [Document(str(n), [f"{n}/{chunk}" for chunk in range(count)]) for n, count in enumerate(counts)]
    rows = {text: pool[rng.integers(kinds)] for one in documents for text in one.chunks}
    with Collection.create(tmp_path_factory.mktemp("any") / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, GivenVectors(rows))
        collection.delete([str(n) for n in removed])
        left = [one for one in documents if int(one.id) not in removed]
        ranked = ranked_chunks(left, rows, QUERY)
        for k in range(1, len(counts) + 2):
            assert found_by(collection, k) == best_by_document(ranked, k)
