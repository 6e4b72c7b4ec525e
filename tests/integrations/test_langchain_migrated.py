"""LangChain: the store of a collection that moves to another model goes along."""

from __future__ import annotations

import pytest
from ctxembed import AsyncClient, Collection, SpaceError

from . import corpus

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from ctxembed.integrations.langchain import CtxembedVectorStore
from langchain_core.documents import Document

NEW = "pplx-embed-context-v1-4b"
TEXTS = [text for chunks in corpus.DOCUMENTS.values() for text in chunks]
QUERY = TEXTS[7]


@pytest.fixture
def store(collection, client):
    made = CtxembedVectorStore(collection, client)
    made.add_documents(
        [
            Document(page_content=text, metadata={"source": name, "start_index": start})
            for name, chunks in corpus.DOCUMENTS.items()
            for start, text in zip(corpus.starts_of(chunks), chunks, strict=True)
        ]
    )
    return made


def texts_of(found):
    return [one.page_content for one in found]


def searches(store):
    """Return what each search of a text finds."""
    return {
        "similarity": texts_of(store.similarity_search(QUERY, 5)),
        "mmr": texts_of(store.max_marginal_relevance_search(QUERY, 5, fetch_k=20, lambda_mult=0.3)),
        "retriever": texts_of(store.as_retriever(search_type="mmr", search_kwargs={"k": 3}).invoke(QUERY)),
    }


@pytest.mark.parametrize("dimensions", [corpus.DIMENSIONS, 256])
def test_texts_are_embedded_by_the_model_of_the_vectors_that_are_searched(store, collection, client, dimensions):
    before = searches(store)
    assert store.embeddings.model == corpus.MODEL
    assert collection.migrate(NEW, client, dimensions=dimensions, keep_old=True).switched
    after = searches(store)
    # A store that is made now, of the collection opened anew, knows nothing of the model before.
    path = collection.path
    with Collection.open(path, read_only=True) as opened:
        assert searches(CtxembedVectorStore(opened, client)) == after
    assert after != before
    assert (store.embeddings.model, store.embeddings.dimensions) == (NEW, dimensions)
    assert len(store.embeddings.embed_query(QUERY)) == dimensions
    assert collection.rollback().switched
    assert searches(store) == before
    assert store.embeddings.model == corpus.MODEL


def test_a_vector_of_the_model_before_is_refused(store, collection, client):
    old = store.embeddings.embed_query(QUERY)
    assert collection.migrate(NEW, client, dimensions=corpus.DIMENSIONS).switched
    new = store.embeddings.embed_query(QUERY)
    for search in (store.similarity_search_by_vector, store.max_marginal_relevance_search_by_vector):
        for vector in (old, new):
            with pytest.raises(SpaceError, match="the array may be a vector of the model before"):
                search(vector, 3)
        assert search(new, 3, space=collection.space)
        with pytest.raises(SpaceError, match="they cannot be compared"):
            search(old, 3, space=f"stand-in:{corpus.MODEL}")
    assert texts_of(store.similarity_search_by_vector(new, 5, space=collection.space)) == searches(store)["similarity"]


def test_documents_that_are_added_later_are_embedded_by_the_new_model(store, collection, client):
    assert collection.migrate(NEW, client, dimensions=corpus.DIMENSIONS).switched
    chunks = ["It came at dawn.", "It left at dusk."]
    starts = corpus.starts_of(chunks)
    store.add_documents(
        [
            Document(page_content=text, metadata={"source": "later", "start_index": start})
            for start, text in zip(starts, chunks, strict=True)
        ]
    )
    expected = client.embed([chunks], model=NEW, dimensions=corpus.DIMENSIONS).vectors
    assert (collection.vectors(["later"]) == expected).all()
    assert collection.verify() == []


@pytest.mark.anyio
async def test_an_async_client_goes_along(store, collection, client, server):
    assert collection.migrate(NEW, client, dimensions=corpus.DIMENSIONS).switched
    async with AsyncClient("any", base_url=server.base_url) as asynchronous:
        other = CtxembedVectorStore(collection, asynchronous)
        expected = searches(store)
        assert texts_of(await other.asimilarity_search(QUERY, 5)) == expected["similarity"]
        found = await other.amax_marginal_relevance_search(QUERY, 5, fetch_k=20, lambda_mult=0.3)
        assert texts_of(found) == expected["mmr"]
        assert (
            texts_of(await store.amax_marginal_relevance_search(QUERY, 5, fetch_k=20, lambda_mult=0.3))
            == expected["mmr"]
        )
