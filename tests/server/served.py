"""A collection to serve, and a search of it."""

from __future__ import annotations

import numpy as np
from ctxembed import Client, Collection, Document

from .conftest import CONTEXT_MODEL

WORDS = [
    *("heron", "kingfisher", "reed", "river", "bridge", "engine", "market", "price"),
    *("fish", "bird", "boat", "water", "mill", "stone", "wheel", "paper"),
]
DIMS = 256


def texts(number):
    """Return three chunks of a document, of distinct words mostly."""
    rng = np.random.default_rng(number)
    return [" ".join(rng.choice(WORDS, 12)) + f" {number} {chunk}" for chunk in range(3)]


def documents(count=60, first=0):
    for number in range(first, first + count):
        metadata = {"year": 1990 + number % 30, "lang": "en" if number % 2 else "de"}
        spans = [(chunk * 100, chunk * 100 + len(text)) for chunk, text in enumerate(texts(number))]
        yield Document(f"birds/{number}.md", texts(number), metadata, spans, f"folder {number % 4}")


def ingest(path, server, given=None, **options):
    with (
        Client(api_key="k", base_url=server.base_url) as client,
        Collection.create(path, model=CONTEXT_MODEL, dimensions=DIMS, **options) as made,
    ):
        made.ingest(documents() if given is None else given, client)
    return path


def search(http, collection="birds", **body):
    response = http.post("/v1/search", json={"collection": collection, **body})
    assert response.status_code == 200, response.text
    return response.json()
