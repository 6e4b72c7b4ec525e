"""Runs the command line as a process, and the documents that its tests share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import httpx
import pytest
from ctxembed import Collection

DOCUMENTS = [
    {"id": "heron", "chunks": ["The heron stood in the reeds.", "It caught a silver fish."], "year": 2020},
    {"id": "rust", "chunks": ["Rust has no garbage collector.", "Memory has an owner.", "Owners drop memory."]},
    {"id": 7, "chunks": ["Bread needs flour, water, salt and time."]},
]
LONG_DOCUMENTS = [{"id": i, "chunks": [f"{i} " + "word " * 31_000]} for i in range(10)]

TOKENIZER = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizer" / "tokenizer.json"
needs_tokenizer = pytest.mark.skipif(not TOKENIZER.exists(), reason="needs ../shared/data/tokenizer")


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **extra}


def command(*args: object, unprivileged: bool = False) -> list[str]:
    """Return the arguments of a process. An unprivileged one cannot read what its user may not read, root or not."""
    prefix: list[str] = []
    if unprivileged and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root reads everything, and setpriv is not installed")
        rights = "-dac_override,-dac_read_search"
        prefix = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    return [*prefix, sys.executable, "-m", "ctxembed", *map(str, args)]


def write_documents(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def set_plan(server, plan):
    httpx.post(server.base_url + "/faults", json=plan, trust_env=False).raise_for_status()


def requests_of(server) -> int:
    """Return how many requests a server has received."""
    stats = httpx.get(server.base_url + "/stats", trust_env=False).json()
    return stats["requests"] + stats["in_flight"]


def paid_of(server) -> int:
    """Return how many requests a server has met with 200."""
    return httpx.get(server.base_url + "/stats", trust_env=False).json()["by_status"].get("200", 0)


def in_flight_of(server) -> int:
    """Return how many requests a server has begun and not ended."""
    return httpx.get(server.base_url + "/stats", trust_env=False).json()["in_flight"]


def ids_of(path) -> list[str]:
    """Return the ids in a collection, which must be whole."""
    with Collection.open(path, read_only=True) as opened:
        assert opened.verify() == []
        return [document.id for document in opened.documents()]


def json_lines(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def names_in(path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())
