"""Documents, an embedder without a server, and comparisons, shared by the tests of collections."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from ctxembed import Document, Embeddings
from ctxembed._results import Usage

MODEL = "pplx-embed-context-v1-0.6b"
DIMENSIONS = 128


def vectors_of(chunks, dimensions=DIMENSIONS, encoding_format="base64_int8"):
    """Return the rows that :class:`LocalEmbedder` gives a document. They depend on all of its chunks."""
    whole = hashlib.blake2b("\0".join(chunks).encode()).digest()
    digests = [hashlib.shake_128(whole + chunk.encode()).digest(dimensions) for chunk in chunks]
    rows = np.maximum(np.frombuffer(b"".join(digests), np.int8).reshape(-1, dimensions), -127)
    return rows if encoding_format == "base64_int8" else np.packbits(rows >= 0, axis=1, bitorder="little")


class LocalEmbedder:
    """Embeds without a server. ``sent`` has the documents that it was given, in order."""

    space = "hashed"

    def __init__(self):
        self.sent = []

    def embed(self, documents, *, model, dimensions, encoding_format, on_error):
        self.sent += documents
        rows = [vectors_of(chunks, dimensions, encoding_format) for chunks in documents]
        counts = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        tokens = sum(len(chunk) for chunks in documents for chunk in chunks)
        return Embeddings(
            np.concatenate(rows), counts, model, dimensions, encoding_format, Usage(tokens, tokens, None, 1),
            space=self.space,
        )  # fmt: skip

    def embed_queries(self, queries, *, model, dimensions, encoding_format):
        rows = np.concatenate([vectors_of([query], dimensions, encoding_format) for query in queries])
        offsets = np.arange(len(queries) + 1, dtype=np.int64)
        return Embeddings(rows, offsets, model, dimensions, encoding_format, space=self.space)


class GivenVectors(LocalEmbedder):
    """Embeds each chunk as the int8 row that a mapping has for its text."""

    def __init__(self, rows):
        super().__init__()
        self._rows = rows

    def embed(self, documents, *, model, dimensions, encoding_format, on_error):
        found = super().embed(
            documents, model=model, dimensions=dimensions, encoding_format=encoding_format, on_error=on_error
        )
        rows = np.stack([self._rows[chunk] for chunks in documents for chunk in chunks])
        if encoding_format == "base64_binary":
            rows = np.packbits(rows >= 0, axis=1, bitorder="little")
        return replace(found, vectors=rows)


def document(number, version=0, chunks=None, **metadata):
    """Return a document of one to four chunks, whose text names its number and version."""
    count = 1 + number % 4 if chunks is None else chunks
    return Document(
        f"doc-{number}",
        [f"document {number}, version {version}, chunk {chunk}" for chunk in range(count)],
        {"number": number, **metadata},
        source=f"/documents/{number}.txt",
    )


def contents(collection):
    """Return id -> (chunks, metadata, source, bytes of the vectors) of all documents."""
    documents = list(collection.documents())
    rows = collection.vectors([found.id for found in documents])
    stops = np.cumsum([len(found.chunks) for found in documents]) if documents else []
    return {
        found.id: (tuple(found.chunks), found.metadata, found.source, rows[stop - len(found.chunks) : stop].tobytes())
        for found, stop in zip(documents, stops, strict=True)
    }


def expected(documents):
    """Return what :func:`contents` gives for documents that :class:`LocalEmbedder` embedded."""
    return {
        one.id: (tuple(one.chunks), one.metadata, one.source, vectors_of(one.chunks).tobytes()) for one in documents
    }


def hits_of(collection, query, k=10, **options):
    """Return the hits of a search as tuples that can be compared."""
    return [(hit.document, hit.chunk, hit.score, hit.text) for hit in collection.search(query, k, **options)]


def seal_often(rows=12, width=DIMENSIONS):
    """Make this process seal the tail at so many rows."""
    from ctxembed._collection import rows as row_files

    row_files.SEAL_BYTES = rows * width
    row_files.TAIL_BYTES = rows * width * 3 // 2
