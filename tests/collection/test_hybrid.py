"""Hybrid search: scores and ranks against an oracle, filters, scripts, arguments."""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
from collections import Counter

import numpy as np
import pytest
from ctxembed import Collection, CollectionError, Document
from ctxembed._collection import bm25
from ctxembed._collection.hybrid import TEXT_DEPTH, VECTOR_DEPTH

from tests.collection.samples import DIMENSIONS, LocalEmbedder, vectors_of

WORDS = [f"w{number}" for number in range(300)]
WEIGHTS = [1 / (number + 1) for number in range(300)]


def text_of(rng):
    return " ".join(rng.choices(WORDS, WEIGHTS, k=rng.choice([3, 12, 13, 60, 100, 200])))


def random_documents(count, seed=16):
    rng = random.Random(seed)
    return [
        Document(f"doc-{number}", [text_of(rng) for _ in range(1 + number % 4)], {"number": number, "part": number % 7})
        for number in range(count)
    ]


DOCUMENTS = random_documents(600)


class Oracle:
    """All scores of a query, by definition."""

    def __init__(self, documents, vectors=vectors_of):
        self.chunks = [(one, place) for one in documents for place in range(len(one.chunks))]
        self.terms = [Counter(re.findall(r"\w+", one.chunks[place].lower())) for one, place in self.chunks]
        self.vectors = np.concatenate([vectors(one.chunks) for one in documents]).astype(float)
        self.frequency = Counter(term for terms in self.terms for term in terms)

    def bm25(self, query, most=32):
        """BM25 (k1 1.2, b 0.75) with lengths kept in a byte: 4 bits of what is above 24."""
        terms = [term for term in dict.fromkeys(re.findall(r"\w+", query.lower())) if self.frequency[term]]
        terms = sorted(terms, key=lambda term: self.frequency[term])[:most]
        total = len(self.terms)
        average = sum(map(Counter.total, self.terms)) / total
        scores = np.zeros(total)
        for row, counts in enumerate(self.terms):
            length = counts.total()
            if length > 24:
                shift = max(0, (length - 24).bit_length() - 4)
                length = 24 + ((length - 24) >> shift << shift)
            norm = 1.2 * (1 - 0.75 + 0.75 * length / average)
            for term in terms:
                if term in counts:
                    frequency = self.frequency[term]
                    idf = math.log(1 + (total - frequency + 0.5) / (frequency + 0.5))
                    scores[row] += idf * 2.2 * counts[term] / (counts[term] + norm)
        return scores

    def cosines(self, query, dimensions=DIMENSIONS):
        vector = vectors_of([query])[0, :dimensions].astype(float)
        rows = self.vectors[:, :dimensions]
        return rows @ vector / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)

    def ranking(self, query, k, selects=lambda _: True, dimensions=DIMENSIONS):
        """Return (document id, chunk, score, vector score, text score) of the best chunks."""
        allowed = [row for row, (one, _) in enumerate(self.chunks) if selects(one)]
        cosines, texts = self.cosines(query, dimensions), self.bm25(query)
        near = sorted(allowed, key=lambda row: (-cosines[row], row))[: max(k, VECTOR_DEPTH)]
        # Equal scores differ in the last places of a sum.
        fitting = sorted((row for row in allowed if texts[row]), key=lambda row: (-float(f"{texts[row]:.6g}"), row))
        total = Counter()
        for ranking in (near, fitting[: max(TEXT_DEPTH, k * TEXT_DEPTH // VECTOR_DEPTH)]):
            for place, row in enumerate(ranking, start=1):
                total[row] += 1 / (60 + place)
        best = sorted(total, key=lambda row: (-total[row], -cosines[row], row))[:k]
        return [
            (self.chunks[row][0].id, self.chunks[row][1], total[row], cosines[row], texts[row]) for row in best
        ]  # fmt: skip


def check(hits, expected):
    assert [(hit.document, hit.chunk) for hit in hits] == [row[:2] for row in expected]
    for place, name in enumerate(("score", "vector_score", "text_score"), start=2):
        found = [getattr(hit, name) for hit in hits]
        assert all(type(score) is float for score in found)
        assert found == pytest.approx([row[place] for row in expected], rel=1e-5, abs=1e-6), name


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    with Collection.create(tmp_path_factory.mktemp("hybrid") / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        yield collection


@pytest.fixture(scope="module")
def oracle():
    return Oracle(DOCUMENTS)


QUERIES = ["w1", "w0 w1 w2", "w250", "w5 w150 w9 W150 absent", "w299 w298 w297 w3 w40 w41 w42", "w0"]
FILTERS = [
    (None, (), lambda one: True),
    ("number < ?", (3,), lambda one: one.metadata["number"] < 3),
    ("number >= ? AND number < 50", (40,), lambda one: 40 <= one.metadata["number"] < 50),
    ("part = 3", (), lambda one: one.metadata["part"] == 3),
    ("part <> 3", (), lambda one: one.metadata["part"] != 3),
    ("id = 'doc-77'", (), lambda one: one.id == "doc-77"),
    ("0", (), lambda one: False),
]


@pytest.mark.parametrize("few", [0, 700, 10**9], ids=["filtered afterwards", "both", "named rows"])
@pytest.mark.parametrize(("where", "params", "selects"), FILTERS, ids=[str(where) for where, *_ in FILTERS])
def test_scores_and_ranks_are_those_of_the_oracle(collection, oracle, monkeypatch, where, params, selects, few):
    monkeypatch.setattr(bm25, "_FEW", few)
    for query in QUERIES:
        for k in (1, 10, 57):
            hits = collection.search(query, k, client=LocalEmbedder(), where=where, params=params, hybrid=True)
            check(hits, oracle.ranking(query, k, selects))
            matching = sum(len(one.chunks) for one in DOCUMENTS if selects(one))
            assert len(hits) == min(k, matching)


def test_more_hits_begin_with_the_same(collection):
    few, many = (collection.search("w1 w150", k, client=LocalEmbedder(), hybrid=True) for k in (3, 150))
    assert many[:3] == few


@pytest.mark.parametrize("where", [None, "part <> 3"])
def test_by_document_and_with_neighbours(collection, where):
    options = {"client": LocalEmbedder(), "where": where, "hybrid": True}
    for query in QUERIES:
        ranked = collection.search(query, 100, **options)
        best = {hit.document: hit for hit in reversed(ranked)}
        expected = sorted(best.values(), key=ranked.index)[:12]
        assert len(expected) == 12
        assert collection.search(query, 12, **options, group_by_document=True) == expected
        widened = collection.search(query, 5, **options, neighbours=1)
        assert [hit.score for hit in widened] == sorted((hit.score for hit in widened), reverse=True)
        assert widened[0].chunk == ranked[0].chunk
        for hit in widened:
            start, stop = hit.passage_chunks
            chunks = collection.get(hit.document).chunks
            assert start <= hit.chunk < stop
            assert hit.passage == "\n".join(chunks[start:stop])


@pytest.mark.parametrize("few", [0, 10**9])
def test_a_filter_that_the_best_words_do_not_pass(collection, oracle, monkeypatch, few):
    """All rows that the query finds are read before one that is allowed comes."""
    monkeypatch.setattr(bm25, "_FEW", few)
    monkeypatch.setattr(bm25, "_SPARE", 1)
    texts = oracle.bm25("w0 w1")
    worst = {oracle.chunks[row][0].id for row in np.argsort(np.where(texts > 0, texts, 99))[:5]}
    marks = ", ".join("?" * len(worst))
    hits = collection.search(
        "w0 w1", 10, client=LocalEmbedder(), where=f"id IN ({marks})", params=tuple(worst), hybrid=True
    )
    check(hits, oracle.ranking("w0 w1", 10, lambda one: one.id in worst))


def test_all_chunks(collection, oracle):
    count = len(oracle.chunks)
    hits = collection.search("w7 w8", count + 5, client=LocalEmbedder(), hybrid=True)
    check(hits, oracle.ranking("w7 w8", count + 5))
    assert len(hits) == count


def test_a_prefix_and_two_stages(collection, oracle):
    hits = collection.search("w20 w21", 10, client=LocalEmbedder(), hybrid=True, dimensions=64)
    check(hits, oracle.ranking("w20 w21", 10, dimensions=64))
    two = collection.search("w20 w21", 10, client=LocalEmbedder(), hybrid=True, stage="two-stage", oversample=1000)
    check(two, oracle.ranking("w20 w21", 10))


def test_a_binary_collection(tmp_path):
    with Collection.create(tmp_path / "b.ctx", dimensions=DIMENSIONS, encoding_format="base64_binary") as collection:
        collection.ingest(DOCUMENTS[:100], LocalEmbedder())
        oracle = Oracle(DOCUMENTS[:100], lambda chunks: np.where(vectors_of(chunks) >= 0, 1, -1))
        check(collection.search("w3 w30", 10, client=LocalEmbedder(), hybrid=True), oracle.ranking("w3 w30", 10))


def test_a_long_query_counts_by_its_rarest_terms(collection, oracle):
    query = " ".join([*WORDS, *(f"absent{number}" for number in range(5000))])
    check(collection.search(query, 10, client=LocalEmbedder(), hybrid=True), oracle.ranking(query, 10))


def test_asearch_returns_the_same(collection):
    for query in QUERIES:
        found = asyncio.run(collection.asearch(query, 7, client=LocalEmbedder(), hybrid=True, where="part > 1"))
        assert found == collection.search(query, 7, client=LocalEmbedder(), hybrid=True, where="part > 1")


def test_equal_scores_are_in_the_order_of_rows(tmp_path, monkeypatch):
    """Whatever the order is in which the index has them."""
    monkeypatch.setattr(bm25, "_SPARE", 0)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        for first in range(0, 400, 50):
            collection.ingest([(f"doc-{first + n}", ["the same words"]) for n in range(50)], LocalEmbedder())
            searcher = collection._words.at(collection._current())
            for count in (1, 7, 300):
                rows, scores = searcher.top("same", count, None, first + 50)
                assert rows == list(range(min(count, first + 50)))
                assert len(set(scores)) == 1


def test_deleted_and_replaced_documents_never_show(tmp_path):
    documents = random_documents(60)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, LocalEmbedder())
        replaced = [Document(one.id, ["needle", *one.chunks[1:]], one.metadata) for one in documents[:5]]
        before = [Document(f"old-{number}", ["needle needle"]) for number in range(5)]
        collection.ingest(before, LocalEmbedder())

        def found():
            hits = collection.search("needle", 20, client=LocalEmbedder(), hybrid=True)
            return {hit.document for hit in hits if hit.text_score}

        assert found() == {one.id for one in before}
        collection.ingest(replaced, LocalEmbedder())
        assert found() == {one.id for one in [*before, *replaced]}
        collection.delete([one.id for one in before[:3]])
        assert found() == {one.id for one in [*before[3:], *replaced]}
        collection.compact()
        assert found() == {one.id for one in [*before[3:], *replaced]}
        left = [*documents[5:], *before[3:], *replaced]
        oracle = Oracle(sorted(left, key=lambda one: [*collection.documents()].index(collection.get(one.id))))
        check(collection.search("needle w3", 20, client=LocalEmbedder(), hybrid=True), oracle.ranking("needle w3", 20))


SCRIPTS = {
    "id": ("order id77 arrived", "id77", ["order id770 arrived", "order id7 arrived"]),
    "Japanese": ("昨日、図書館へ行きました。", "図書館", ["猫が好きです。", "図を書く館"]),
    "one character": ("黒猫がいます。", "猫", ["犬がいます。"]),
    "katakana": ("新しいコンピュータを買う", "ｺﾝﾋﾟｭｰﾀ", ["新しい本を買う"]),
    "Chinese": ("我喜欢在图书馆看书", "图书馆", ["我喜欢喝茶"]),
    "Thai": ("ฉันรักภาษาไทย", "ภาษา", ["น้ำเย็น"]),
    "Korean": ("서울에서 만나요", "서울", ["부산으로 가요"]),
    "Hindi": ("मुझे हिन्दी पसंद है", "हिन्दी", ["मुझे चाय पसंद है"]),
    "case": ("Die STRASSE ist lang", "straße", ["Die Stadt ist groß"]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(tmp_path, name):
    text, query, others = SCRIPTS[name]
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest([("this", [text]), *((f"other-{n}", [o]) for n, o in enumerate(others))], LocalEmbedder())
        hits = collection.search(query, 5, client=LocalEmbedder(), hybrid=True)
        assert [hit.document for hit in hits if hit.text_score] == ["this"]


ANY = ["", "   ", "\t\n\0", '( : " *', "😀", "'; DROP TABLE chunks; --", "AND OR NOT", "text:w1^2~", "[a TO b}", "\\"]


@pytest.mark.parametrize("query", [*ANY, "w" * 100_000], ids=ascii)
def test_any_text_is_a_query(collection, query):
    """Without words of the collection the vectors alone rank."""
    hits = collection.search(query, 10, client=LocalEmbedder(), hybrid=True)
    nearest = collection.search(query, 10, client=LocalEmbedder())
    if not any(hit.text_score for hit in hits):
        assert [(hit.document, hit.chunk) for hit in hits] == [(hit.document, hit.chunk) for hit in nearest]
        assert [hit.vector_score for hit in hits] == [hit.vector_score for hit in nearest]
        assert [hit.score for hit in hits] == [1 / (60 + place) for place in range(1, 11)]
    assert (query == "text:w1^2~") == any(hit.text_score for hit in hits)


def test_without_hybrid_nothing_is_built(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS[:3], LocalEmbedder())
        collection.search("w1", client=LocalEmbedder())
    assert not (tmp_path / "a.ctx" / "words").exists()


def test_an_empty_collection(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        assert collection.search("w1", client=LocalEmbedder(), hybrid=True) == []


def test_arguments(collection):
    with pytest.raises(TypeError, match="hybrid must be a bool, got 1"):
        collection.search("w1", client=LocalEmbedder(), hybrid=1)
    with pytest.raises(TypeError, match="hybrid=True needs a text query, whose words are searched: got ndarray"):
        collection.search(vectors_of(["q"])[0], hybrid=True)
    with pytest.raises(TypeError, match="hybrid=True needs a text query"):
        asyncio.run(collection.asearch(vectors_of(["q"])[0], hybrid=True))


class Untouched:
    """A client that must not be called: a search that cannot be made is not paid for."""

    def embed_queries(self, *_args, **_options):
        raise AssertionError("a query was embedded")


def test_a_collection_without_text(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, store_text=False) as collection:
        collection.ingest(DOCUMENTS[:3], LocalEmbedder())
        assert collection.search("w1", client=LocalEmbedder())
        for call in (collection.search, lambda *args, **options: asyncio.run(collection.asearch(*args, **options))):
            with pytest.raises(CollectionError, match=r"a\.ctx was created with store_text=False: it has no words"):
                call("w1", client=Untouched(), hybrid=True)


def test_a_missing_package_names_the_extra(collection, monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(ModuleNotFoundError, match=r"a hybrid search needs tantivy: pip install 'ctxembed\[hybrid\]'"):
        collection.search("w1", client=Untouched(), hybrid=True)
    assert collection.search("w1", client=LocalEmbedder())
