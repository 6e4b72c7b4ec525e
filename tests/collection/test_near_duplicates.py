"""``near_duplicates``: pairs of documents by their nearest chunks, as a double loop finds them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from ctxembed import Collection, CollectionError, Document, NearDuplicate
from ctxembed._collection import near_duplicates as module

from tests.collection.samples import DIMENSIONS, GivenVectors, LocalEmbedder, document, vectors_of


def double_loop(documents, score, threshold, limit=None):
    """Compare all chunks of all documents: ``score`` takes two texts."""
    found = []
    for place, first in enumerate(documents):
        for second in documents[place + 1 :]:
            pairs = defaultdict(list)
            for one, text in enumerate(first.chunks):
                for two, other in enumerate(second.chunks):
                    pairs[score(text, other)].append((one, two))
            near = {value: chunks for value, chunks in pairs.items() if value >= threshold}
            if near:
                best = max(near)
                found.append(NearDuplicate((first.id, second.id), near[best][0], best, sum(map(len, near.values()))))
    return sorted(found, key=lambda pair: -pair.score)[:limit]


def cosines(rows, dimensions=None):
    def score(one, two):
        a, b = rows[one][:dimensions].astype(np.int64), rows[two][:dimensions].astype(np.int64)
        norms = float(a @ a) * float(b @ b)
        return float(np.float32(int(a @ b) / np.sqrt(norms))) if norms else 0.0

    return score


def shares(rows, dimensions=None):
    return lambda one, two: (
        1 - float(np.sum((rows[one] >= 0)[:dimensions] != (rows[two] >= 0)[:dimensions])) / len(rows[one][:dimensions])
    )


def same(found, expected):
    """Scores are those of the index, which rounds once more."""
    assert [(pair.documents, pair.chunks, pair.pairs) for pair in found] == [
        (pair.documents, pair.chunks, pair.pairs) for pair in expected
    ]
    assert [pair.score for pair in found] == pytest.approx([pair.score for pair in expected], abs=1e-6)


def clustered(seed, count=30, most=8, kinds=25):
    """Return documents whose chunks are near some of few vectors, and the rows of their texts."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(-60, 61, (kinds, DIMENSIONS))
    documents, rows = [], {}
    for number in range(count):
        texts = [f"{number}/{chunk}" for chunk in range(1 + int(rng.integers(most)))]
        documents.append(Document(f"d{number}", texts, {"half": number % 2}))
        for text in texts:
            noise = rng.integers(-1, 2, DIMENSIONS) * rng.integers(0, 30)
            rows[text] = (pool[rng.integers(kinds)] + noise).astype(np.int8)
    return documents, rows


@pytest.fixture
def make(tmp_path):
    opened = []

    def make(documents, rows, **options):
        collection = Collection.create(tmp_path / f"{len(opened)}.ctx", dimensions=DIMENSIONS, **options)
        opened.append(collection)
        collection.ingest(documents, GivenVectors(rows))
        return collection

    yield make
    for collection in opened:
        collection.close()


@pytest.fixture(params=["one block", "many blocks", "one row at a time"])
def sizes(request, monkeypatch):
    """Blocks of other sizes, and fewer pairs at once."""
    queries, matches = {"one block": (256, 1 << 21), "many blocks": (5, 40), "one row at a time": (1, 1)}[request.param]
    monkeypatch.setattr(module, "_QUERIES", queries)
    monkeypatch.setattr(module, "_MATCHES", matches)


@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.3, -1.0])
def test_pairs_equal_a_double_loop(make, sizes, threshold):
    documents, rows = clustered(1)
    collection = make(documents, rows)
    expected = double_loop(documents, cosines(rows), threshold)
    assert len(expected) > 30
    same(collection.near_duplicates(threshold), expected)
    same(collection.near_duplicates(threshold, limit=7), expected[:7])
    same(collection.near_duplicates(np.float32(threshold), limit=np.int64(10_000)), expected)


def test_documents_that_were_deleted_or_replaced_are_in_no_pair(make, sizes):
    documents, rows = clustered(2)
    collection = make(documents, rows)
    collection.delete(["d0", "d17", "d29"])
    new = Document("d5", ["new 0", "new 1"], {"half": 1})
    rows |= {"new 0": rows["1/0"], "new 1": rows["2/0"]}
    collection.ingest([new], GivenVectors(rows))
    left = [one for one in documents if one.id not in ("d0", "d17", "d29", "d5")] + [new]
    same(collection.near_duplicates(0.8), double_loop(left, cosines(rows), 0.8))
    odd = [one for one in left if one.metadata["half"]]
    same(collection.near_duplicates(0.8, where="half = ?", params=(1,)), double_loop(odd, cosines(rows), 0.8))
    assert collection.near_duplicates(0.8, where="id = 'd1'") == []
    collection.compact()
    same(collection.near_duplicates(0.8), double_loop(left, cosines(rows), 0.8))


def test_prefixes(make):
    documents, rows = clustered(3)
    expected = double_loop(documents, cosines(rows, 64), 0.9)
    assert expected != double_loop(documents, cosines(rows), 0.9)
    same(make(documents, rows).near_duplicates(0.9, dimensions=64), expected)


@pytest.mark.parametrize("threshold", [1.0, 0.97, 122 / 128, 0.7, 0, -5.0, 1.01, 1e300])
def test_bits_are_compared_by_their_share(make, sizes, threshold):
    documents, rows = clustered(4, kinds=6)
    collection = make(documents, rows, encoding_format="base64_binary")
    expected = double_loop(documents, shares(rows), threshold)
    assert bool(expected) == (threshold <= 1)
    assert collection.near_duplicates(threshold) == expected
    assert collection.near_duplicates(threshold, limit=3) == expected[:3]
    assert collection.near_duplicates(threshold, dimensions=64) == double_loop(documents, shares(rows, 64), threshold)


def test_equal_documents_score_1_and_chunks_of_one_document_are_no_pair(make):
    rows = {text: vectors_of([text])[0] for text in ("a", "b", "c")}
    documents = [Document("one", ["a", "a", "b"]), Document("two", ["c", "a"]), Document("three", ["b"])]
    found = make(documents, rows).near_duplicates(0.999)
    assert found == [NearDuplicate(("one", "two"), (0, 1), 1.0, 2), NearDuplicate(("one", "three"), (2, 0), 1.0, 1)]


def test_a_document_with_more_rows_than_a_block(make):
    rng = np.random.default_rng(6)
    rows = {
        f"{name}{chunk}": rng.integers(-127, 128, DIMENSIONS, dtype=np.int8) for name in "ab" for chunk in range(700)
    }
    rows["b650"] = rows["a600"]
    rows["c"] = rows["a3"]
    documents = [Document(name, [f"{name}{chunk}" for chunk in range(700)]) for name in "ab"]
    collection = make([*documents, Document("c", ["c"])], rows)
    assert collection.near_duplicates(0.9) == [
        NearDuplicate(("a", "b"), (600, 650), 1.0, 1), NearDuplicate(("a", "c"), (3, 0), 1.0, 1),
    ]  # fmt: skip


def test_collections_of_no_or_one_document(make, tmp_path):
    collection = make([], {})
    assert collection.near_duplicates(-1.0) == []
    collection.ingest([document(3)], LocalEmbedder())
    assert collection.near_duplicates(-1.0) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"threshold": "0.9"}, TypeError, "threshold must be a score"),
        ({"threshold": True}, TypeError, "threshold must be a score"),
        ({"threshold": None}, TypeError, "threshold must be a score"),
        ({"threshold": float("nan")}, ValueError, "threshold must be finite"),
        ({"threshold": 0.9, "limit": 0}, ValueError, "limit must be at least 1"),
        ({"threshold": 0.9, "limit": 1.5}, TypeError, "limit must be an int"),
        ({"threshold": 0.9, "dimensions": 0}, ValueError, "dimensions"),
        ({"threshold": 0.9, "dimensions": 1000}, ValueError, "dimensions"),
        ({"threshold": 0.9, "where": "year = 1"}, ValueError, "unknown name 'year'"),
    ],
)
def test_arguments_that_are_refused(make, options, error, words):
    collection = make([Document("a", ["a"])], {"a": vectors_of(["a"])[0]})
    with pytest.raises(error, match=words):
        collection.near_duplicates(**options)


def test_damaged_vectors_are_in_no_result(make):
    documents, rows = clustered(7)
    collection = make(documents, rows)
    path = collection.path
    collection.close()
    (segment,) = (Collection.open(path, read_only=True)._folder.path).glob("tail-*")
    content = bytearray(segment.read_bytes())
    content[10] ^= 1
    segment.write_bytes(content)
    with Collection.open(path, read_only=True) as damaged, pytest.raises(CollectionError, match="checksum"):
        damaged.near_duplicates(0.5)
