"""Response bodies as the API writes them, built with the standard library alone."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest


def chunk_vectors(shape: list[int], row_bytes: int, seed: int = 0) -> np.ndarray:
    """Return random int8 rows, one for each chunk."""
    return np.random.default_rng(seed).integers(-128, 128, (sum(shape), row_bytes), dtype=np.int8)


def response(shape: list[int], vectors: np.ndarray, **extra: Any) -> dict[str, Any]:
    """Return a parsed response that holds ``vectors``, with documents and chunks in order."""
    rows = iter(vectors)
    data = [
        {
            "object": "list",
            "index": document,
            "data": [
                {"object": "embedding", "index": chunk, "embedding": base64.b64encode(next(rows).tobytes()).decode()}
                for chunk in range(count)
            ],
        }
        for document, count in enumerate(shape)
    ]
    return {"object": "list", "data": data, "model": "pplx-embed-context-v1-0.6b", **extra}


def to_json(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.fixture
def shape() -> list[int]:
    return [3, 1, 2]


@pytest.fixture
def vectors(shape: list[int]) -> np.ndarray:
    return chunk_vectors(shape, 1024)


@pytest.fixture
def parsed(shape: list[int], vectors: np.ndarray) -> dict[str, Any]:
    usage = {
        "prompt_tokens": 10,
        "total_tokens": 12,
        "cost": {"input_cost": 8e-8, "total_cost": 8e-8, "currency": "USD"},
    }
    return response(shape, vectors, usage=usage)
