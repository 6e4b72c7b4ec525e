"""Evaluations of collections through a server: what is paid, what is kept, and that the figures are those of search."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from ctxembed import Collection, SpaceError

from tests.cli.process import paid_of
from tests.evaluation import oracle
from tests.evaluation.samples import DIMENSIONS, client_of, collection_of, documents, judged

DOCUMENTS = documents()
KS = (1, 5, 10)


@pytest.fixture(scope="module")
def stored(_session_server, tmp_path_factory):
    """An open collection that no test changes."""
    with client_of(_session_server) as client:
        made = collection_of(tmp_path_factory.mktemp("stored") / "corpus.ctx", DOCUMENTS, client)
        with made:
            yield made


class Vectors:
    """Stands for a client: the vectors of an evaluation's queries, for searches of the collection."""

    def __init__(self, client, queries):
        self._found = dict(
            zip(queries.values(), client.embed_queries([*queries.values()], dimensions=DIMENSIONS).vectors, strict=True)
        )

    def embed_queries(self, queries, **options):
        rows = np.stack([self._found[query] for query in queries])
        offsets = np.arange(len(queries) + 1, dtype=np.int64)
        return ctxembed.Embeddings(rows, offsets, None, DIMENSIONS, "base64_int8")


@pytest.mark.parametrize("by_chunk", [False, True])
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("int8", {}),
        ("int8@128", {"dimensions": 128}),
        ("two-stage:2", {"stage": "two-stage", "oversample": 2}),
        ("hybrid", {"hybrid": True}),
    ],
)
def test_figures_are_those_of_the_collection_s_own_search(stored, server, variant, options, by_chunk):
    queries, judgements = judged(DOCUMENTS, by_chunk=by_chunk)
    with client_of(server) as client:
        result = ctxembed.evaluate(
            stored, queries, judgements, client=client, k=KS, variants=[variant], keep=False, resamples=100
        )
        vectors = Vectors(client, queries)
    for k in KS:
        orders = {}
        for name, text in queries.items():
            hits = stored.search(text, k, client=vectors, group_by_document=not by_chunk, **options)
            orders[name] = [(hit.document, hit.chunk) if by_chunk else hit.document for hit in hits]
        expected = oracle.measures(orders, judgements, [k])
        for measure in (f"ndcg@{k}", f"recall@{k}", f"success@{k}"):
            found = dict(zip(result.query_ids, result.values[variant, "context"][measure], strict=True))
            assert found == pytest.approx({name: values[measure] for name, values in expected.items()}, abs=1e-9)
    assert result.table[0]["mrr"] > 0.25  # the queries are words of what is relevant


def test_figures_do_not_depend_on_the_order_of_ingestion(stored, server, tmp_path):
    queries, judgements = judged(DOCUMENTS)
    shuffled = random.Random(1).sample(DOCUMENTS, len(DOCUMENTS))
    names = ["int8", "bits", "bits@128", "asymmetric", "two-stage:4"]
    with client_of(server) as client, collection_of(tmp_path / "other.ctx", shuffled, client) as other:
        other.ingest([(DOCUMENTS[3].id, ["Another text."])], client)
        other.ingest([DOCUMENTS[3]], client)  # leaves rows of what was replaced
        assert other.stats().deleted_chunks
        both = [
            ctxembed.evaluate(each, queries, judgements, client=client, variants=names, keep=False)
            for each in (stored, other)
        ]
    for name in names:
        for measure, values in both[0].values[name, "context"].items():
            assert np.array_equal(values, both[1].values[name, "context"][measure])
    assert [row["intervals"] for row in both[0].table] == [row["intervals"] for row in both[1].table]


def test_the_grid_is_one_paid_pass_and_the_price_is_what_is_spent(stored, fresh_server, tmp_path):
    queries, judgements = judged(DOCUMENTS)
    queries["q1"] = queries["q0"]  # equal texts are paid for once
    server = fresh_server()
    arguments = {"arms": ("context", "isolated"), "keep": tmp_path / "kept"}
    with client_of(server, limits=ctxembed.Limits(documents=50)) as client:
        planned = ctxembed.plan_evaluation(stored, queries, judgements, client=client, **arguments)
        assert paid_of(server) == 0
        assert not (tmp_path / "kept").exists()
        result = ctxembed.evaluate(stored, queries, judgements, client=client, **arguments)
    chunks = {chunk for document in DOCUMENTS for chunk in document.chunks}
    single = sum(len(document.chunks) == 1 for document in DOCUMENTS)  # are in the collection as they are alone
    assert (planned.queries, planned.chunks, planned.kept) == (11, len(chunks), single)
    assert planned.exact_tokens
    assert planned.tokens == planned.tokens_upper == result.usage.total_tokens
    assert planned.cost_usd == result.usage.cost_usd > 0
    assert planned.requests == result.usage.requests == paid_of(server)
    assert len({row["variant"] for row in result.table}) == len(result.table) / 2 >= 8
    # The same again, and another grid, are free.
    with client_of(server) as client:
        again = ctxembed.plan_evaluation(stored, queries, judgements, client=client, **arguments)
        assert (again.kept, again.requests, again.cost_usd) == (11 + len(chunks), 0, 0)
        other = ctxembed.evaluate(stored, queries, judgements, client=client, variants=["int8"], **arguments)
    assert other.usage == ctxembed.Usage()
    assert paid_of(server) == planned.requests
    assert other.table[1]["ndcg@10"] == next(
        row["ndcg@10"] for row in result.table if (row["variant"], row["arm"]) == ("int8", "isolated")
    )


def test_each_chunk_is_embedded_alone_and_context_is_compared_over_the_same_queries(stored, server):
    queries, judgements = judged(DOCUMENTS, by_chunk=True)
    with client_of(server) as client:
        result = ctxembed.evaluate(
            stored, queries, judgements, client=client, variants=["int8"], arms=["isolated", "context"], keep=False
        )
        alone = {
            document.id: client.embed([[chunk] for chunk in document.chunks], dimensions=DIMENSIONS).vectors
            for document in DOCUMENTS
        }
        vectors = dict(
            zip(queries, client.embed_queries([*queries.values()], dimensions=DIMENSIONS).vectors, strict=True)
        )
    together = {document.id: stored.vectors([document.id]) for document in DOCUMENTS}
    expected = {
        arm: ctxembed.evaluate(rows, vectors, judgements, variants=["int8"])
        for arm, rows in (("context", together), ("isolated", alone))
    }
    assert [row["arm"] for row in result.table] == ["context", "isolated"]
    for row in result.table:
        for measure, value in expected[row["arm"]].table[0].items():
            if measure.partition("@")[0] in ("ndcg", "recall", "success", "mrr", "map"):
                assert row[measure] == value
    assert expected["context"].table[0]["map"] != expected["isolated"].table[0]["map"]
    mean, low, high = result.comparisons[0]["difference"]["ndcg@10"]
    assert mean == pytest.approx(result.table[0]["ndcg@10"] - result.table[1]["ndcg@10"])
    assert low < mean < high
    sentence = f"{abs(mean):.3f} \u00b1 {(high - low) / 2:.3f} nDCG@10 here"
    assert sentence in result.sentences[0]
    assert sentence in str(result)
    assert result.table[0]["usd"] == Decimal(str(result.table[0]["usd"])) > 0


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_a_binary_collection_is_evaluated_by_what_it_has(server, tmp_path, encoding_format):
    queries, judgements = judged(DOCUMENTS)
    with client_of(server) as client:
        made = collection_of(tmp_path / "bits.ctx", DOCUMENTS, client, encoding_format=encoding_format)
        with made:
            result = ctxembed.evaluate(
                made, queries, judgements, client=client, variants=["bits", "asymmetric", "bits@128"],
                arms=("context", "isolated"), keep=False,
            )  # fmt: skip
            if made.encoding_format == "base64_binary":
                default = ctxembed.evaluate(made, queries, judgements, client=client, keep=False)
                assert [row["variant"] for row in default.table] == ["asymmetric", "bits", "bits@128", "hybrid"]
                with pytest.raises(ValueError, match="'int8' needs int8 vectors, and these are bits"):
                    ctxembed.evaluate(made, queries, judgements, client=client, variants=["int8"])
    assert [row["bytes"] for row in result.table] == [32, 32, 16] * 2
    assert all(row["success@10"] > 0.5 for row in result.table)


INTERRUPTED = """
import sys, ctxembed
from tests.evaluation.samples import client_of, documents, judged
from types import SimpleNamespace

found = documents()
queries, judgements = judged(found)
with ctxembed.Collection.open(sys.argv[2], read_only=True) as stored:
    options = {"limits": ctxembed.Limits(documents=4), "max_concurrency": 1}
    with client_of(SimpleNamespace(base_url=sys.argv[1]), **options) as client:
        print("begins", flush=True)
        ctxembed.evaluate(stored, queries, judgements, client=client, arms=("context", "isolated"))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_paid_is_kept_when_an_evaluation_is_interrupted(fresh_server, tmp_path, how):
    server = fresh_server(latency=0.05)
    queries, judgements = judged(DOCUMENTS)
    with client_of(server) as client:
        collection_of(tmp_path / "corpus.ctx", DOCUMENTS, client).close()
    before = paid_of(server)
    command = [sys.executable, "-c", INTERRUPTED, server.base_url, str(tmp_path / "corpus.ctx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        process.stdout.readline()
        kept = tmp_path / "corpus.ctx.eval"
        while len([*kept.rglob("*.journal")]) == 0 or paid_of(server) < before + 8:
            assert process.poll() is None, process.stderr.read()
        process.send_signal(how)
        process.wait()
    with Collection.open(tmp_path / "corpus.ctx", read_only=True) as stored, client_of(server) as client:
        arguments = {"client": client, "arms": ("context", "isolated")}
        planned = ctxembed.plan_evaluation(stored, queries, judgements, **arguments)
        assert 12 < planned.kept < planned.queries + planned.chunks
        result = ctxembed.evaluate(stored, queries, judgements, **arguments)
        fresh = ctxembed.evaluate(stored, queries, judgements, **arguments, keep=False)
    assert result.usage.total_tokens == planned.tokens < fresh.usage.total_tokens
    for key, measures in fresh.values.items():
        for measure, values in measures.items():
            assert np.array_equal(result.values[key][measure], values)


def test_vectors_of_another_space_are_refused_and_never_kept(stored, fresh_server, tmp_path, monkeypatch):
    queries, judgements = judged(DOCUMENTS)
    kept = tmp_path / "kept"
    with client_of(fresh_server()) as client:
        monkeypatch.setattr(type(stored), "space", "another")
        generation = stored._current().generation
        monkeypatch.setattr("ctxembed._evaluation.corpus.StoredCorpus.space", "of the API")
        assert generation.space is not None
        with pytest.raises(SpaceError, match="'of the API', and the client embeds in the space 'stand-in:"):
            ctxembed.evaluate(stored, queries, judgements, client=client, keep=kept)
    assert not [*kept.rglob("*.journal")]


def test_the_journal_of_a_client_is_read_and_written(stored, server):
    class Memory(dict):
        def get(self, keys):
            return {key: self[key] for key in keys if key in self}

        def put(self, rows, usage):
            self.update(rows)

    queries, judgements = judged(DOCUMENTS)
    journal = Memory()
    arguments = {"variants": ["bits"], "arms": ["isolated"], "keep": False}
    with client_of(server, journal=journal) as client:
        first = ctxembed.evaluate(stored, queries, judgements, client=client, **arguments)
        again = ctxembed.evaluate(stored, queries, judgements, client=client, **arguments)
    # A document of one chunk is in the collection as it is alone.
    assert len(journal) == sum(len(document.chunks) for document in DOCUMENTS if len(document.chunks) > 1)
    assert (first.usage.requests, again.usage.requests) == (2, 1)  # the queries, which no journal has
    assert first.table[0]["map"] == again.table[0]["map"]


def test_a_client_of_the_environment_is_made_only_where_something_is_embedded(stored, server, monkeypatch):
    queries, judgements = judged(DOCUMENTS)
    vectors = {name: stored.vectors([DOCUMENTS[0].id])[0] for name in queries}
    result = ctxembed.evaluate(stored, vectors, judgements, variants=["int8"])
    assert result.usage == ctxembed.Usage()
    with pytest.raises(ctxembed.MissingKeyError):
        ctxembed.evaluate(stored, queries, judgements, variants=["int8"], keep=False)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "key")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    assert ctxembed.evaluate(stored, queries, judgements, variants=["int8"], keep=False).usage.requests == 1


def test_documents_that_failed_count_as_never_found(server, tmp_path):
    queries, judgements = judged(DOCUMENTS)
    judgements["q0"]["empty"] = 1
    with client_of(server) as client, collection_of(tmp_path / "corpus.ctx", DOCUMENTS, client) as made:
        with pytest.raises(ValueError, match="there is no document 'empty', which query 'q0' judges"):
            ctxembed.evaluate(made, queries, judgements, client=client)
        lenient = ctxembed.evaluate(
            made, queries, judgements, client=client, variants=["int8"], allow_missing=True, k=100
        )
        made.ingest([ctxembed.Document("empty", [])], client)
        result = ctxembed.evaluate(made, queries, judgements, client=client, variants=["int8"], k=100)
    assert result.notes == (
        "1 judged documents could not be embedded (see failures()), and count as never found: 'empty'",
    )
    assert lenient.notes == ("1 judged documents are not there, and count as never found: 'empty'",)
    place = result.query_ids.index("q0")
    relevant = sum(grade > 0 for grade in judgements["q0"].values())
    for found in (result, lenient):
        assert found.values["int8", "context"]["recall@100"][place] == pytest.approx(1 - 1 / relevant)


def test_texts_that_are_not_kept_cannot_be_embedded_alone(server, tmp_path):
    queries, judgements = judged(DOCUMENTS)
    with client_of(server) as client:
        made = collection_of(tmp_path / "corpus.ctx", DOCUMENTS, client, store_text=False)
        with made:
            assert "hybrid" not in {
                row["variant"] for row in ctxembed.evaluate(made, queries, judgements, client=client).table
            }
            before = client.embed_queries(["x"]).usage
            assert before.requests == 1
            for arguments in ({"arms": ("context", "isolated")}, {"variants": ["hybrid"]}):
                with pytest.raises(ctxembed.CollectionError, match="store_text=False"):
                    ctxembed.evaluate(made, queries, judgements, client=client, **arguments)


def test_an_async_client_is_refused(stored):
    queries, judgements = judged(DOCUMENTS)
    with pytest.raises(TypeError, match="needs a Client, got an AsyncClient"):
        ctxembed.evaluate(stored, queries, judgements, client=ctxembed.AsyncClient("key"))
    with pytest.raises(TypeError, match="client must be a Client"):
        ctxembed.evaluate(stored, queries, judgements, client=object())


def test_a_query_that_the_api_would_refuse_is_named_and_nothing_is_sent(stored, fresh_server):
    server = fresh_server()
    queries, judgements = judged(DOCUMENTS)
    queries["q4"] = "a <|endoftext|> b"
    with client_of(server) as client, pytest.raises(ctxembed.InvalidDocumentsError, match="query 'q4': .*separator"):
        ctxembed.evaluate(stored, queries, judgements, client=client, keep=False)
    assert paid_of(server) == 0


def test_the_model_of_a_collection_need_not_be_known_to_search_it_by_vectors(stored, monkeypatch):
    """A model on this machine is known once it was loaded."""
    queries, judgements = judged(DOCUMENTS)
    vectors = {name: stored.vectors([DOCUMENTS[0].id])[0] for name in queries}
    monkeypatch.setattr("ctxembed._models._REGISTRY", {})
    result = ctxembed.evaluate(stored, vectors, judgements, variants=["int8"])
    assert (result.model, result.table[0]["usd"]) == ("pplx-embed-context-v1-0.6b", None)
    assert ctxembed.plan_evaluation(stored, vectors, judgements).cost_usd == 0
