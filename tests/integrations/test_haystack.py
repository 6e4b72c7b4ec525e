"""Haystack: the real package, against the local server."""

from __future__ import annotations

import asyncio

import pytest
from ctxembed import ChunkOrderError, Client

from . import corpus

haystack = pytest.importorskip("haystack", reason="the extra haystack is not installed")

from ctxembed.integrations.haystack import CtxembedDocumentEmbedder, CtxembedTextEmbedder
from haystack import Document, Pipeline
from haystack.components.preprocessors import DocumentSplitter, RecursiveDocumentSplitter
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

PLAIN = "pplx-embed-v1-0.6b"


@pytest.fixture
def options(server, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "the-key")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    return {"model": corpus.MODEL, "base_url": server.base_url}


@pytest.fixture
def embedder(options):
    made = CtxembedDocumentEmbedder(**options)
    yield made
    made.close()


def splits(chunks=None):
    return [
        Document(content=text, meta={"source_id": name, "split_id": chunk, "page_number": 1})
        for name, chunk, text in chunks or corpus.shuffled()
    ]


def check_equal(documents, embedded, expected):
    assert [document.id for document in embedded] == [document.id for document in documents]
    for document in embedded:
        row = document.embedding
        assert type(row) is list
        assert {type(value) for value in row} == {float}
        assert row == expected[document.meta["source_id"], document.meta["split_id"]]


@pytest.mark.parametrize("dimensions", [None, 256])
def test_shuffled_splits_of_50_sources_get_the_vectors_of_the_client(options, server, dimensions):
    documents = splits()
    embedded = CtxembedDocumentEmbedder(**options, dimensions=dimensions).run(documents=documents)
    with Client("any", base_url=server.base_url) as client:
        check_equal(documents, embedded["documents"], corpus.vectors_by_chunk(client, dimensions=dimensions))
    assert all(document.embedding is None for document in documents)
    assert embedded["meta"]["model"] == corpus.MODEL
    assert embedded["meta"]["usage"]["total_tokens"] > len(documents)


def test_async_runs_in_one_event_loop_after_another(options, server):
    documents = splits(corpus.shuffled(1))
    embedder = CtxembedDocumentEmbedder(**options)

    async def embed():
        return await embedder.run_async(documents=documents)

    with Client("any", base_url=server.base_url) as client:
        expected = corpus.vectors_by_chunk(client)
    for _ in range(2):
        check_equal(documents, asyncio.run(embed())["documents"], expected)


@pytest.mark.parametrize("splitter", [
    DocumentSplitter(split_by="word", split_length=20, split_overlap=5),
    RecursiveDocumentSplitter(split_length=60, split_unit="char", split_overlap=10, separators=["\n", " "]),
])  # fmt: skip
def test_what_splitters_of_haystack_make_is_embedded_whole(embedder, server, splitter):
    sources = [Document(content=" ".join(chunks), meta={"file": name}) for name, chunks in corpus.DOCUMENTS.items()]
    if hasattr(splitter, "warm_up"):
        splitter.warm_up()
    made = splitter.run(documents=sources)["documents"]
    assert len(made) > 100
    embedded = embedder.run(documents=made[::-1])["documents"][::-1]
    by_source = {}
    for document in made:
        by_source.setdefault(document.meta["source_id"], []).append(document.content)
    with Client("any", base_url=server.base_url) as client:
        expected = client.embed(by_source.values(), model=corpus.MODEL).vectors.astype(float).tolist()
    assert [document.embedding for document in embedded] == expected


def test_a_pipeline_is_saved_loaded_and_finds(options, server):
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(CtxembedDocumentEmbedder(**options).run(documents=splits())["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", CtxembedTextEmbedder(**options))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    (text,) = corpus.DOCUMENTS["doc-07.txt"]
    found = pipeline.run({"embedder": {"text": text}})["retriever"]["documents"]
    assert (found[0].meta["source_id"], found[0].content) == ("doc-07.txt", text)
    assert found[0].score == pytest.approx(1.0)

    saved = pipeline.dumps()
    assert "the-key" not in saved
    assert "PERPLEXITY_API_KEY" in saved
    assert Pipeline.loads(saved, allowed_modules=["ctxembed.integrations.haystack"]).dumps() == saved


def test_an_async_pipeline_embeds_and_writes(options, server):
    store = InMemoryDocumentStore()
    pipeline = Pipeline()
    pipeline.add_component("embedder", CtxembedDocumentEmbedder(**options))
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder.documents", "writer")
    documents = splits()

    async def run():
        await pipeline.run_async({"embedder": {"documents": documents}})
        await pipeline.close_async()

    asyncio.run(run())
    stored = {document.id: document for document in store.filter_documents()}
    with Client("any", base_url=server.base_url) as client:
        check_equal(documents, [stored[document.id] for document in documents], corpus.vectors_by_chunk(client))
    assert pipeline.get_component("embedder")._async_client is None


def test_queries_get_the_vectors_of_the_client(options, server):
    with Client("any", base_url=server.base_url) as client:
        expected = client.embed_queries(["which bird?"], model=corpus.MODEL).vectors[0].astype(float).tolist()
    embedder = CtxembedTextEmbedder(**options)
    found = embedder.run(text="which bird?")
    assert found["embedding"] == expected
    assert type(found["embedding"][0]) is float
    assert asyncio.run(embedder.run_async(text="which bird?"))["embedding"] == expected
    with pytest.raises(TypeError, match="CtxembedDocumentEmbedder"):
        embedder.run(text=["which bird?"])


@pytest.mark.parametrize("cls", [CtxembedDocumentEmbedder, CtxembedTextEmbedder])
def test_components_are_saved_without_the_key(cls, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    options = {
        "model": "pplx-embed-context-v1-4b", "dimensions": 512, "base_url": "http://127.0.0.1:1",
        "api_key": Secret.from_env_var("MY_KEY"), "client_options": {"max_retries": 7},
    }  # fmt: skip
    if cls is CtxembedDocumentEmbedder:
        options |= {"isolated": True, "meta_fields_to_embed": ["title"], "embedding_separator": " - "}
    saved = cls(**options).to_dict()
    assert saved["type"] == f"ctxembed.integrations.haystack.{cls.__name__}"
    assert "secret-key" not in repr(saved)
    loaded = cls.from_dict(saved)
    assert {name: getattr(loaded, name) for name in options} == options
    loaded.warm_up()
    assert loaded._client.base_url == "http://127.0.0.1:1"
    loaded.close()
    with pytest.raises(ValueError, match="serialize"):
        cls(api_key=Secret.from_token("secret-key")).to_dict()


def test_a_missing_split_is_refused(embedder):
    documents = splits([chunk for chunk in corpus.shuffled() if chunk[:2] != ("doc-13.txt", 3)])
    with pytest.raises(ChunkOrderError, match="split_id") as caught:
        embedder.run(documents=documents)
    assert (caught.value.document, caught.value.place) == ("doc-13.txt", 3)


def test_a_missing_first_split_is_refused(embedder):
    documents = splits([chunk for chunk in corpus.shuffled() if chunk[:2] != ("doc-13.txt", 0)])
    with pytest.raises(ChunkOrderError, match=r"doc-13\.txt.*first chunk is missing"):
        embedder.run(documents=documents)


def test_two_splits_at_one_place_are_refused(embedder):
    documents = splits([*corpus.shuffled(), ("doc-20.txt", 2, "Another text at the same place.")])
    with pytest.raises(ChunkOrderError, match=r"two chunks have meta\['split_id'\] 2") as caught:
        embedder.run(documents=documents)
    assert (caught.value.document, caught.value.place) == ("doc-20.txt", 2)


@pytest.mark.parametrize(("meta", "error", "message"), [
    ({}, ValueError, r"document 0 has no meta\['source_id'\].*isolated=True"),
    ({"split_id": 0}, TypeError, "source_id"),
    ({"source_id": 3, "split_id": 0}, TypeError, "source_id"),
    ({"source_id": "a", "split_id": "0"}, TypeError, "document 0 of 'a'.*split_id"),
    ({"source_id": "a", "split_id": True}, TypeError, "split_id"),
])  # fmt: skip
def test_documents_without_a_place_are_refused(embedder, meta, error, message):
    with pytest.raises(error, match=message):
        embedder.run(documents=[Document(content="one", meta=meta)])


def test_documents_of_one_source_need_their_places(embedder):
    documents = [Document(content=text, meta={"source_id": "a"}) for text in ("one", "two")]
    with pytest.raises(ChunkOrderError, match="order of the document's 2 chunks is not known"):
        embedder.run(documents=documents)
    assert embedder.run(documents=documents[:1])["documents"][0].embedding


@pytest.mark.parametrize("content", ["", None])
def test_a_document_without_text_is_refused(embedder, content):
    documents = [Document(content=content, meta={"source_id": "a", "split_id": 0})]
    with pytest.raises(ValueError, match="document 0 of document 'a' has no text"):
        embedder.run(documents=documents)


def test_what_is_no_list_of_documents_is_refused(embedder):
    for wrong in ("text", ["text"], [1]):
        with pytest.raises(TypeError, match="CtxembedTextEmbedder"):
            embedder.run(documents=wrong)
    assert embedder.run(documents=[])["documents"] == []


def test_isolated_documents_are_embedded_alone(options, server):
    texts = ["one text", "two texts"]
    documents = [Document(content=text, meta={"title": "birds"}) for text in texts]
    found = CtxembedDocumentEmbedder(**options, isolated=True, meta_fields_to_embed=["title", "none"]).run(documents)
    with Client("any", base_url=server.base_url) as client:
        expected = client.embed([[f"birds\n{text}"] for text in texts], model=corpus.MODEL).vectors.astype(float)
    assert [document.embedding for document in found["documents"]] == expected.tolist()


def test_a_model_without_context_needs_no_source(options, server):
    documents = [Document(content=text) for text in ("one", "two")]
    found = CtxembedDocumentEmbedder(**options | {"model": PLAIN}).run(documents)["documents"]
    with Client("any", base_url=server.base_url) as client:
        expected = client.embed_texts(["one", "two"], model=PLAIN).vectors.astype(float).tolist()
    assert [document.embedding for document in found] == expected
    assert CtxembedTextEmbedder(**options | {"model": PLAIN}).run("two")["embedding"] == expected[1]


def test_wrong_options_are_refused_before_anything_is_sent():
    with pytest.raises(ValueError, match="model 'gpt' is not known"):
        CtxembedDocumentEmbedder(model="gpt")
    with pytest.raises(ValueError, match="dimensions"):
        CtxembedTextEmbedder(dimensions=7)


def test_a_key_that_is_not_set_is_named(server):
    embedder = CtxembedTextEmbedder(base_url=server.base_url)
    with pytest.raises(Exception, match="PERPLEXITY_API_KEY"):
        embedder.run(text="which bird?")


def test_a_closed_component_connects_anew(embedder):
    (document,) = embedder.run(documents=splits([("a", 0, "one")]))["documents"]
    embedder.close()
    assert embedder.run(documents=splits([("a", 0, "one")]))["documents"] == [document]
    assert embedder._client is not None
