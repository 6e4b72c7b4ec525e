"""The Python of docs/leaving.md runs from top to bottom, with every store. Its assertions compare the neighbours."""

from __future__ import annotations

import pytest

from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "leaving.md"


@pytest.mark.parametrize("package", ["faiss", "usearch", "sqlite_vec", "lancedb", "psycopg", "qdrant_edge"])
def test_the_page_uses_every_store(package):
    pytest.importorskip(package)
    assert any(f"import {package}" in block for block in blocks(PAGE, "python"))


def test_the_python_of_the_page_runs(server, postgres, tmp_path, monkeypatch, capsys):
    for package in ("faiss", "usearch", "apsw", "sqlite_vec", "lancedb", "psycopg", "qdrant_edge"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERPLEXITY_API_KEY", "any")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", server.base_url)
    monkeypatch.setenv("DATABASE_URL", postgres)
    names: dict[str, object] = {}
    for block in blocks(PAGE, "python"):
        exec(compile(block, PAGE.name, "exec"), names)
    assert "bits since faiss has no index that ranks int8 values by cosine" in capsys.readouterr().out
