"""A collection that moves to another model."""

from __future__ import annotations

import pytest
from ctxembed import (
    Collection,
)
from ctxembed._collection import rows as row_files
from ctxembed._jobs import run as job_run

from tests.collection.migration.samples import (
    DOCUMENTS,
    OLD,
    OldEmbedder,
)
from tests.collection.samples import DIMENSIONS, document


@pytest.fixture
def small(monkeypatch):
    """Few documents a request, and few rows a segment."""
    monkeypatch.setattr(row_files, "SEAL_BYTES", 24 * DIMENSIONS)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 36 * DIMENSIONS)
    monkeypatch.setattr(job_run, "_DOCUMENTS", 5)


@pytest.fixture
def path(tmp_path, small):
    """A collection with a removed document and a replaced one."""
    with Collection.create(tmp_path / "a.ctx", model=OLD, dimensions=DIMENSIONS) as collection:
        collection.ingest([document(3, version=9), *DOCUMENTS[:3], *DOCUMENTS[4:]], OldEmbedder())
        collection.ingest([DOCUMENTS[3]], OldEmbedder())
        collection.delete(["doc-7"])
    return tmp_path / "a.ctx"


@pytest.fixture
def col(path):
    with Collection.open(path) as collection:
        yield collection
