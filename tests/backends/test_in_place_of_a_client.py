"""An embedder goes wherever a client goes."""

from __future__ import annotations

import asyncio

import ctxembed
import numpy as np
import pytest
from ctxembed import Collection

DOCUMENTS = {
    "heron": ["The grey heron is a wading bird.", "It stands in shallow water and catches fish."],
    "bank": ["The central bank sets interest rates.", "Higher rates slow inflation."],
    "pasta": ["Cook the noodles in salted water.", "Serve them with tomato sauce."],
}


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_a_collection_is_filled_and_searched_without_a_client(tmp_path, minilm, encoding_format):
    path = tmp_path / "corpus.ctx"
    with Collection.create(path, model=minilm.model, encoding_format=encoding_format) as col:
        report = col.ingest(DOCUMENTS.items(), minilm)
        assert (report.added, report.failed) == (3, 0)
        assert report.usage.total_tokens == minilm.count_tokens(list(DOCUMENTS.values())).sum()
        expected = minilm.embed(DOCUMENTS.values(), encoding_format=encoding_format)
        np.testing.assert_array_equal(col.vectors(), expected.vectors)
        assert col.search("which animal eats fish?", 1, client=minilm)[0].document == "heron"
        assert asyncio.run(col.asearch("monetary policy", 1, client=minilm))[0].document == "bank"
        assert col.ingest(DOCUMENTS.items(), minilm).unchanged == 3
    with Collection.open(path, read_only=True) as col:
        assert col.search("Italian food", 1, client=minilm)[0].document == "pasta"


def test_async_ingestion_takes_an_embedder(tmp_path, minilm):
    with Collection.create(tmp_path / "corpus.ctx", model=minilm.model) as col:
        report = asyncio.run(col.aingest(DOCUMENTS.items(), minilm))
        assert (report.added, len(col)) == (3, 3)


def test_a_document_that_cannot_be_embedded_fails_alone(tmp_path, minilm):
    documents = {**DOCUMENTS, "long": ["short", "word " * 600]}
    with Collection.create(tmp_path / "corpus.ctx", model=minilm.model) as col:
        report = col.ingest(documents.items(), minilm)
        assert (report.added, report.failed) == (3, 1)
        (failed,) = col.failures()
        assert failed.id == "long"
        assert failed.error.startswith("DocumentError: chunk 1: has 600 tokens, more than the 510 that fit")


def test_content_that_is_stored_is_not_computed_again(tmp_path, minilm):
    with Collection.create(tmp_path / "corpus.ctx", model=minilm.model) as col:
        col.ingest(DOCUMENTS.items(), minilm)
        report = col.ingest([("copy", DOCUMENTS["heron"]), ("new", ["Another text."])], minilm)
        assert report.added == 2
        assert report.usage.total_tokens == minilm.count_tokens([["Another text."]]).sum()


def test_vectors_of_two_models_do_not_mix(tmp_path, minilm, tiny):
    with Collection.create(tmp_path / "corpus.ctx", model=minilm.model) as col:
        col.ingest(DOCUMENTS.items(), minilm)
        with pytest.raises(ValueError, match="model 'all-MiniLM-L6-v2' is unknown: the embedder has 'tiny-qwen3'"):
            col.search("bird", client=tiny)


def test_a_stream_yields_the_rows_of_embed(minilm):
    documents = [[f"Sentence {i} of document {i}.", "word " * 60] for i in range(120)]
    documents[70] = ["a", ""]
    parts = list(minilm.stream(iter(documents), on_error="return"))
    assert len(parts) == 3
    assert np.concatenate([part.documents for part in parts]).tolist() == list(range(120))
    whole = minilm.embed(documents, on_error="return")
    np.testing.assert_array_equal(np.concatenate([part.vectors for part in parts]), whole.vectors)
    (failure,) = [failure for part in parts for failure in part.failures]
    assert failure.document == 70
    assert str(failure.error) == str(whole.failures[0].error)


def test_a_closed_stream_ends_before_its_next_pass(minilm):
    stream = minilm.stream([["a"]] * 200)
    next(stream)
    stream.close()
    with pytest.raises(ctxembed.ClosedClientError):
        next(stream)


def test_arguments_are_checked(minilm):
    with pytest.raises(TypeError, match="queries must be an iterable of str, got one str"):
        minilm.embed_queries("heron")
    with pytest.raises(TypeError, match="document 0 is a str"):
        minilm.embed(["heron"])
    with pytest.raises(TypeError, match="document 0 is a str"):
        list(minilm.stream(["heron"]))
    with pytest.raises(ValueError, match="on_error must be"):
        minilm.embed([["a"]], on_error="ignore")
    with pytest.raises(ValueError, match="documents must not be empty"):
        minilm.embed([])
