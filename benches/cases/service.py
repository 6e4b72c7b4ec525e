"""Collections that a server searches, and what its callers measure."""

from __future__ import annotations

import base64
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from ctxembed import Collection, Embeddings, pack_bits
from ctxembed._server import ServerConfig

from benches import serving, vectors
from benches.cases.collections import Corpus, Embedder, Part, folder
from benches.serving import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).parents[2]


class BitsEmbedder(Embedder):
    """Embeds without a server: packed bits."""

    def stream(self, documents: Iterable[list[str]], **options: Any) -> Iterator[Any]:
        """Yield the vectors of some documents at a time."""
        for part in super().stream(documents, **options):
            found = part.embeddings
            size = 8 * found.vectors.shape[1]
            emb = Embeddings(found.vectors, found.offsets, MODEL, size, "base64_binary")
            yield Part(emb, np.arange(part.first, part.first + len(found)))


@dataclass(frozen=True, eq=False)
class Served:
    """A collection of three chunks a document, and queries.

    Parameters
    ----------
    documents : int
        Their number.
    bits : bool
        Whether the vectors are packed bits.
    """

    documents: int
    bits: bool
    dimensions: int = 1024

    QUERIES: ClassVar[int] = 1024

    @property
    def count(self) -> int:
        """Rows."""
        return 3 * self.documents

    @cached_property
    def rows(self) -> np.ndarray:
        drawn = vectors.int8_vectors(3, min(self.count, 250_000), self.dimensions)
        rows = vectors.grown(drawn, self.count)
        return pack_bits(rows) if self.bits else rows

    @cached_property
    def queries(self) -> np.ndarray:
        found = vectors.int8_vectors(4, self.QUERIES, self.dimensions)
        return pack_bits(found) if self.bits else found

    @cached_property
    def path(self) -> Path:
        """The folder of the collection."""
        path = folder() / f"served-{self.documents}-{'bits' if self.bits else 'int8'}.ctx"
        encoding = "base64_binary" if self.bits else "base64_int8"
        with Collection.create(path, model=MODEL, dimensions=self.dimensions, encoding_format=encoding) as made:
            embedder = BitsEmbedder if self.bits else Embedder
            made.ingest(Corpus(self.documents), embedder(self.rows))
        return path

    @cached_property
    def expected(self) -> dict[int, list[tuple[str, int]]]:
        """The best hit of each query, as the collection finds it by itself."""
        with Collection.open(self.path, read_only=True) as opened:
            matches = opened.search_batch(self.queries, 1)
            found = opened.rows(matches.ids.reshape(-1))
        return dict(enumerate([hit] for hit in found))

    def server(self, scan_queries: int) -> str:
        """Return the address of a server that searches it."""
        return serving.server(ServerConfig(collections=(str(self.path),), scan_queries=scan_queries))

    def bodies(self, k: int) -> Path:
        """Write the bodies of searches, one a line, and return the file."""
        path = self.path.with_suffix(f".{k}.bodies")
        if not path.exists():
            lines = [
                json.dumps({"vector": base64.b64encode(query.tobytes()).decode(), "k": k}) for query in self.queries
            ]
            path.write_text("\n".join(lines) + "\n")
        return path

    def pass_seconds(self, queries: int, repeats: int = 7) -> float:
        """Return the median time of a search of the index for some queries, k = 10."""
        with Collection.open(self.path, read_only=True) as opened:
            times = []
            for turn in range(repeats + 2):
                start = turn * queries % self.QUERIES
                chosen = self.queries[start : start + queries]
                began = time.perf_counter()
                opened.search_batch(chosen, 10)
                times.append(time.perf_counter() - began)
        return statistics.median(times[2:])


@dataclass(frozen=True)
class Load:
    """What callers saw in a time: see :mod:`benches.peers.search_load`."""

    count: int
    seconds: float
    latencies: list[float] = field(repr=False)
    failed: int
    batches: list[int] = field(repr=False)
    hits: dict[str, list[tuple[str, int, float]]] = field(repr=False)

    @property
    def rate(self) -> float:
        """Searches a second."""
        return self.count / self.seconds

    @property
    def median(self) -> float:
        """Median seconds of a search."""
        return statistics.median(self.latencies)

    def is_expected(self, data: Served) -> bool:
        """Return whether nothing failed, and every first hit is the one of the collection."""
        return not self.failed and all(
            [(hit[0], hit[1]) for hit in hits[:1]] == data.expected[int(place)] for place, hits in self.hits.items()
        )


def start_load(data: Served, base_url: str, callers: int, seconds: float, k: int = 10) -> subprocess.Popen[bytes]:
    """Let callers search for some time."""
    command = [sys.executable, "-m", "benches.peers.search_load", base_url, str(callers), str(seconds)]
    return subprocess.Popen([*command, str(data.bodies(k))], stdout=subprocess.PIPE, cwd=ROOT)


def end_load(process: subprocess.Popen[bytes]) -> Load:
    """Return what callers saw."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the callers failed with code {process.returncode}")
    return Load(**json.loads(output))


def loaded(data: Served, base_url: str, callers: int, seconds: float, k: int = 10) -> Load:
    """Let callers search for some time, and return what they saw."""
    return end_load(start_load(data, base_url, callers, seconds, k))
