"""Local servers in their own processes, and the documents and vectors of the client measurements."""

from __future__ import annotations

import atexit
import json
import urllib.request
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ctxembed._backends.hashed import embed_documents
from ctxembed._server import ServerConfig, ServerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

KEY: Final = "a-key-for-measurements"
MODEL: Final = "pplx-embed-context-v1-0.6b"

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy from the environment
_STACK: Final = ExitStack()
atexit.register(_STACK.close)

_WORDS: Final = ("river", "stone", "harbour", "winter", "lantern", "orchard", "copper", "signal", "meadow", "granite")


@cache
def server(config: ServerConfig) -> str:
    """Start a server that runs until this process exits, and return its address. Equal configurations share one."""
    return _STACK.enter_context(ServerProcess(config=config)).base_url


def call_server(base_url: str, method: str, path: str, body: Any = None) -> Any:
    """Call one of the server's own endpoints."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} if data is not None else {}
    request = urllib.request.Request(base_url + path, data, headers, method=method)
    with _DIRECT.open(request) as response:
        text = response.read()
    return json.loads(text) if text else None


def documents(count: int, chunks: int = 1, words: int = 3) -> list[list[str]]:
    """Return documents of distinct short chunks, the same at each call."""
    return [
        [
            " ".join([_WORDS[(i * 7 + j * 3 + w) % len(_WORDS)] for w in range(words)]) + f" {i} {j}"
            for j in range(chunks)
        ]
        for i in range(count)
    ]


def expected_vectors(given: Sequence[Sequence[str]], dimensions: int) -> np.ndarray:
    """Return the vectors of the server's stand-in model, one row per chunk."""
    return embed_documents(given, model=MODEL, full_dimensions=1024, dimensions=dimensions, binary=False)
