"""``embed_batch``: rows of Arrow, against a server process, with one request each or with many rows in one."""

import anyio
import ctxembed
import numpy as np
import pyarrow as pa
import pytest
from ctxembed._server import ServerProcess

from .conftest import KEY

DOCUMENTS = [
    ["The heron stood in the reeds.", "It caught a fish."],
    ["A tax return is due in May."],
    ["One.", "Two.", "Three.", "Vier: größer."],
]


@pytest.fixture(scope="module")
def server():
    with ServerProcess() as server:
        yield server


@pytest.fixture
def client(server):
    with ctxembed.Client(KEY, base_url=server.base_url) as client:
        yield client


def batch_of(documents, **columns):
    chunks = pa.array(documents, type=pa.list_(pa.string()))
    ids = [f"d{number}" for number in range(len(documents))]
    return pa.record_batch({"id": ids, "chunks": chunks, **columns})


def vectors_of(row):
    return np.array(row, dtype=np.int16).astype(np.int8)


def test_rows_keep_their_order_and_get_the_clients_vectors(client):
    batch = batch_of(DOCUMENTS, year=[1, 2, 3])
    found = ctxembed.embed_batch(batch, client)
    assert found.schema.names == ["id", "chunks", "year", "vectors", "tokens", "cost_usd", "error"]
    assert found.schema.field("vectors").type == pa.list_(pa.list_(pa.int8(), 1024))
    found.validate(full=True)
    assert found.select(["id", "chunks", "year"]).equals(batch)
    expected = client.embed(DOCUMENTS)
    for number in range(3):
        assert np.array_equal(vectors_of(found["vectors"][number].as_py()), expected[number])
    assert found["error"].null_count == 3
    assert sum(found["tokens"].to_pylist()) == expected.usage.total_tokens
    assert sum(found["cost_usd"].to_pylist()) == pytest.approx(float(expected.usage.cost_usd), rel=1e-12)


def test_bits_and_prefixes_and_the_async_client(server):
    async def main():
        async with ctxembed.AsyncClient(KEY, base_url=server.base_url) as client:
            options = {"dimensions": 256, "encoding_format": "base64_binary"}
            found = await ctxembed.aembed_batch(batch_of(DOCUMENTS), client, **options)
            expected = await client.embed(DOCUMENTS, **options)
            with pytest.raises(TypeError, match="use aembed_batch"):
                ctxembed.embed_batch(batch_of(DOCUMENTS), client)
            return found, expected

    found, expected = anyio.run(main)
    assert found.schema.field("vectors").type == pa.list_(pa.list_(pa.uint8(), 32))
    for number in range(3):
        assert np.array_equal(np.array(found["vectors"][number].as_py(), np.uint8), expected[number])


def test_a_bad_row_fails_alone(client):
    documents = [DOCUMENTS[0], None, [], ["x", None], ["", "y"], ["word " * 40_000], DOCUMENTS[1]]
    batch = batch_of(documents)
    ids = pa.array([*"abcdef", None])
    batch = batch.set_column(0, "id", ids)
    found = ctxembed.embed_batch(batch, client)
    found.validate(full=True)
    errors = found["error"].to_pylist()
    assert errors[0] is None
    assert errors[1] == "DocumentError: the chunks are null"
    assert errors[2] == "DocumentError: the document has no chunks"
    assert errors[3] == "DocumentError: chunk 1 is null"
    assert errors[4].startswith("DocumentError: ")
    assert "empty" in errors[4]
    assert errors[5].startswith("DocumentError: ")
    assert errors[6] == "DocumentError: the column 'id' is null"
    assert found["vectors"].is_valid().to_pylist() == [True] + [False] * 6
    assert np.array_equal(vectors_of(found["vectors"][0].as_py()), client.embed(DOCUMENTS[:1]).vectors)
    assert found["tokens"].to_pylist()[1:] == [0] * 6


def test_a_document_that_the_api_refuses_fails_alone(tmp_path):
    """One document a request, of which the second is refused: its error has the request's text."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[[steps]]\nfault = "422"\nat = 2\n')
    options = {"limits": ctxembed.Limits(documents=1), "max_concurrency": 1}
    with (
        ServerProcess("--faults", str(plan)) as server,
        ctxembed.Client(KEY, base_url=server.base_url, **options) as client,
    ):
        found = ctxembed.embed_batch(batch_of(DOCUMENTS), client)
    errors = [error and error.partition(":")[0] for error in found["error"].to_pylist()]
    assert sorted(errors, key=str) == [None, None, "UnprocessableEntityError"]
    assert found["vectors"].null_count == 1
    failed = errors.index("UnprocessableEntityError")
    assert found["vectors"][failed].as_py() is None


def test_an_unreachable_server_is_the_error_of_every_row():
    with ctxembed.Client(KEY, base_url="http://127.0.0.1:9", max_retries=0) as client:
        found = ctxembed.embed_batch(batch_of(DOCUMENTS), client)
    assert all(error.startswith("APIConnectionError: ") for error in found["error"].to_pylist())
    assert found.schema.field("vectors").type == pa.list_(pa.list_(pa.int8(), 1024))


def test_what_a_journal_has_costs_nothing(server):
    class Memory:
        def __init__(self):
            self.rows = {}

        def get(self, keys):
            return {key: self.rows[key] for key in keys if key in self.rows}

        def put(self, rows, usage):
            self.rows.update(rows)

    journal = Memory()
    with ctxembed.Client(KEY, base_url=server.base_url, journal=journal) as client:
        first = ctxembed.embed_batch(batch_of(DOCUMENTS[:2]), client)
        again = ctxembed.embed_batch(batch_of([*DOCUMENTS, DOCUMENTS[2]]), client)
        expected = client.with_options(journal=None).embed(DOCUMENTS[2:]).usage
    assert min(first["tokens"].to_pylist()) > 0
    tokens = again["tokens"].to_pylist()
    assert tokens[:2] == [0, 0]
    assert sum(tokens) == expected.total_tokens  # equal documents are sent once
    assert again["cost_usd"].to_pylist()[:2] == [0.0, 0.0]
    assert again["vectors"][2] == again["vectors"][3]


def test_other_list_types_slices_and_empty_batches(client):
    batch = batch_of([["skipped"], *DOCUMENTS])
    sliced = batch.slice(1)
    expected = ctxembed.embed_batch(batch_of(DOCUMENTS), client)["vectors"]
    assert ctxembed.embed_batch(sliced, client)["vectors"].equals(expected)
    large = pa.record_batch({"text": pa.array(DOCUMENTS, type=pa.large_list(pa.large_string()))})
    assert ctxembed.embed_batch(large, client, id=None, chunks="text")["vectors"].equals(expected)
    empty = ctxembed.embed_batch(batch.slice(0, 0), client)
    assert empty.num_rows == 0
    assert empty.schema == ctxembed.embed_batch(batch, client).schema


def test_an_embedder_in_place_of_a_client():
    class Embedder:
        def embed(self, documents, *, model, dimensions, encoding_format, on_error):
            assert (model, on_error) == ("pplx-embed-context-v1-0.6b", "return")
            counts = [len(document) for document in documents]
            vectors = np.arange(sum(counts), dtype=np.int8)[:, None].repeat(dimensions, axis=1)
            return ctxembed.Embeddings(
                vectors, np.cumsum([0, *counts]), model, dimensions, encoding_format, ctxembed.Usage()
            )

    found = ctxembed.embed_batch(batch_of(DOCUMENTS), Embedder(), dimensions=128)
    assert [row[0][0] for row in found["vectors"].to_pylist()] == [0, 2, 3]
    assert found["tokens"].to_pylist() == [0, 0, 0]


def test_wrong_arguments_are_refused_before_anything_is_sent(client):
    batch = batch_of(DOCUMENTS)
    embed = ctxembed.embed_batch
    with pytest.raises(TypeError, match="must be a pyarrow.RecordBatch, got Table: pass table.combine_chunks"):
        embed(pa.table(batch), client)
    with pytest.raises(ValueError, match="no column 'text': it has 'id', 'chunks'"):
        embed(batch, client, chunks="text")
    with pytest.raises(ValueError, match="already has a column 'error'"):
        embed(batch_of(DOCUMENTS, error=[1, 2, 3]), client)
    with pytest.raises(TypeError, match="column 'id' must hold lists of str, got string"):
        embed(batch, client, chunks="id")
    with pytest.raises(TypeError, match="client must be a Client"):
        embed(batch, object())
    with pytest.raises(ValueError, match="nothing"):
        embed(batch, client, model="nothing")
    with pytest.raises(ValueError, match="dimensions"):
        embed(batch, client, dimensions=5)
    with pytest.raises(TypeError, match="use embed_batch"):
        anyio.run(lambda: ctxembed.aembed_batch(batch, client))
