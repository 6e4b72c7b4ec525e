"""``neighbours``: passages, merged where they overlap, with the offsets of what is in them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3

import numpy as np
import pytest
from ctxembed import Collection, CollectionError, Document, chunk
from ctxembed._collection.passages import joined_text
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.collection.ranked import best_by_document, passages, ranked_chunks
from tests.collection.samples import DIMENSIONS, GivenVectors, LocalEmbedder, document, vectors_of

QUERY = vectors_of(["query"])[0]
TEXT = (
    "Herons stand in shallow water.\n\nThey wait for fish, and strike when one comes near. Some herons hunt at night.\n"
    "Kingfishers dive from a perch; they hit the water with closed eyes.\n\n\n\nOspreys catch fish with their feet. "
    "A reversible toe helps them to hold it. Pelicans scoop fish with a pouch, and swallow them whole.\n"
)


def word_count(texts):
    return [len(text.split()) for text in texts]


@pytest.fixture
def make(tmp_path):
    """Make a collection of documents whose chunks have the rank of their place in a list of (document, chunk)."""
    opened = []

    def make(documents, order=(), **options):
        rows = {text: vectors_of([text])[0] for one in documents for text in one.chunks}
        for rank, (name, place) in enumerate(order):
            [one] = [one for one in documents if one.id == name]
            near = QUERY.astype(int)
            near[: 5 * rank + 5] *= -1
            rows[one.chunks[place]] = near.astype(np.int8)
        path = tmp_path / f"{len(opened)}.ctx"
        collection = Collection.create(path, dimensions=DIMENSIONS, **options)
        opened.append(collection)
        collection.ingest(documents, GivenVectors(rows))
        ranked = ranked_chunks(documents, rows, QUERY)
        assert [(name, place) for _, name, place in ranked[: len(order)]] == list(order)
        return collection

    yield make
    for collection in opened:
        collection.close()


def lettered(name, count, spans=None):
    """Return a document with the chunks ``a0``, ``a1``, ..."""
    return Document(name, [f"{name}{place}" for place in range(count)], spans=spans)


def shown(hits):
    return [(hit.document, hit.chunk, hit.passage) for hit in hits]


# --- which chunks ---


def test_a_passage_has_the_neighbours_of_its_document_alone(make):
    collection = make([lettered("a", 3), lettered("b", 5), lettered("c", 2)], [("b", 2), ("a", 2), ("c", 0)])
    assert shown(collection.search(QUERY, 3, neighbours=1)) == [
        ("b", 2, "b1\nb2\nb3"), ("a", 2, "a1\na2"), ("c", 0, "c0\nc1"),
    ]  # fmt: skip
    assert shown(collection.search(QUERY, 1, neighbours=2)) == [("b", 2, "b0\nb1\nb2\nb3\nb4")]
    assert shown(collection.search(QUERY, 1, neighbours=np.int64(10**12))) == [("b", 2, "b0\nb1\nb2\nb3\nb4")]
    hit = collection.search(QUERY, 2, neighbours=1)[1]
    assert (hit.passage_chunks, hit.passage_span, hit.passage_offset) == ((1, 3), None, 3)


def test_without_neighbours_the_passage_is_the_chunk(make):
    collection = make([Document("a", ["one", "two"], spans=[(5, 8), (9, 12)]), lettered("b", 1)])
    for hit in collection.search(QUERY, 9):
        assert hit.passage == hit.text
        assert hit.passage_chunks == (hit.chunk, hit.chunk + 1)
        assert hit.passage_span == hit.span
        assert hit.passage_offset == 0


def test_overlapping_hits_are_one_and_others_follow_in_their_place(make):
    order = [("a", 4), ("a", 6), ("b", 0), ("a", 5), ("a", 1), ("a", 9), ("c", 1)]
    collection = make([lettered("a", 12), lettered("b", 3), lettered("c", 2)], order)
    # Of the best three, a4 and a6 share a5. The next: a5 and a1 share a chunk with a3 to a7 (a1: a2), a9 shares none.
    assert shown(collection.search(QUERY, 3, neighbours=1)) == [
        ("a", 4, "a3\na4\na5\na6\na7"), ("b", 0, "b0\nb1"), ("a", 1, "a0\na1\na2"),
    ]  # fmt: skip
    assert shown(collection.search(QUERY, 4, neighbours=2)) == [
        ("a", 4, "\n".join(f"a{place}" for place in range(2, 9))), ("b", 0, "b0\nb1\nb2"), ("c", 1, "c0\nc1"),
        ("a", 11, "a9\na10\na11"),
    ]  # fmt: skip
    [first, *_] = collection.search(QUERY, 3, neighbours=1)
    assert first.passage_chunks == (3, 8)
    assert first.passage[first.passage_offset :].startswith(first.text)
    assert first.score == collection.search(QUERY, 1)[0].score


def test_a_passage_between_two_others_joins_them(make):
    collection = make([lettered("a", 9), lettered("b", 9)], [("a", 2), ("a", 6), ("a", 4), ("b", 4)])
    assert shown(collection.search(QUERY, 2, neighbours=1)) == [("a", 2, "a1\na2\na3"), ("a", 6, "a5\na6\na7")]
    hits = collection.search(QUERY, 3, neighbours=1)
    assert shown(hits[:2]) == [("a", 2, "a1\na2\na3\na4\na5\na6\na7"), ("b", 4, "b3\nb4\nb5")]
    assert len(hits) == 3


def test_a_long_document_in_the_order_of_its_chunks_does_not_become_one_passage(make):
    """All chunks are equal, so they rank by their place, each beside the last."""
    text = [f"chunk {place}" for place in range(600)]
    rows = dict.fromkeys(text, QUERY) | {"other": -QUERY}
    collection = make([])
    collection.ingest([Document("long", text), Document("other", ["other"])], GivenVectors(rows))
    hits = collection.search(QUERY, 3, neighbours=1)
    assert [hit.passage_chunks for hit in hits] == [(0, 4), (4, 7), (7, 10)]
    hits = collection.search(QUERY, 1000, neighbours=1)
    assert [(hit.document, hit.passage_chunks) for hit in hits] == [("long", (0, 600)), ("other", (0, 1))]
    hits = collection.search(QUERY, 250, neighbours=1)
    assert [hit.passage_chunks for hit in hits[:2]] == [(0, 251), (251, 254)]
    assert len({at for hit in hits[:-1] for at in range(*hit.passage_chunks)}) == 600 - (600 - 251) % 3
    assert hits[-1].document == "other"


@pytest.mark.parametrize("deleted", [False, True])
def test_passages_equal_a_brute_force(tmp_path, deleted):
    documents = [
        document(number, chunks=1 + number * 7 % 23, lang="en" if number % 3 else "de") for number in range(30)
    ]
    rows = {text: row for one in documents for text, row in zip(one.chunks, vectors_of(one.chunks), strict=True)}
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, LocalEmbedder())
        if deleted:
            collection.delete(["doc-3", "doc-20"])
            documents = [one for one in documents if one.id not in ("doc-3", "doc-20")]
        counts = {one.id: len(one.chunks) for one in documents}
        ranked = ranked_chunks(documents, rows, QUERY)
        for neighbours in (1, 2, 7):
            for k in (1, 5, 40, 120, 1000):
                hits = collection.search(QUERY, k, neighbours=neighbours)
                found = [(hit.document, hit.chunk, tuple(range(*hit.passage_chunks))) for hit in hits]
                assert found == passages(ranked, k, neighbours, counts)
                assert asyncio.run(collection.asearch(QUERY, k, neighbours=neighbours)) == hits
        german = {one.id for one in documents if one.metadata["lang"] == "de"}
        hits = collection.search(QUERY, 20, neighbours=2, where="lang = 'de'")
        expected = passages([one for one in ranked if one[1] in german], 20, 2, counts)
        assert [(hit.document, hit.chunk, tuple(range(*hit.passage_chunks))) for hit in hits] == expected
        assert collection.search(QUERY, 20, neighbours=2, stage="two-stage", oversample=1000) == collection.search(
            QUERY, 20, neighbours=2
        )
        prefixes = passages(ranked_chunks(documents, rows, QUERY, 64), 20, 2, counts)
        hits = collection.search(QUERY, 20, neighbours=2, dimensions=64)
        assert [(hit.document, hit.chunk, tuple(range(*hit.passage_chunks))) for hit in hits] == prefixes
        hits = collection.search(QUERY, 9, neighbours=2, group_by_document=True)
        assert [(hit.document, hit.chunk) for hit in hits] == best_by_document(ranked, 9)
        for hit in hits:
            assert hit.passage_chunks == (max(0, hit.chunk - 2), min(counts[hit.document], hit.chunk + 3))


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    kinds=st.integers(1, 30),
    neighbours=st.integers(1, 4),
)
def test_any_collection_with_many_ties(tmp_path_factory, counts, seed, kinds, neighbours):
    rng = np.random.default_rng(seed)
    pool = rng.integers(-3, 4, (kinds, DIMENSIONS), dtype=np.int8)
    documents = [Document(str(n), [f"{n}/{place}" for place in range(count)]) for n, count in enumerate(counts)]
    rows = {text: pool[rng.integers(kinds)] for one in documents for text in one.chunks}
    with Collection.create(tmp_path_factory.mktemp("any") / "a.ctx", dimensions=DIMENSIONS) as collection:
        collection.ingest(documents, GivenVectors(rows))
        ranked = ranked_chunks(documents, rows, QUERY)
        sizes = {one.id: len(one.chunks) for one in documents}
        texts = {one.id: one.chunks for one in documents}
        for k in (1, 2, 3, 5, 8, 13, 200):
            hits = collection.search(QUERY, k, neighbours=neighbours)
            found = [(hit.document, hit.chunk, tuple(range(*hit.passage_chunks))) for hit in hits]
            assert found == passages(ranked, k, neighbours, sizes)
            for hit in hits:
                assert hit.passage == "\n".join(texts[hit.document][slice(*hit.passage_chunks)])
                assert hit.passage[hit.passage_offset :][: len(hit.text)] == hit.text


# --- their text ---


@pytest.mark.parametrize("overlap", [0, 4])
def test_chunks_of_a_text_join_to_the_text(make, overlap):
    pytest.importorskip("semantic_text_splitter")
    cut = chunk(TEXT, max_tokens=9, overlap=overlap, token_counter=word_count)
    assert len(cut) > 6
    collection = make([Document("a", cut.texts, spans=cut.spans)])
    for neighbours in (1, 2, 50):
        hits = collection.search(QUERY, 2, neighbours=neighbours)
        for hit in hits:
            start, stop = hit.passage_span
            # Chunks have no whitespace around them; what was between two is not stored.
            assert hit.passage.split() == TEXT[start:stop].split()
            assert (start, stop) == (cut.spans[hit.passage_chunks[0]][0], cut.spans[hit.passage_chunks[1] - 1][1])
            assert hit.passage[hit.passage_offset :][: len(hit.text)] == hit.text
            assert TEXT[slice(*hit.span)] == hit.text


def test_overlaps_stand_once_and_gaps_are_newlines():
    source = "abcdefghijklmnopqrstuvwxyz"

    def join(*spans):
        return joined_text((source[start:stop], start, stop) for start, stop in spans)

    assert join((0, 5), (3, 8), (8, 10)) == ("abcdefghij", [0, 3, 8])
    assert join((2, 5), (6, 8), (10, 12), (20, 21)) == ("cde\ngh\n\nkl\n\nu", [0, 4, 8, 12])
    assert join((0, 9), (3, 5), (7, 12)) == ("abcdefghijkl", [0, 3, 7])  # one chunk within another
    assert join((0, 9), (0, 9)) == ("abcdefghi", [0, 0])
    assert join((10, 12), (0, 3)) == ("kl\nabc", [0, 3])  # not in the order of the text
    assert join((4, 4), (4, 6)) == ("ef", [0, 0])
    assert joined_text([]) == ("", [])


def test_spans_that_do_not_fit_cut_nothing():
    assert joined_text([("abcd", 0, 4), ("XYZW", 2, 6), ("ZWab", 4, 8)]) == ("abcd\nXYZWab", [0, 5, 7])
    assert joined_text([("Title: abc", 0, 3), ("Title: bcd", 1, 4)]) == ("Title: abc\nTitle: bcd", [0, 11])
    assert joined_text([("a", None, None), ("b", 0, 1), ("c", 1, 2)]) == ("a\nbc", [0, 2, 3])


@given(source=st.text("ab ", min_size=1, max_size=40), data=st.data())
def test_joined_texts(source, data):
    places = st.integers(0, len(source))
    spans = data.draw(st.lists(st.tuples(places, places).map(lambda span: tuple(sorted(span))), min_size=1, max_size=8))
    if data.draw(st.booleans()):
        spans.sort()
    text, offsets = joined_text((source[start:stop], start, stop) for start, stop in spans)
    for (start, stop), offset in zip(spans, offsets, strict=True):
        assert text[offset : offset + stop - start] == source[start:stop]
    reached = [max(stop for _, stop in spans[: number + 1]) for number in range(len(spans))]
    if spans == sorted(spans) and all(start <= end for (start, _), end in zip(spans[1:], reached, strict=False)):
        assert text == source[spans[0][0] : reached[-1]]


def test_collections_without_text_have_places_without_passages(make):
    collection = make([lettered("a", 3, [(0, 2), (3, 5), (6, 8)])], [("a", 1)], store_text=False)
    [hit] = collection.search(QUERY, 1, neighbours=1)
    assert (hit.text, hit.passage, hit.passage_offset) == (None, None, None)
    assert (hit.passage_chunks, hit.passage_span) == ((0, 3), (0, 8))


# --- what is refused or damaged ---


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), (True, TypeError), (1.0, TypeError), (None, TypeError)])
def test_neighbours_are_an_int_of_at_least_0(make, wrong, error):
    collection = make([lettered("a", 2)])
    with pytest.raises(error, match="neighbours must be"):
        collection.search(QUERY, neighbours=wrong)
    with pytest.raises(error, match="neighbours must be"):
        asyncio.run(collection.asearch(QUERY, neighbours=wrong))


@pytest.mark.parametrize("change", ["text = 'other'", "chunk = 7", "document = 2"])
def test_a_damaged_neighbour_is_an_error(make, tmp_path, change):
    collection = make([lettered("a", 3), lettered("b", 3)], [("a", 1)])
    collection.close()
    shutil.copytree(tmp_path / "0.ctx", tmp_path / "damaged.ctx")
    connection = sqlite3.connect(tmp_path / "damaged.ctx" / "catalogue.sqlite")
    connection.execute(f"UPDATE chunks SET {change} WHERE row = 2")
    connection.commit()
    connection.close()
    with Collection.open(tmp_path / "damaged.ctx", read_only=True) as damaged:
        assert damaged.search(QUERY, 1)[0].text == "a1"
        with pytest.raises(CollectionError, match="the chunk of row 2 is changed"):
            damaged.search(QUERY, 1, neighbours=1)


def test_hits_are_json(make):
    from dataclasses import asdict

    collection = make([lettered("a", 3, [(0, 2), (2, 4), (4, 6)])], [("a", 1)])
    found = json.loads(json.dumps(asdict(collection.search(QUERY, 1, neighbours=1)[0])))
    assert (found["passage"], found["passage_chunks"], found["passage_span"]) == ("a0a1a2", [0, 3], [0, 6])
