"""Files of every kind that a job reads."""

from __future__ import annotations

import pytest
from ctxembed._jobs.reading import InputDocument, ReadOptions, Rejected, open_inputs


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file in the working folder and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(name, content="Some text."):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return write


def read(*sources, stdin=None, **options):
    """Return the items of inputs."""
    return [*open_inputs(sources, ReadOptions(**options), stdin)]


def documents(*sources, **options):
    """Return the documents of inputs in which nothing is rejected."""
    items = read(*sources, **options)
    assert all(isinstance(item, InputDocument) for item in items), items
    return items


def rejected(*sources, **options):
    """Return the one rejected item of inputs."""
    found = [item for item in read(*sources, **options) if isinstance(item, Rejected)]
    assert len(found) == 1, found
    return found[0]
