"""The tools of a collection, without the protocol: what they return, and how much."""

from __future__ import annotations

import json

import pytest
from ctxembed import Collection, Document

from tests.collection.migration.samples import DIMENSIONS, NEW, OLD, BothEmbedder, NewEmbedder, OldEmbedder
from tests.collection.samples import LocalEmbedder

pytest.importorskip("pydantic", reason="needs the extra mcp")

from ctxembed._mcp import tools as tools_module
from ctxembed._mcp.arguments import DocumentArguments, SearchArguments
from ctxembed._mcp.tools import CollectionTools

BOUND = tools_module._MAX_TEXT


@pytest.fixture
def written(tmp_path):
    with Collection.create(tmp_path / "corpus.ctx", dimensions=128) as col:
        yield col


def tools_of(written, *documents):
    if documents:
        written.ingest(documents, LocalEmbedder())
    return CollectionTools(written, LocalEmbedder())


def search(tools, **arguments):
    return tools.search(SearchArguments(**{"question": "a", **arguments}))


def read(tools, **arguments):
    return tools.get_document(DocumentArguments(**arguments))


def test_a_search_returns_what_the_collection_finds(written):
    documents = [Document(f"d{n}", [f"text {n} {m}" for m in range(4)], {"n": n}, source=f"{n}.md") for n in range(9)]
    tools = tools_of(written, *documents)
    text, result = search(tools, k=5, where="n > ?", params=[2], neighbours=1)
    hits = written.search("a", 5, client=LocalEmbedder(), where="n > 2", neighbours=1)
    assert [(each.document, each.chunk, each.score, each.text) for each in result.hits] == [
        (hit.document, hit.chunk, hit.score, hit.passage) for hit in hits
    ]
    assert [(each.first, each.last + 1) for each in result.hits] == [hit.passage_chunks for hit in hits]
    assert [(each.metadata, each.source) for each in result.hits] == [(hit.metadata, hit.source) for hit in hits]
    for each in result.hits:
        assert each.text in text
        assert f"{each.document}, chunk {each.chunk} within chunks {each.first} to {each.last}" in text
    by_document = search(tools, k=50, by_document=True)[1].hits
    assert sorted(each.document for each in by_document) == [one.id for one in documents]


def test_long_texts_are_cut_around_the_chunk_that_was_found(written):
    chunks = [f"<{n}>" + f"{n}" * 9_000 + f"</{n}>" for n in range(10)]
    text, result = search(tools_of(written, Document("long", chunks)), k=2, neighbours=4)
    assert len(text) < BOUND + 1000
    assert sum(len(each.text) for each in result.hits) <= BOUND
    for each in result.hits:
        assert each.is_cut
        assert f"<{each.chunk}>" in each.text
    assert text.count("[cut: get_document returns more]") == len(result.hits)


def test_long_metadata_is_left_out(written):
    tools = tools_of(written, Document("a", ["text"], {"list": ["x" * 100] * 100}))
    assert search(tools)[1].hits[0].metadata is None
    text, result = read(tools, id="a")
    assert result.metadata is None
    assert len(text) < 200


def test_a_document_of_ten_thousand_chunks_is_read_in_parts(written):
    chunks = [f"chunk {n}: " + "word " * (n % 40) for n in range(10_000)]
    tools = tools_of(written, Document("long", chunks, {"year": 2020}, source="long.md"))
    found, first, calls = [], 0, 0
    while first is not None:
        text, result = read(tools, id="long", first=first, limit=200)
        assert len(text) < BOUND + 200 * 10 + 200
        assert result.chunk_count == 10_000
        assert [each.chunk for each in result.chunks] == list(range(first, first + len(result.chunks)))
        assert (f"get_document with first={result.next}" in text) == (result.next is not None)
        found += [each.text for each in result.chunks]
        first, calls = result.next, calls + 1
    assert found == chunks
    assert calls < 100
    assert len(read(tools, id="long")[1].chunks) == 50


def test_a_chunk_over_the_bound_comes_alone_and_cut(written):
    tools = tools_of(written, Document("a", ["short", "x" * (BOUND + 1), "end"]))
    assert read(tools, id="a")[1].next == 1
    _, result = read(tools, id="a", first=1)
    assert [(each.chunk, len(each.text), each.is_cut) for each in result.chunks] == [(1, BOUND, True)]
    assert result.next == 2
    assert read(tools, id="a", first=2)[1].next is None


def test_a_collection_without_text_says_so(tmp_path):
    with Collection.create(tmp_path / "bare.ctx", dimensions=128, store_text=False) as col:
        tools = tools_of(col, Document("a", ["one", "two"]))
        text, result = search(tools, k=1)
        assert "the collection stores no text" in text
        assert result.hits[0].text is None
        text, result = read(tools, id="a")
        assert "a: 0 of its 2 chunks, whose text the collection does not store" in text
        assert (result.chunk_count, result.chunks, result.next) == (2, [], None)


def test_an_empty_collection_finds_nothing(written):
    text, result = search(tools_of(written))
    assert (text, result.hits) == ("Nothing was found.", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "b"}, "there is no document 'b'"),
        ({"id": "a", "first": 2}, "first must be below 2, the number of chunks"),
    ],
)
def test_a_wrong_place_is_an_error(written, arguments, message):
    tools = tools_of(written, Document("a", ["one", "two"]))
    with pytest.raises(ValueError, match=message):
        read(tools, **arguments)


def test_the_description_names_the_fields(written):
    tools = tools_of(written, Document("a", ["one", "two"], {"year": 2020, "lang": "en"}))
    assert tools.describe() == (
        "The collection has 1 documents in 2 chunks. The names that where may use: id, source, lang, year."
    )


def test_later_documents_are_found(written, monkeypatch):
    monkeypatch.setattr(tools_module, "_REFRESH_AFTER", -1.0)
    with Collection.open(written.path, read_only=True) as reader:
        tools = CollectionTools(reader, LocalEmbedder())
        assert search(tools)[1].hits == []
        written.ingest([Document("a", ["one"])], LocalEmbedder())
        assert [each.document for each in search(tools)[1].hits] == ["a"]


def test_questions_are_embedded_by_the_model_that_the_collection_moves_to(tmp_path, monkeypatch):
    monkeypatch.setattr(tools_module, "_REFRESH_AFTER", -1.0)
    documents = [Document(f"d{n}", [f"text {n}"]) for n in range(9)]
    with Collection.create(tmp_path / "corpus.ctx", model=OLD, dimensions=DIMENSIONS) as col:
        col.ingest(documents, OldEmbedder())
        with Collection.open(col.path, read_only=True) as reader:
            tools = CollectionTools(reader, BothEmbedder())
            for move in (
                None,
                lambda: col.migrate(NEW, NewEmbedder(), dimensions=DIMENSIONS, keep_old=True),
                col.rollback,
            ):
                if move is not None:
                    assert move().switched
                best = search(tools, question="text 4")[1].hits[0]
                assert (best.document, round(best.score, 6)) == ("d4", 1.0)
                assert reader.model == col.model


def test_parameters_may_come_as_json_in_a_text():
    assert SearchArguments(question="a", params=json.dumps([1, "b", None])).params == [1, "b", None]
