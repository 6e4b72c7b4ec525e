"""A collection whose neighbours are known, and the comparison of another store's neighbours with them."""

from __future__ import annotations

import ctxembed
import numpy as np
from ctxembed import Collection, Document, Embeddings
from ctxembed._collection import rows as row_files
from ctxembed._results import Usage

DIMENSIONS = 256
PREFIX = 100
"""Dimensions of a prefix. It ends within a byte, so that the order of bits shows."""
QUERIES = 1000
K = 10
ALMOST = 1e-6
"""Cosines that differ by less are ties, for a store that computes in float32."""
NEARLY_ALL = int(0.97 * QUERIES)
"""Queries whose rows are just the same: the others have ties at the tenth place."""


class RowsEmbedder:
    """Embeds each chunk as the row of an array that its text ends with."""

    space = "rows"

    def __init__(self, rows):
        self.rows = rows

    def embed(self, documents, *, model, dimensions, encoding_format, on_error):
        texts = [text for chunks in documents for text in chunks]
        rows = self.rows[[int(text.split()[-1]) for text in texts]]
        if encoding_format == "base64_binary":
            rows = ctxembed.pack_bits(rows)
        offsets = np.cumsum([0, *map(len, documents)]).astype(np.int64)
        return Embeddings(
            rows, offsets, model, dimensions, encoding_format, Usage(1, 1, None, 1), space=self.space
        )  # fmt: skip


def make_rows(count, dimensions=DIMENSIONS, seed=1):
    """Return int8 rows around some centres, of unlike lengths, with zeros and with rows that occur twice."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (40, dimensions))
    rows = centres[rng.integers(0, 40, count)] + rng.normal(0, 8, (count, dimensions))
    rows = np.clip(np.rint(rows * rng.uniform(0.5, 3, (count, 1))), -127, 127).astype(np.int8)
    rows[count // 2 : count // 2 + 20] = rows[:20]
    return rows


def make_collection(path, encoding_format="base64_int8", documents=700, dimensions=DIMENSIONS, **options):
    """Create a collection of several segments and a tail, with deleted and replaced documents."""
    rows = make_rows(4 * documents, dimensions)
    sizes = row_files.SEAL_BYTES, row_files.TAIL_BYTES
    width = dimensions if encoding_format == "base64_int8" else dimensions // 8
    row_files.SEAL_BYTES, row_files.TAIL_BYTES = documents * width // 2, documents * width
    embedder = RowsEmbedder(rows)
    try:
        collection = Collection.create(path, dimensions=dimensions, encoding_format=encoding_format, **options)
        step = documents // 7
        for start in range(0, documents, step):
            given = [
                Document(
                    f"doc-{number}",
                    [f"text of row {4 * number + chunk}" for chunk in range(1 + number % 4)],
                    {"number": number} if number % 3 else None,
                )
                for number in range(start, min(start + step, documents))
            ]
            collection.ingest(given, embedder)
        collection.delete([f"doc-{number}" for number in range(0, documents, 7)])
        replaced = [("doc-5", ["text of row 3"]), ("doc-50", ["text of row 7", "text of row 2"])]
        collection.ingest(replaced, embedder)
    finally:
        row_files.SEAL_BYTES, row_files.TAIL_BYTES = sizes
    stats = collection.stats()
    assert stats.segments >= 2
    assert stats.deleted_chunks > 0
    assert stats.chunks > sum(segment.rows for segment in collection._current().segments) - stats.deleted_chunks
    return collection


def keys_of(collection):
    """Return (document, chunk) of all rows, in order of ingestion, then chunks."""
    return [
        (name, chunk)
        for name, rows in collection._current().query("SELECT id, rows FROM documents ORDER BY number")
        for chunk in range(rows)
    ]


class Corpus:
    """A collection of int8 vectors, queries, and our exact search.

    ``keys`` and ``vectors`` are in the order of an export.
    """

    def __init__(self, path):
        self.collection = make_collection(path)
        self.keys = keys_of(self.collection)
        self.vectors = self.collection.vectors()
        self.bits = ctxembed.pack_bits(self.vectors)
        rng = np.random.default_rng(2)
        near = self.vectors[rng.integers(0, len(self.vectors), QUERIES)] + rng.normal(0, 12, (QUERIES, DIMENSIONS))
        self.queries = np.clip(np.rint(near), -127, 127).astype(np.int8)
        self.query_bits = ctxembed.pack_bits(self.queries)
        self.numbers = {key: number for number, key in enumerate(self.keys)}

    def cosines(self):
        """Return (queries, rows) cosines, and the rows that the collection's exact search finds."""
        products = self.queries.astype(np.float64) @ self.vectors.T.astype(np.float64)
        lengths = [np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (self.queries, self.vectors)]
        found = self.collection.search_batch(self.queries, K)
        names = self.collection.rows(found.ids)
        ours = np.array([self.numbers[name] for name in names]).reshape(found.ids.shape)
        return products / np.outer(*lengths), ours

    def distances(self):
        """Return (queries, rows) negated Hamming distances, and the rows that a BinaryIndex finds."""
        return -self.distances_of(self.bits), self._index().search(self.query_bits, K).ids

    def prefix_distances(self):
        """Return (queries, rows) negated Hamming distances of the first dimensions, and the nearest rows."""
        scores = -self.distances_of(self.bits, PREFIX)
        return scores, best(scores)

    def products(self):
        """Return (queries, rows) products of int8 queries with bits as signs, and the rows that a BinaryIndex finds."""
        return self.products_of(np.where(self.vectors >= 0, 1, -1)), self._index().search(self.queries, K).ids

    def _index(self):
        index = ctxembed.BinaryIndex(DIMENSIONS)
        index.add(self.bits)
        return index

    def distances_of(self, bits, dimensions=DIMENSIONS):
        """Return the Hamming distances of the queries' bits and others, in the first dimensions."""
        queries, rows = (
            np.unpackbits(packed, axis=1, bitorder="little")[:, :dimensions].astype(np.float32)
            for packed in (self.query_bits, bits)
        )
        return queries.sum(axis=1, keepdims=True) + rows.sum(axis=1) - 2 * queries @ rows.T

    def products_of(self, signs):
        """Return the products of the int8 queries with rows of +1 and -1."""
        return self.queries.astype(np.float32) @ np.asarray(signs, np.float32).T


def best(scores):
    """Return the rows with the highest scores, the first of equal ones first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def check_neighbours(found, expected, tolerance=0.0):
    """Compare the rows that another store found with ours: the same ones, except among scores that tie.

    ``expected`` is what a method of :class:`Corpus` returns. Returns in how many queries the rows are just the same.
    """
    scores, ours = expected
    found = np.asarray(found)
    assert found.shape == ours.shape == (QUERIES, K)
    same = 0
    for query in range(QUERIES):
        theirs = set(found[query].tolist())
        assert len(theirs) == K
        limit = np.sort(scores[query])[-K]
        assert scores[query, ours[query]].min() == limit
        assert scores[query, found[query]].min() >= limit - tolerance, query
        assert set(np.flatnonzero(scores[query] > limit + tolerance).tolist()) <= theirs, query
        same += theirs == set(ours[query].tolist())
    return same
