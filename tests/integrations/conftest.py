"""Fixtures that the tests of all frameworks share."""

import pytest
from ctxembed import Client, Collection

from . import corpus


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def client(server):
    with Client("any", base_url=server.base_url) as made:
        yield made


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "store.ctx", model=corpus.MODEL, dimensions=corpus.DIMENSIONS) as made:
        yield made
