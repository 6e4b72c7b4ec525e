"""States of a served collection: each is closed when the next one is there, whatever was searched in it."""

from __future__ import annotations

import asyncio
import gc
import weakref

import httpx
import pytest
from ctxembed import Client, Collection
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._collection.view import View
from ctxembed._server import ServerConfig, ServerProcess, create_app

from .served import documents, ingest

SEARCHES = [
    {"k": 10},
    {"k": 2000},
    {"neighbours": 1},
    {"where": "year > 1990"},
    {"where": "nothing = 1"},
    {"hybrid": True},
    {"group_by_document": True},
    {"stage": "two-stage"},
    {"dimensions": 999},
]


@pytest.fixture
def views(monkeypatch):
    """All views that were not deleted yet."""
    alive, init = weakref.WeakSet(), View.__init__

    def noted(self, *args, **options):
        alive.add(self)
        init(self, *args, **options)

    monkeypatch.setattr(View, "__init__", noted)
    return alive


@pytest.fixture
def no_collector():
    """A cycle of references would keep what it holds: a server collects seldom."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.timeout(180)
def test_no_search_keeps_a_state_open(tmp_path, views, no_collector):
    async def serve(path, writer, client):
        config = ServerConfig(collections=(str(path),))
        app = create_app(config, HashedEmbedder(config.models))
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as http:
            for turn in range(1, 4):
                bodies = [{"query": f"heron {turn} {number}", **body} for body in SEARCHES for number in range(3)]
                responses = await asyncio.gather(
                    *(http.post("http://localhost/v1/search", json=body) for body in bodies)
                )
                assert {response.status_code for response in responses} == {200, 422}
                await http.get("http://localhost/v1/documents/birds/birds/1.md?query=heron")
                before = [weakref.ref(view) for view in views]
                await asyncio.to_thread(writer.ingest, documents(5, first=100 * turn), client)
                while any(view() is not None for view in before):
                    await asyncio.sleep(0.05)
                assert len(views) == 2  # one to search, one to filter

    with ServerProcess() as standin:
        path = ingest(tmp_path / "birds.ctx", standin, documents(5))
        gc.collect()
        assert not views
        with Client("k", base_url=standin.base_url) as client, Collection.open(path) as writer:
            asyncio.run(serve(path, writer, client))
