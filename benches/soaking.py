"""A long job through a server that fails a fifth of all requests: what it brings, and what it leaves behind.

``python -m benches.soaking`` is the job alone, in a process whose memory and files are its own: it reads a
:class:`Soak` from stdin and writes a :class:`Trace` to stdout, both as JSON.
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
"""The ten ways."""

SHARE: Final = 0.2
GROWTH: Final = 64 * 1024 * 1024
"""Bytes that a job may need at most beyond its documents and its result."""


@dataclass(frozen=True)
class Soak:
    """What is asked: so many documents of so many chunks, some of them a request."""

    base_url: str
    way: str
    documents: int
    chunks: int = 10
    a_request: int = 10
    dimensions: int = 1024
    concurrency: int = 8

    def texts(self) -> list[list[str]]:
        """The documents."""
        return serving.documents(self.documents, self.chunks)

    def job(self) -> clients.Job:
        """The same as the clients take it. A fifth fails, so one in 5 ** 16 requests meets its end."""
        return clients.Job(self.base_url, self.texts(), self.a_request, self.concurrency, self.dimensions, retries=15)

    def plan(self, seed: int = 0) -> dict[str, Any]:
        """The server's fault plan."""
        return {"seed": seed, "random": {"share": SHARE, "faults": list(FAULTS)}}

    def expected(self) -> str:
        """The digest of the right vectors."""
        return digest(serving.truth(self.texts(), self.dimensions))


@dataclass(frozen=True)
class Trace:
    """What a job brought and left. Bytes of memory are resident ones."""

    digest: str
    rows: int
    seconds: float
    error: str
    result: int
    before: int
    peak: int
    files_before: int
    files_after: int
    threads_after: int

    @property
    def growth(self) -> int:
        """Bytes at the peak, beyond what there was before and the result."""
        return self.peak - self.before - self.result


def digest(vectors: np.ndarray) -> str:
    """Name a matrix by its shape and bytes."""
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
                raise RuntimeError(f"{np.count_nonzero(seen != 1)} documents did not come exactly once")
            return rows.reshape(-1, job.dimensions)

        yield call


def _ours_sync(job: clients.Job) -> np.ndarray:
    with clients.ours_sync(job) as call:
        return call()


WAYS: Final[dict[str, Callable[[clients.Job], Any]]] = {
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


def soak(asked: Soak) -> Trace:
    """Do the job in this process."""
    job = asked.job()
    # What loads once, and connections that were made once, are no growth.
    with contextlib.suppress(Exception):
        WAYS[asked.way](clients.Job(job.base_url, job.documents[:20], 10, job.concurrency, job.dimensions, retries=15))
    gc.collect()
    before, files = _memory("VmRSS"), _files()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began, error, vectors = time.monotonic(), "", np.empty((0, job.dimensions), np.int8)
    try:
        vectors = WAYS[asked.way](job)
    except Exception as failure:  # noqa: BLE001  # a peer that gives up is a result
        error = f"{named(failure)}: {failure}"[:200]
    seconds, peak = time.monotonic() - began, _memory("VmHWM")
    gc.collect()
    return Trace(
        digest=digest(vectors),
        rows=len(vectors),
        seconds=seconds,
        error=error,
        result=vectors.nbytes,
        before=before,
        peak=peak,
        files_before=files,
        files_after=_files(),
        threads_after=threading.active_count(),
    )


def named(failure: Exception) -> str:
    """Name an exception, and the package that it comes from."""
    return f"{type(failure).__module__.partition('.')[0]}.{type(failure).__name__}"


def run(asked: Soak) -> Trace:
    """Do the job in a process of its own."""
    command = [sys.executable, "-m", "benches.soaking"]
    done = subprocess.run(
        command, input=json.dumps(asdict(asked)).encode(), stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return Trace(**json.loads(done.stdout))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(soak(Soak(**json.load(sys.stdin))))))
