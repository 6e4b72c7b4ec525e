"""The Python of the pages on frameworks runs from top to bottom."""

from __future__ import annotations

import pytest

from tests.test_docs import ROOT, blocks, reader

__all__ = ["reader"]

PAGES = {"langchain": "langchain_core", "llama-index": "llama_index.core", "haystack": "haystack"}


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(name, reader, capsys, monkeypatch):
    pytest.importorskip(PAGES[name], reason=f"the extra {name} is not installed")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / f"{name}.md", "python"):
        exec(compile(block, name, "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) > 2
    if "client" in names:
        names["client"].close()
