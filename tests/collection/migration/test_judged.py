"""Judged queries compare the old and the new vectors before a switch."""

from __future__ import annotations

import ctxembed
import pytest
from ctxembed import Client, Collection

from tests.collection.migration.samples import NEW, OLD
from tests.collection.samples import DIMENSIONS, document

DOCUMENTS = [document(number, chunks=3) for number in range(30)]
QUERIES = {f"q{number}": f"which is document {number} of version 0?" for number in range(0, 30, 2)}
JUDGEMENTS = {f"q{number}": {f"doc-{number}": 2, f"doc-{number + 1}": 1} for number in range(0, 30, 2)}


@pytest.fixture
def client(server):
    with Client(api_key="k", base_url=server.base_url) as client:
        yield client


@pytest.fixture
def path(tmp_path, client):
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS) as collection:
        collection.ingest(DOCUMENTS, client)
    return tmp_path / "a.ctx"


def evaluated(collection, client, variant="int8"):
    return ctxembed.evaluate(collection, QUERIES, JUDGEMENTS, client=client, variants=[variant], keep=False).table[0]


def figures(row):
    return {name: value for name, value in row.items() if "@" in name or name in ("mrr", "map", "intervals")}


@pytest.mark.parametrize(("encoding_format", "variant"), [("base64_int8", "int8"), ("base64_binary", "asymmetric")])
def test_both_generations_are_evaluated_as_they_are_searched(path, client, encoding_format, variant):
    options = {"dimensions": 256, "encoding_format": encoding_format}
    with Collection.create(path.with_name("new.ctx"), model=NEW, **options) as other:
        other.ingest(DOCUMENTS, client)
        new = evaluated(other, client, variant)
    seen = []
    with Collection.open(path) as collection:
        old = evaluated(collection, client)
        report = collection.migrate(
            NEW,
            client,
            **options,
            queries=QUERIES,
            judgements=JUDGEMENTS,
            accept=lambda *both: seen.append(both) or True,
        )
        assert report.switched
        assert seen == [report.comparison]
        assert [found.model for found in report.comparison] == [OLD, NEW]
        assert [figures(found.table[0]) for found in report.comparison] == [figures(old), figures(new)]
        assert figures(evaluated(collection, client, variant)) == figures(new)


def test_vectors_that_are_not_accepted_stay_for_a_later_call(path, client, server):
    with Collection.open(path) as collection:
        report = collection.migrate(
            NEW, client, dimensions=DIMENSIONS, queries=QUERIES, judgements=JUDGEMENTS, accept=lambda old, new: False
        )
        assert (report.switched, report.stopped, report.embedded) == (False, "not accepted", 30)
        assert len(report.comparison) == 2
        assert collection.model == OLD
        assert collection.search("document", 1, client=client)
        later = collection.migrate(NEW, client, dimensions=DIMENSIONS)
        assert (later.switched, later.requests, later.comparison) == (True, 0, None)
        assert collection.verify() == []


def test_judgements_are_checked_before_anything_is_embedded(path, client):
    with Collection.open(path) as collection:
        with pytest.raises(ValueError, match="nobody"):
            collection.migrate(NEW, client, queries=QUERIES, judgements={**JUDGEMENTS, "q0": {"nobody": 1}})
        vector = client.embed_queries(["one"]).vectors[0]
        with pytest.raises(TypeError, match=r"the query 'q1' must be a text, got ndarray: a vector is of one model"):
            collection.migrate(NEW, client, queries={"q1": vector}, judgements={"q1": {"doc-1": 1}})
        assert not (path / "generations").exists()
        assert [one.state for one in collection.generations()] == ["searched"]


def test_the_old_vectors_may_have_a_client_of_their_own(path, client):
    class OnlyNew:
        def embed(self, documents, **options):
            assert options["model"] == NEW
            return client.embed(documents, **options)

        def embed_queries(self, queries, *, model, **options):
            assert model == NEW
            return client.embed_queries(queries, model=model, **options)

    with Collection.open(path) as collection:
        report = collection.migrate(
            NEW, OnlyNew(), dimensions=DIMENSIONS, queries=QUERIES, judgements=JUDGEMENTS, old_client=client
        )
        assert report.switched
        assert report.comparison[0].model == OLD
