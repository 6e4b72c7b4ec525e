"""Ingestion by the contract: what is sent, what is stored, what is reported."""

from __future__ import annotations

from decimal import Decimal

import anyio
import httpx
import numpy as np
import pytest
from ctxembed import (
    AsyncClient,
    AuthenticationError,
    Client,
    Collection,
    Document,
    Embeddings,
    InternalServerError,
    Limits,
    SpaceError,
)

from tests.collection.samples import DIMENSIONS, LocalEmbedder, contents, document, expected

KEY = "key-for-tests"


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        yield collection


@pytest.fixture
def client(server):
    with Client(api_key=KEY, base_url=server.base_url) as client:
        yield client


@pytest.fixture
def local():
    return LocalEmbedder()


class Requests:
    """What a server has received since this object was made."""

    def __init__(self, server):
        self._url = server.base_url + "/stats"
        self._before = self._read()

    def _read(self):
        return httpx.get(self._url, trust_env=False).json()

    def chunks(self):
        return self._read()["chunks"] - self._before["chunks"]

    def documents(self):
        return self._read()["documents"] - self._before["documents"]


@pytest.fixture
def requests(server):
    return Requests(server)


def figures(report):
    return report.added, report.updated, report.unchanged, report.deleted, report.failed


def faults(server, *plan):
    httpx.post(server.base_url + "/faults", json=list(plan), trust_env=False).raise_for_status()


DOCUMENTS = [document(number) for number in range(10)]


def test_new_changed_and_unchanged_documents(collection, client, requests):
    report = collection.ingest(DOCUMENTS, client)
    assert figures(report) == (10, 0, 0, 0, 0)
    assert report.stopped is None
    assert report.usage.requests == 1
    assert report.usage.total_tokens > 0
    assert requests.chunks() == 23
    report = collection.ingest(DOCUMENTS, client)
    assert figures(report) == (0, 0, 10, 0, 0)
    assert report.usage.requests == 0
    changed = [document(3, version=1), document(4, note="new metadata"), document(20)]
    assert figures(collection.ingest(changed, client)) == (1, 2, 0, 0, 0)
    assert requests.chunks() == 23 + 4 + 1
    assert collection.get("doc-4").metadata == {"number": 4, "note": "new metadata"}
    assert len(collection) == 11
    assert collection.verify() == []


def test_changed_spans_and_sources_are_stored_without_paying(collection, local):
    collection.ingest([Document("a", ["x", "y"])], local)
    new = Document("a", ["x", "y"], None, [(0, 1), (2, 3)], "s")
    assert figures(collection.ingest([new], local)) == (0, 1, 0, 0, 0)
    assert collection.get("a") == new
    assert len(local.sent) == 1
    assert collection.verify() == []


def test_the_number_and_order_of_chunks_is_content(collection, local):
    collection.ingest([("a", ["x", "yz"])], local)
    for chunks in (["xy", "z"], ["yz", "x"], ["x", "yz", "x"], ["x"]):
        assert figures(collection.ingest([("a", chunks)], local)) == (0, 1, 0, 0, 0)
        assert collection.get("a").chunks == chunks


def test_equal_content_is_paid_for_once(collection, client, requests):
    texts = ["one", "two"]
    assert figures(collection.ingest([("a", texts), ("b", texts), ("c", ["three"])], client)) == (3, 0, 0, 0, 0)
    assert requests.chunks() == 3
    assert figures(collection.ingest([("d", texts)], client)) == (1, 0, 0, 0, 0)
    assert requests.chunks() == 3
    assert np.array_equal(collection.vectors(["a"]), collection.vectors(["d"]))
    assert np.array_equal(collection.vectors(["a"]), collection.vectors(["b"]))


@pytest.mark.parametrize("kind", ["client", "local"])
def test_two_documents_with_one_id_are_refused_wherever_they_stand(collection, request, kind):
    client = request.getfixturevalue(kind)
    for documents in (
        [document(1), document(1)],
        [document(1), document(2), document(1, version=1)],
        [("x", []), ("x", ["a"])],
        [("x", ["a"]), ("x", [])],
        [document(number) for number in [*range(2000), 5]],
    ):
        name = documents[-1].id if isinstance(documents[-1], Document) else documents[-1][0]
        with pytest.raises(ValueError, match=f"the id '{name}' came twice in one input"):
            collection.ingest(documents, client)
        assert collection.verify() == []
    collection.ingest([document(1)], client)
    with pytest.raises(ValueError, match="'doc-1' came twice"):
        collection.ingest([document(1), document(2), document(1)], client)


def test_documents_that_cannot_be_fail_alone(collection, client, requests):
    bad = [
        ("no chunks", []),
        ("empty chunk", ["a", ""]),
        ("a text", "chunks"),
        ("no text", ["a", 5]),
        ("bytes", [b"a"]),
        ("surrogate", ["\ud800"]),
        ("separator", ["a<|endoftext|>b"]),
        ("", ["a"]),
        (5, ["a"]),
        (None, ["a"]),
        Document("nan", ["a"], {"x": float("nan")}),
        Document("set", ["a"], {"x": {1}}),
        Document("reserved", ["a"], {"id": 1}),
        Document("reserved too", ["a"], {"source": 1}),
        Document("list", ["a"], [1]),
        Document("spans", ["a"], None, [(0, 1), (1, 2)]),
        Document("span", ["a"], None, [(2, 1)]),
        Document("source", ["a"], None, None, 5),
    ]
    report = collection.ingest([document(1), *bad, document(2)], client)
    assert figures(report) == (2, 0, 0, 0, len(bad))
    assert requests.documents() == 2
    failures = {failed.id: failed for failed in collection.failures()}
    assert set(failures) == {one.id if isinstance(one, Document) else one[0] for one in bad} - {"", 5, None}
    assert all(failed.attempts == 0 for failed in failures.values())
    assert failures["empty chunk"].error == "DocumentError: chunks[1] is empty"
    assert "chunks must be a list of str, got str" in failures["a text"].error
    assert failures["nan"].when.tzinfo is not None
    assert figures(collection.ingest([("no chunks", ["now it has one"])], client)) == (1, 0, 0, 0, 0)
    assert "no chunks" not in {failed.id for failed in collection.failures()}
    assert collection.delete(["empty chunk"]) == 0
    assert "empty chunk" not in {failed.id for failed in collection.failures()}


@pytest.mark.parametrize("value", [5, None, "text", ("id",), {"id": "a"}, {"id": "a", "chunks": ["x"], "more": 1}])
def test_what_is_no_document_ends_the_ingestion(collection, local, value):
    with pytest.raises(TypeError, match="a document"):
        collection.ingest([document(1), value], local)


def test_a_text_is_no_input(collection, local):
    with pytest.raises(TypeError, match="must be an iterable of documents, got one str"):
        collection.ingest("text", local)


# --- failures of the API ---


def test_a_document_that_the_api_refuses_is_listed_and_not_sent_again_until_it_changes(collection, fresh_server):
    server = fresh_server(limits=Limits(tokens_per_document=50))
    too_long = [("long", ["word " * 200]), *DOCUMENTS]
    with Client(api_key=KEY, base_url=server.base_url, max_retries=0) as client:
        assert figures(collection.ingest(too_long, client)) == (10, 0, 0, 0, 1)
        [failed] = collection.failures()
        assert failed.id == "long"
        assert failed.attempts >= 1
        assert collection.stats().failed == 1
        requests = Requests(server)
        assert figures(collection.ingest(too_long, client)) == (0, 0, 10, 0, 1)
        assert requests._read()["requests"] == requests._before["requests"]
        assert figures(collection.ingest(too_long, client, retry_failed=True)) == (0, 0, 10, 0, 1)
        assert requests._read()["requests"] > requests._before["requests"]
        assert figures(collection.ingest([("long", ["short"])], client)) == (1, 0, 0, 0, 0)
    assert collection.failures() == []


def test_a_wrong_key_raises_and_nothing_is_recorded_as_failed(collection, fresh_server):
    server = fresh_server(key="right")
    with Client(api_key="wrong-key", base_url=server.base_url) as client, pytest.raises(AuthenticationError):
        collection.ingest(DOCUMENTS, client)
    assert (len(collection), collection.failures()) == (0, [])
    with Client(api_key="right", base_url=server.base_url) as client:
        assert figures(collection.ingest(DOCUMENTS, client)) == (10, 0, 0, 0, 0)


def test_errors_that_pass_are_retried(collection, client, server):
    faults(server, {"status": 500}, {"status": 503})
    assert figures(collection.ingest(DOCUMENTS, client)) == (10, 0, 0, 0, 0)


@pytest.fixture
def single(fresh_server):
    """A server, and a client that sends it one document at a time without retries."""
    server = fresh_server()
    with Client(
        api_key=KEY, base_url=server.base_url, limits=Limits(documents=1), max_concurrency=1, max_retries=0
    ) as client:
        yield server, client


def test_a_document_that_fails_while_others_succeed_is_given_up_after_max_wait(collection, single):
    server, client = single
    always = {"status": 500, "at": [11, 100_000], "times": "always"}
    faults(server, {"status": 500, "at": 1}, always)  # ten requests, and then the first document alone
    assert figures(collection.ingest(DOCUMENTS, client, max_wait=0.5)) == (9, 0, 0, 0, 1)
    [failed] = collection.failures()
    assert (failed.id, collection.get("doc-0")) == ("doc-0", None)
    assert figures(collection.ingest(DOCUMENTS, client)) == (0, 0, 9, 0, 1)


def test_an_outage_that_lasts_ends_the_job_and_nothing_is_recorded_as_failed(collection, single):
    server, client = single
    faults(server, {"status": 503, "at": [6, 100_000], "times": "always"})
    with pytest.raises(InternalServerError):
        collection.ingest(DOCUMENTS, client, max_wait=0.5)
    assert (len(collection), collection.failures()) == (5, [])
    faults(server)
    assert figures(collection.ingest(DOCUMENTS, client)) == (5, 0, 5, 0, 0)


def test_max_errors(collection, local):
    documents = [("bad", []), document(1), ("worse", []), document(2), ("worst", []), document(3)]
    report = collection.ingest(documents, local, max_errors=1)
    assert report.stopped == "max_errors"
    assert report.failed == 2
    assert collection.get("doc-3") is None
    report = collection.ingest(documents, local, max_errors=3)
    assert report.stopped is None
    assert len(collection) == 3


# --- pruning ---


def test_pruning_deletes_what_the_input_no_longer_has(collection, local):
    collection.ingest([*DOCUMENTS, ("bad", ["good"])], local)
    report = collection.ingest([*DOCUMENTS[:4], ("bad", []), document(30)], local, prune=True)
    assert figures(report) == (1, 0, 4, 6, 1)
    assert [one.id for one in collection.documents()] == [f"doc-{number}" for number in range(4)] + ["bad", "doc-30"]
    assert collection.verify() == []


def test_nothing_is_pruned_for_an_input_that_was_not_read_to_its_end(collection, local):
    collection.ingest(DOCUMENTS, local)

    def broken():
        yield document(0)
        raise RuntimeError("the source is gone")

    assert collection.ingest([], local, prune=True).deleted == 0
    with pytest.raises(RuntimeError, match="the source is gone"):
        collection.ingest(broken(), local, prune=True)
    with pytest.raises(ValueError, match="came twice"):
        collection.ingest([document(0), document(0)], local, prune=True)
    report = collection.ingest([("bad", []), ("worse", []), document(1)], local, prune=True, max_errors=0)
    assert (report.stopped, report.deleted) == ("max_errors", 0)
    report = collection.ingest([document(40)], local, prune=True, max_cost_usd=0)
    assert (report.stopped, report.deleted) == ("max_cost_usd", 0)
    assert len(collection) == 10


def test_documents_of_one_commit_may_differ_in_what_they_have(collection, local):
    """Columns that are NULL in all rows of a commit are written in another way than those that are in some."""
    fields = [{}, {"metadata": {"a": 1}}, {"source": "x"}, {"spans": [(0, 1)]}]
    given = [
        [Document(f"{number}-{place}", [f"{number} {place}"], **own) for place, own in enumerate(documents)]
        for number, documents in enumerate([fields, fields[:1] * 20, fields[1:2] * 9, fields[2:3], fields[3:] * 10])
    ]
    for documents in given:
        assert collection.ingest(documents, local).added == len(documents)
    assert list(collection.documents()) == [document for documents in given for document in documents]
    assert collection.verify() == []


# --- sources ---


def test_what_was_embedded_before_a_source_raised_is_stored(collection, client):
    def broken():
        yield from (document(number) for number in range(3000))
        raise OSError("the disk of the source is gone")

    with pytest.raises(OSError, match="the disk of the source is gone"):
        collection.ingest(broken(), client)
    held = len(collection)
    report = collection.ingest([document(number) for number in range(3000)], client)
    assert (report.added, report.unchanged) == (3000 - held, held)


def test_a_generator_of_any_length_is_read_once_and_not_far_ahead(collection, local):
    read = []

    def documents():
        for number in range(1000):
            read.append(number)
            assert number - 64 <= len(local.sent) + 1
            yield document(number)

    assert collection.ingest(documents(), local).added == 1000
    assert read == list(range(1000))


# --- money ---


def test_max_cost_with_reported_cost(collection, server):
    with Client(api_key=KEY, base_url=server.base_url, limits=Limits(documents=5), max_concurrency=1) as client:
        documents = [document(number) for number in range(100)]
        report = collection.ingest(documents, client, max_cost_usd=Decimal("0.000002"))
        assert report.stopped == "max_cost_usd"
        assert 0 < report.added < 100
        assert report.usage.cost_usd >= Decimal("0.000002")
        assert collection.stats().usage.cost_usd == report.usage.cost_usd
        assert collection.ingest(documents, client, max_cost_usd=1).added == 100 - report.added
        assert collection.ingest(documents, client, max_cost_usd=0).unchanged == 100


def test_max_cost_with_unreported_cost_counts_list_price(tmp_path, local):
    price = Decimal("0.008") / 1_000_000
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS) as collection:
        documents = [(str(number), [f"{number:1000}"]) for number in range(500)]
        progress = []
        report = collection.ingest(documents, local, max_cost_usd=price * 100_000, progress=progress.append)
        assert report.stopped == "max_cost_usd"
        assert report.added == 128, "two batches of 64,000 tokens"
        assert progress[-1].cost_usd == price * 128_000


@pytest.mark.parametrize("value", ["1", True, float("nan"), float("inf"), -1, Decimal("NaN")])
def test_a_cost_that_is_none_is_refused(collection, local, value):
    with pytest.raises((TypeError, ValueError), match="max_cost_usd"):
        collection.ingest(DOCUMENTS, local, max_cost_usd=value)
    assert local.sent == []


@pytest.mark.parametrize(
    "options",
    [{"prune": 1}, {"retry_failed": "yes"}, {"split_long": None}, {"max_errors": -1}, {"max_errors": 1.5},
     {"max_wait": -1}, {"max_wait": "1"}, {"max_wait": float("inf")}],
)  # fmt: skip
def test_options_that_are_not_what_they_should_be(collection, local, options):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        collection.ingest(DOCUMENTS, local, **options)
    assert local.sent == []


# --- clients ---


def test_each_kind_of_client_at_its_method(collection, client, server):
    async def main():
        async with AsyncClient(api_key=KEY, base_url=server.base_url) as other:
            with pytest.raises(TypeError, match=r"ingest\(\) needs a Client, got an AsyncClient: use aingest\(\)"):
                collection.ingest(DOCUMENTS, other)
            with pytest.raises(TypeError, match=r"aingest\(\) needs an AsyncClient, got a Client: use ingest\(\)"):
                await collection.aingest(DOCUMENTS, client)
            assert figures(await collection.aingest(DOCUMENTS, other)) == (10, 0, 0, 0, 0)

            async def documents():
                for number in range(12):
                    yield document(number)

            assert figures(await collection.aingest(documents(), other)) == (2, 0, 10, 0, 0)
            [hit] = await collection.asearch("document 7, version 0, chunk 2", 1, client=other)
            assert hit.document == "doc-7"
            with pytest.raises(TypeError, match=r"asearch\(\) needs an AsyncClient, got a Client: use search\(\)"):
                await collection.asearch("document 7", client=client)
            [hit] = await collection.asearch("document 7, version 0, chunk 2", 1, client=other, neighbours=9)
            assert hit.passage == "\n".join(document(7).chunks)

    anyio.run(main)
    for wrong in (None, 5, object()):
        with pytest.raises(TypeError, match="client must be a Client or have embed"):
            collection.ingest(DOCUMENTS, wrong)


def test_an_embedder_with_stream_is_used_by_its_stream(collection):
    class Streaming(LocalEmbedder):
        def stream(self, documents, **options):
            for position, chunks in enumerate(documents):
                found = self.embed([chunks], **options)
                yield Part(found, position)

    class Part:
        def __init__(self, found, position):
            self._found, self.documents = found, np.array([position])

        def __getattr__(self, name):
            return getattr(self._found, name)

        def __getitem__(self, place):
            return self._found[place]

    client = Streaming()
    assert figures(collection.ingest(DOCUMENTS, client)) == (10, 0, 0, 0, 0)
    assert contents(collection) == expected(DOCUMENTS)


def test_vectors_of_another_space_are_refused(collection, local, client):
    collection.ingest([document(1)], local)
    with pytest.raises(SpaceError, match="holds vectors of the space 'hashed'"):
        collection.ingest([document(2)], client)
    assert contents(collection) == expected([document(1)])
    assert collection.verify() == []


def test_an_embedder_that_returns_other_shapes_stores_nothing(collection):
    class Wrong(LocalEmbedder):
        def embed(self, documents, *, model, dimensions, encoding_format, on_error):
            found = super().embed(
                documents, model=model, dimensions=dimensions, encoding_format=encoding_format, on_error=on_error
            )
            return Embeddings(found.vectors[:, :64], found.offsets, model, 64, encoding_format)

    with pytest.raises(
        ValueError, match=r"document 'doc-0' must be int8 of shape \(1, 128\), got int8 of shape \(1, 64\)"
    ):
        collection.ingest(DOCUMENTS, Wrong())
    assert len(collection) == 0
    assert collection.verify() == []


def test_progress_is_reported_and_its_exception_ends_the_ingestion(collection, client):
    seen = []
    collection.ingest(DOCUMENTS, client, progress=seen.append)
    assert (seen[-1].documents_read, seen[-1].documents_done, seen[-1].added, seen[-1].chunks) == (10, 10, 10, 23)

    def stop(_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        collection.ingest([document(30)], client, progress=stop)
    assert collection.verify() == []
    assert collection.ingest([document(30)], client).failed == 0
