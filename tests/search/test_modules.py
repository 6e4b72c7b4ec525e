"""The Rust modules of search depend one way."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "src" / "search"


@pytest.mark.skipif(not ROOM.exists(), reason="src/search is absent")
def test_modules_import_each_other_without_a_circle():
    sources = {path.stem: path.read_text(encoding="utf-8") for path in ROOM.glob("*.rs") if path.stem != "mod"}
    graph = {
        name: set(re.findall(r"\b(?:super|search)::(\w+)", text)) & sources.keys() - {name}
        for name, text in sources.items()
    }
    assert graph["query"] >= {"index", "scan", "top_k"}
    TopologicalSorter(graph).prepare()  # raises CycleError
