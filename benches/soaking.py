"""A long job against a server that fails a fifth of all requests: its vectors, memory and open files.

``python -m benches.soaking`` runs one job, so that it does not share a process: it reads a :class:`Soak` from stdin
and writes a :class:`SoakResult` to stdout, both as JSON.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ctxembed
import numpy as np

from benches import serving
from benches.peers import clients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT: Final = Path(__file__).parent.parent

FAULTS: Final = (
    "429",
    "503",
    "reset",
    "hang-up",
    "truncated",
    "missing-chunk",
    "corrupt-chunk",
    "html",
    "truncated-gzip",
    "gzip-bomb",
)
"""The ways in which a request can fail."""

SHARE: Final = 0.2
GROWTH: Final = 64 * 1024 * 1024
"""The most bytes that a job may use beyond its documents and its result."""


@dataclass(frozen=True)
class Soak:
    """The documents to embed, and the client to embed them with."""

    base_url: str
    client: str
    documents: int
    chunks: int = 10
    documents_per_request: int = 10
    dimensions: int = 1024
    concurrency: int = 8

    def texts(self) -> list[list[str]]:
        """Return the documents."""
        return serving.documents(self.documents, self.chunks)

    def job(self) -> clients.Job:
        """Return the job for a client. All 16 attempts of a request fail once in 5 ** 16 requests."""
        size = self.documents_per_request
        return clients.Job(self.base_url, self.texts(), size, self.concurrency, self.dimensions, retries=15)

    def plan(self, seed: int = 0) -> dict[str, Any]:
        """Return the fault plan of the server."""
        return {"seed": seed, "random": {"share": SHARE, "faults": list(FAULTS)}}

    def expected(self) -> str:
        """Return the digest of the correct vectors."""
        return digest(serving.expected_vectors(self.texts(), self.dimensions))


@dataclass(frozen=True)
class SoakResult:
    """The outcome of a job and its resources. Memory is resident memory, in bytes."""

    digest: str
    rows: int
    seconds: float
    error: str
    result_bytes: int
    memory_before: int
    memory_peak: int
    files_before: int
    files_after: int
    threads_after: int

    @property
    def growth(self) -> int:
        """Bytes at the peak beyond the memory before the job and its result."""
        return self.memory_peak - self.memory_before - self.result_bytes


def digest(vectors: np.ndarray) -> str:
    """Return a digest of the shape and bytes of a matrix."""
    return hashlib.blake2b(
        np.ascontiguousarray(vectors), digest_size=16, person=repr(vectors.shape).encode()
    ).hexdigest()


# --- the job ---


@asynccontextmanager
async def _ours_stream(job: clients.Job) -> AsyncIterator[Any]:
    async with ctxembed.AsyncClient(**job.options) as client:

        async def call() -> np.ndarray:
            chunks = len(job.documents[0])
            rows = np.empty((len(job.documents), chunks, job.dimensions), np.int8)
            seen = np.zeros(len(job.documents), np.int64)
            async for part in client.stream(job.documents, dimensions=job.dimensions):
                seen[part.documents] += 1
                rows[part.documents] = part.vectors.reshape(-1, chunks, job.dimensions)
            if (seen != 1).any():
                raise RuntimeError(f"{np.count_nonzero(seen != 1)} documents did not arrive exactly once")
            return rows.reshape(-1, job.dimensions)

        yield call


def _ours_sync(job: clients.Job) -> np.ndarray:
    with clients.ours_sync(job) as call:
        return call()


CLIENTS: Final[dict[str, Callable[[clients.Job], Any]]] = {
    "ctxembed async": lambda job: clients.run(clients.ours_async(job)),
    "ctxembed sync": _ours_sync,
    "ctxembed stream": lambda job: clients.run(_ours_stream(job)),
    "perplexityai async": lambda job: clients.run(clients.official_joined(job)),
}


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def run_here(soak: Soak) -> SoakResult:
    """Run the job in this process."""
    job, embed = soak.job(), CLIENTS[soak.client]
    # A short job first, so that imports and first connections do not count as growth.
    with contextlib.suppress(Exception):
        embed(clients.Job(job.base_url, job.documents[:20], 10, job.concurrency, job.dimensions, retries=15))
    gc.collect()
    before, files = _memory("VmRSS"), _files()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    began, error, vectors = time.monotonic(), "", np.empty((0, job.dimensions), np.int8)
    try:
        vectors = embed(job)
    except Exception as failure:  # noqa: BLE001  # a peer that gives up is a result
        error = f"{name_of(failure)}: {failure}"[:200]
    seconds, peak = time.monotonic() - began, _memory("VmHWM")
    gc.collect()
    return SoakResult(
        digest=digest(vectors),
        rows=len(vectors),
        seconds=seconds,
        error=error,
        result_bytes=vectors.nbytes,
        memory_before=before,
        memory_peak=peak,
        files_before=files,
        files_after=_files(),
        threads_after=threading.active_count(),
    )


def name_of(failure: Exception) -> str:
    """Return the name of an exception's class with its package."""
    return f"{type(failure).__module__.partition('.')[0]}.{type(failure).__name__}"


def run(soak: Soak) -> SoakResult:
    """Run the job in a new process."""
    command = [sys.executable, "-m", "benches.soaking"]
    done = subprocess.run(
        command, input=json.dumps(asdict(soak)).encode(), stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return SoakResult(**json.loads(done.stdout))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(run_here(Soak(**json.load(sys.stdin))))))
