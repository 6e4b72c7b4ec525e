"""Embedders of two spaces whose vectors tell which of them made them, for the tests of migrations."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
from ctxembed import Collection, Embeddings, Usage
from ctxembed._collection.view import View

from tests.collection.samples import DIMENSIONS, contents, document

OLD, NEW = "pplx-embed-context-v1-0.6b", "pplx-embed-context-v1-4b"
"""Models. Both can have the same dimensions, so only their spaces tell their vectors apart."""


def rows_of(space, chunks, dimensions=DIMENSIONS, encoding_format="base64_int8"):
    """Return the rows of a space. A query that is a chunk's text has the chunk's vector."""
    digests = [hashlib.shake_128(f"{space}: {chunk}".encode()).digest(dimensions) for chunk in chunks]
    rows = np.maximum(np.frombuffer(b"".join(digests), np.int8).reshape(-1, dimensions), -127)
    return rows if encoding_format == "base64_int8" else np.packbits(rows >= 0, axis=1, bitorder="little")


old_vectors, new_vectors = partial(rows_of, "old"), partial(rows_of, "new")


class OldEmbedder:
    """Embeds for the old model only. ``sent`` has the documents that it was given, in order."""

    space = "old"
    model = OLD

    def __init__(self):
        self.sent = []

    def embed(self, documents, *, model, dimensions, encoding_format, on_error="raise"):
        assert model == self.model
        self.sent += documents
        rows = [rows_of(self.space, chunks, dimensions, encoding_format) for chunks in documents]
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        tokens = sum(len(chunk) for chunks in documents for chunk in chunks)
        return Embeddings(
            np.concatenate(rows), offsets, model, dimensions, encoding_format, Usage(tokens, tokens, None, 1),
            space=self.space,
        )  # fmt: skip

    def embed_queries(self, queries, **options):
        found = self.embed([[query] for query in queries], **options)
        del self.sent[-len(queries) :]
        return found


class NewEmbedder(OldEmbedder):
    """Embeds for the new model only: the same text has another vector."""

    space = "new"
    model = NEW


class BothEmbedder:
    """Embeds queries for whichever model is asked for, as a client of an API does."""

    def __init__(self):
        self._embedders = {OLD: OldEmbedder(), NEW: NewEmbedder()}

    def embed(self, documents, *, model, **options):
        return self._embedders[model].embed(documents, model=model, **options)

    def embed_queries(self, queries, *, model, **options):
        return self._embedders[model].embed_queries(queries, model=model, **options)


def contents_of(documents, vectors=old_vectors):
    """Return what ``contents`` gives for documents with the vectors of one of the two models."""
    return {one.id: (tuple(one.chunks), one.metadata, one.source, vectors(one.chunks).tobytes()) for one in documents}


def check(path, documents, vectors):
    """The collection has these documents with the vectors of one model, and is whole."""
    for read_only in (True, False):
        with Collection.open(path, read_only=read_only) as collection:
            assert contents(collection) == contents_of(documents, vectors)
            assert collection.verify() == []
            is_new = vectors is new_vectors
            assert (collection.model, collection.space) == ((NEW, "new") if is_new else (OLD, "old"))


def spent(path):
    """Return the tokens and requests of a ledger."""
    with Collection.open(path, read_only=True) as collection:
        usage = collection.stats().usage
        return usage.total_tokens, usage.requests


def under_way(collection):
    """Return how many documents a migration has embedded so far; None where none is under way."""
    own = collection._folder.generations
    number = collection._current().generation.number + 1
    folder = type(collection._folder)(own / f"{number:06}")
    if not folder.exists():
        return None
    view = View(folder)
    try:
        return view.documents
    finally:
        view.close()


DOCUMENTS = [document(number) for number in range(40)]
LEFT = [one for one in DOCUMENTS if one.id != "doc-7"]
QUERY = "document 5, version 0, chunk 0"


def migrated(col, client=None, **options):
    """Migrate to the new model with dimensions that both have."""
    return col.migrate(NEW, client or NewEmbedder(), dimensions=DIMENSIONS, **options)


class Stopping(NewEmbedder):
    """Fails, or calls something, before a request."""

    def __init__(self, requests, act):
        super().__init__()
        self._left = requests
        self._act = act

    def embed(self, documents, **options):
        self._left -= 1
        if self._left == 0:
            self._act()
        return super().embed(documents, **options)


def fail():
    raise RuntimeError("the power is gone")
