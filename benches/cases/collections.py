"""Documents, embedders and collections of the measurements of :class:`ctxembed.Collection`."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import ctxembed
import numpy as np
from ctxembed import Client, Collection, Embeddings

from benches import canned, vectors
from benches.harness import Cache
from benches.serving import KEY, MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREPARED: Final = 2048
"""Documents of which the server has prepared responses: longer jobs repeat their vectors."""

K: Final = 10
TOLERANCE: Final = 1e-6
"""Cosines closer than this may swap ranks: they are compared as float32."""

QUERY: Final = "what was in the ledger of the harbour master?"

YEARS: Final = 20
"""Years of the documents: each has a twentieth of them."""

PAGES: Final = 1000

_WORDS: Final = (
    "the harbour master counts ships that come in with tide and writes their names into a long ledger one for each "
    "cargo port of origin hour winter lantern orchard copper signal meadow granite river stone window letter between "
    "under across morning every other small heavy crate rope engine bridge northern evening market road village salt"
)
_PASSAGES: Final = 4096


@cache
def _passages() -> list[str]:
    """Return distinct passages of some 40 words."""
    rng, words = random.Random(15), _WORDS.split()
    return [" ".join(rng.choices(words, k=rng.randint(30, 50))) + "." for _ in range(_PASSAGES)]


@dataclass(frozen=True)
class Corpus:
    """Documents of some 40 words a chunk, the same at each call, and their vectors.

    The vectors are those of ``benches.canned``, or with ``distinct``, which needs no server, all different.
    """

    documents: int
    chunks: int = 3
    dimensions: int = 1024
    metadata: bool = False

    def __iter__(self) -> Iterator[ctxembed.Document]:
        passages, chunks = _passages(), self.chunks
        for i in range(self.documents):
            texts = [f"document {i}: {j}. {passages[(i * chunks + j) * 2741 % _PASSAGES]}" for j in range(chunks)]
            yield ctxembed.Document(f"document-{i:07}", texts, self.metadata_of(i) if self.metadata else None)

    @staticmethod
    def metadata_of(number: int) -> dict[str, Any]:
        """Return the metadata of a document."""
        scattered = number * 2_654_435_761 % (1 << 32)
        return {"year": 2000 + scattered % YEARS, "page": number % PAGES}

    @property
    def server(self) -> str:
        """The address of a server that has the responses."""
        return canned.server(min(PREPARED, self.documents), self.chunks, self.dimensions)

    def is_expected(self, found: np.ndarray, first: int) -> bool:
        """Return whether rows from ``first`` on are those of the server, in order of the documents."""
        prepared = canned.expected(min(PREPARED, self.documents), self.chunks, self.dimensions)
        return np.array_equal(found, prepared[np.arange(first, first + len(found)) % len(prepared)])


class Embedder:
    """Embeds without a server: the documents of a stream get the given rows in turn."""

    AT_ONCE: Final = 512

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def embed(self, documents: list[list[str]], **_options: Any) -> Embeddings:
        """Embed documents with the first rows."""
        return next(self.stream(documents))

    def stream(self, documents: Iterable[list[str]], **_options: Any) -> Iterator[Any]:
        """Yield the vectors of some documents at a time."""
        source, first, row = iter(documents), 0, 0
        while batch := list(islice(source, self.AT_ONCE)):
            offsets = np.cumsum([0, *map(len, batch)])
            rows = self.rows[row : row + offsets[-1]]
            part = Embeddings(rows, offsets, MODEL, rows.shape[1], "base64_int8")
            yield Part(part, np.arange(first, first + len(batch)))
            first, row = first + len(batch), row + len(rows)


class Part:
    """A part of a stream."""

    def __init__(self, embeddings: Embeddings, documents: np.ndarray) -> None:
        self.embeddings, self.documents = embeddings, documents
        self.first = int(documents[0])

    def __getitem__(self, place: int) -> np.ndarray:
        return self.embeddings[place]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.embeddings, name)


@cache
def folder() -> Path:
    """Return a folder that is deleted when this process exits."""
    path = Path(tempfile.mkdtemp(prefix="ctxembed-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def ingested(corpus: Corpus) -> Path:
    """Ingest the documents from the server, and return the folder of the collection."""
    path = folder() / f"ingested-{corpus.documents}x{corpus.chunks}x{corpus.dimensions}.ctx"
    with (
        Collection.create(path, model=MODEL, dimensions=corpus.dimensions) as made,
        Client(api_key=KEY, base_url=corpus.server) as client,
    ):
        made.ingest(corpus, client)
    return path


@cache
def json_lines(corpus: Corpus) -> Path:
    """Write the documents as JSON Lines, and return the file."""
    path = folder() / f"{corpus.documents}x{corpus.chunks}.jsonl"
    with path.open("w") as file:
        for document in corpus:
            file.write(json.dumps({"id": document.id, "chunks": document.chunks}) + "\n")
    return path


# --- search ---


@dataclass(frozen=True, eq=False)
class Searched:
    """A collection to search, its vectors, and queries."""

    corpus: Corpus
    cache: Cache = field(default_factory=Cache)

    QUERIES: ClassVar[int] = 32

    @property
    def count(self) -> int:
        """Rows."""
        return self.corpus.documents * self.corpus.chunks

    @cached_property
    def rows(self) -> np.ndarray:
        return vectors.grown(vectors.int8_vectors(3, min(self.count, 250_000), self.corpus.dimensions), self.count)

    @cached_property
    def queries(self) -> np.ndarray:
        return vectors.int8_vectors(4, self.QUERIES, self.corpus.dimensions)

    @cached_property
    def path(self) -> Path:
        """The folder of the collection. The year has a column, as after the first filter by it."""
        corpus = self.corpus
        path = folder() / f"{corpus.documents}x{corpus.chunks}x{corpus.dimensions}.ctx"
        with Collection.create(path, model=MODEL, dimensions=corpus.dimensions) as made:
            made.ingest(corpus, Embedder(self.rows))
            made.search(self.queries[0], 1, where="year = 0")
        return path

    @cached_property
    def index(self) -> ctxembed.Index:
        """An index of the same rows."""
        index = ctxembed.Index(self.corpus.dimensions)
        index.add(self.rows)
        return index

    @cached_property
    def opened(self) -> Collection:
        """The collection, open for reading."""
        opened = Collection.open(self.path, read_only=True)
        atexit.register(opened.close)
        return opened

    def close(self) -> None:
        """Close the collection, if it is open."""
        if "opened" in self.__dict__:
            self.__dict__.pop("opened").close()

    @cached_property
    def metadata(self) -> dict[str, np.ndarray]:
        """The metadata of each row."""
        records = [self.corpus.metadata_of(i) for i in range(self.corpus.documents)]
        return {name: np.repeat([record[name] for record in records], self.corpus.chunks) for name in ("year", "page")}

    @cached_property
    def scores(self) -> np.ndarray:
        """The cosines of all rows with each query, (queries, rows). The products are exact in float32."""
        found = np.empty((len(self.queries), self.count), np.float32)
        queries = self.queries.astype(np.float32)
        norms = np.sqrt(np.square(queries).sum(axis=1, dtype=np.float64))
        for first in range(0, self.count, 8192):
            part = self.rows[first : first + 8192].astype(np.float32)
            lengths = np.sqrt(np.square(part).sum(axis=1, dtype=np.float64))
            found[:, first : first + len(part)] = (queries @ part.T) / (norms[:, None] * lengths)
        return found

    def row(self, document: str, chunk: int) -> int:
        """Return the row of a chunk."""
        return int(document.rpartition("-")[2]) * self.corpus.chunks + chunk

    def is_best(self, query: int, ids: np.ndarray, scores: np.ndarray | None, mask: np.ndarray | None = None) -> bool:
        """Return whether rows are the best for a query, among those of the mask, best first, with their scores."""
        exact = self.scores[query]
        allowed = exact if mask is None else exact[mask]
        k = min(K, len(allowed))
        best = -np.sort(-np.partition(allowed, len(allowed) - k)[len(allowed) - k :])
        ids = np.asarray(ids)
        if ids.shape != (k,) or len(set(ids.tolist())) != k or not (mask is None or mask[ids].all()):
            return False
        return bool(
            (np.abs(exact[ids] - best) <= TOLERANCE).all()
            and (scores is None or (np.abs(scores - best) <= TOLERANCE).all())
        )
