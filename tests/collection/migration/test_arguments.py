"""What a migration is given, and what it would cost: checked before anything is made."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ctxembed import (
    AsyncClient,
    Client,
    Collection,
    CollectionError,
    Model,
    register_model,
)

from tests.collection.migration.samples import (
    DOCUMENTS,
    LEFT,
    NEW,
    OLD,
    QUERY,
    NewEmbedder,
    OldEmbedder,
    Stopping,
    check,
    fail,
    migrated,
    new_vectors,
    under_way,
)
from tests.collection.samples import DIMENSIONS, hits_of


def test_arguments_are_checked_before_anything_is_made(path, col):
    with pytest.raises(ValueError, match=r"'gpt-9' is not known: expected one of .*0\.6b"):
        col.migrate("gpt-9", NewEmbedder())
    with pytest.raises(ValueError, match="is not contextualized"):
        col.migrate("pplx-embed-v1-4b", NewEmbedder())
    with pytest.raises(ValueError, match=r"of pplx-embed-context-v1-0\.6b with 128 .*: there is nothing to migrate"):
        col.migrate(OLD, OldEmbedder())
    with pytest.raises(ValueError, match="dimensions must be from 128 to 2560"):
        col.migrate(NEW, NewEmbedder(), dimensions=64)
    with pytest.raises(TypeError, match="need a Client, got an AsyncClient"):
        col.migrate(NEW, AsyncClient(api_key="k"))
    with pytest.raises(TypeError, match="client must be a Client or have embed"):
        col.migrate(NEW, None)
    with pytest.raises(TypeError, match="keep_old must be a bool, got 1"):
        migrated(col, keep_old=1)
    with pytest.raises(TypeError, match="queries and judgements are needed together"):
        migrated(col, queries={})
    with pytest.raises(TypeError, match="accept needs queries and judgements"):
        migrated(col, accept=print)
    with pytest.raises(TypeError, match="a dry run needs a Client, .*got NewEmbedder"):
        migrated(col, dry_run=True)
    register_model(Model("of-unknown-price", 128, None))
    with pytest.raises(ValueError, match=r"max_cost_usd needs a price, and that of 'of-unknown-price' is not known"):
        col.migrate("of-unknown-price", NewEmbedder(), max_cost_usd=1)
    assert not (path / "generations").exists()
    col.close()
    with pytest.raises(CollectionError, match="is closed"):
        migrated(col)


def test_without_texts_there_is_nothing_to_embed(tmp_path):
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS, store_text=False) as collection:
        collection.ingest(DOCUMENTS, OldEmbedder())
        with pytest.raises(CollectionError, match="created with store_text=False: it has no texts to embed anew"):
            migrated(collection)
        assert not (tmp_path / "a.ctx" / "generations").exists()


def test_a_strangers_folder_of_that_name_is_left_alone(path, col):
    notes = path / "generations" / "000001" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    migrated(col)
    assert notes.read_text() == "mine"
    notes.unlink()
    (path / "generations" / "000003").mkdir()
    (path / "generations" / "000003" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty, and no collection"):
        col.migrate(OLD, OldEmbedder(), dimensions=DIMENSIONS)
    assert (path / "generations" / "000003" / "mine.txt").read_text() == "mine"


def test_a_dry_run_prices_what_the_run_sends(path, col, server):
    with Client(api_key="k", base_url=server.base_url) as client:
        plan = migrated(col, client, dry_run=True)
        assert (plan.switched, plan.stopped, plan.embedded, plan.unchanged) == (False, "dry run", len(LEFT), 0)
        assert plan.cost_usd == Decimal("0.05") * plan.tokens / 1_000_000
        assert not (path / "generations").exists()
        assert col.migrate(NEW, dimensions=DIMENSIONS, dry_run=True) == plan
        report = migrated(col, client)
        assert report.switched
        assert report.requests == plan.requests
        assert 0 < report.tokens <= plan.tokens
        assert 0 < report.cost_usd <= plan.cost_usd
    assert col.space == f"stand-in:{NEW}"


def test_the_budget_stops_and_the_same_call_goes_on(path, col):
    with pytest.raises(RuntimeError, match="the power is gone"):
        migrated(col, Stopping(3, fail))
    assert under_way(col) == 10
    first = migrated(col, max_cost_usd=0)
    assert (first.switched, first.stopped, first.usage.requests) == (False, "max_cost_usd", 0)
    embedder = NewEmbedder()
    part = migrated(col, embedder, max_cost_usd=Decimal("0.00001"))
    assert (part.switched, part.stopped) == (False, "max_cost_usd")
    assert 0 < part.embedded < len(LEFT) - 10
    plan = col.migrate(NEW, dimensions=DIMENSIONS, dry_run=True)
    assert plan.unchanged == 10 + part.embedded
    assert (col.model, hits_of(col, QUERY, client=OldEmbedder())[0][3]) == (OLD, QUERY)
    last = migrated(col, embedder)
    assert last.switched
    assert last.unchanged == 10 + part.embedded
    assert len(embedder.sent) == len(LEFT) - 10
    col.close()
    check(path, LEFT, new_vectors)
