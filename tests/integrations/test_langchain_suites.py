"""LangChain's own suites for vector stores and embeddings, against the local server; and the embeddings' values."""

from __future__ import annotations

import asyncio

import pytest
from ctxembed import AsyncClient, Collection

from . import corpus

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")
suites = pytest.importorskip("langchain_tests.integration_tests", reason="langchain-tests is not installed")

from ctxembed.integrations.langchain import CtxembedEmbeddings, CtxembedVectorStore
from langchain_tests.unit_tests import EmbeddingsUnitTests

PLAIN = "pplx-embed-v1-0.6b"


@pytest.mark.anyio
class TestVectorStore(suites.VectorStoreIntegrationTests):
    """With a plain client: async calls run in threads."""

    @pytest.fixture
    def vectorstore(self, collection, client):
        return CtxembedVectorStore(collection, client)


@pytest.mark.anyio
class TestBinaryVectorStore(suites.VectorStoreIntegrationTests):
    """Over a collection of bits."""

    @pytest.fixture
    def vectorstore(self, tmp_path, client):
        path = tmp_path / "bits.ctx"
        with Collection.create(path, model=corpus.MODEL, encoding_format="base64_binary") as made:
            yield CtxembedVectorStore(made, client)


@pytest.mark.anyio
class TestAsyncVectorStore(suites.VectorStoreIntegrationTests):
    """With an AsyncClient, which has async calls only."""

    @property
    def has_sync(self):
        return False

    @pytest.fixture
    async def vectorstore(self, collection, server, anyio_backend):
        async with AsyncClient("any", base_url=server.base_url) as own:
            yield CtxembedVectorStore(collection, own)


class EmbeddingsOfTheServer:
    @pytest.fixture(autouse=True)
    def _client(self, client):
        self.client = client

    @property
    def embeddings_class(self):
        return CtxembedEmbeddings

    @property
    def embedding_model_params(self):
        return {"client": self.client, "isolated": True}


class TestEmbeddingsUnit(EmbeddingsOfTheServer, EmbeddingsUnitTests):
    pass


@pytest.mark.anyio
class TestEmbeddings(EmbeddingsOfTheServer, suites.EmbeddingsIntegrationTests):
    pass


def test_embeddings_have_the_values_of_the_client(client, server):
    embeddings = CtxembedEmbeddings(client, model=corpus.MODEL, dimensions=256)
    expected = (
        client.embed_queries(["which bird?"], model=corpus.MODEL, dimensions=256).vectors[0].astype(float).tolist()
    )
    assert embeddings.embed_query("which bird?") == expected
    assert asyncio.run(embeddings.aembed_query("which bird?")) == expected

    async def own():
        async with AsyncClient("any", base_url=server.base_url) as client:
            embeddings = CtxembedEmbeddings(client, model=corpus.MODEL, dimensions=256, isolated=True)
            with pytest.raises(TypeError, match="got an AsyncClient"):
                embeddings.embed_query("one")
            return await embeddings.aembed_query("which bird?"), await embeddings.aembed_documents(["one", "two"])

    rows = client.embed([["one"], ["two"]], model=corpus.MODEL, dimensions=256).vectors.astype(float).tolist()
    assert asyncio.run(own()) == (expected, rows)


def test_a_contextualized_model_refuses_texts_unless_isolated(client):
    with pytest.raises(ValueError, match=r"use CtxembedVectorStore, or pass isolated=True"):
        CtxembedEmbeddings(client, model=corpus.MODEL).embed_documents(["one"])
    rows = client.embed([["one"], ["two"]], model=corpus.MODEL).vectors.astype(float).tolist()
    isolated = CtxembedEmbeddings(client, model=corpus.MODEL, isolated=True)
    assert isolated.embed_documents(["one", "two"]) == rows
    assert isolated.embed_documents([]) == []
    plain = client.embed_texts(["one", "two"], model=PLAIN).vectors.astype(float).tolist()
    without_context = CtxembedEmbeddings(client, model=PLAIN)
    assert without_context.embed_documents(["one", "two"]) == plain
    assert without_context.embed_query("two") == plain[1]
