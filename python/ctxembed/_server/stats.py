"""Request statistics for tests. They never hold a key or a text."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctxembed._server.clock import Clock

__all__ = ["RequestRecord", "Stats"]

_RECENT_REQUESTS = 1024
_SECONDS = 3600
_FAULTS = 256  # labels that are counted each for itself


@dataclass(slots=True)
class RequestRecord:
    """One API request and its response.

    Attributes
    ----------
    at, seconds : float
        When the request arrived, and how long it took.
    status : int or str
        The HTTP status; or ``reset``, ``truncated``, ``hung up`` or ``raw`` when a fault broke the connection; or
        ``disconnected`` when the client did.
    documents, chunks, tokens : int
        Sizes of a request that was accepted, and would therefore be charged, whoever still waits for it; else 0.
    reported : int
        Tokens that a readable response reported in ``usage``.
    fault : str or None
        The fault that was injected.
    """

    request_id: str
    path: str
    at: float
    seconds: float = 0.0
    status: int | str = "disconnected"
    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    reported: int = 0
    fault: str | None = None


class Stats:
    """Totals over all requests. Used by the event loop's thread only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Reset all counters."""
        self._requests = 0
        self._documents = 0
        self._chunks = 0
        self._tokens = 0
        self._reported = 0
        self._aborted = 0
        self._by_status: Counter[str] = Counter()
        self._by_path: Counter[str] = Counter()
        self._by_fault: Counter[str] = Counter()
        self._by_second: dict[int, Counter[str]] = {}
        self._in_flight = 0
        self._peak = 0
        self._recent: deque[RequestRecord] = deque(maxlen=_RECENT_REQUESTS)

    def begin(self) -> None:
        """Count a request that has arrived."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)

    def end(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        record.seconds = self._clock.monotonic() - record.at
        self._in_flight = max(self._in_flight - 1, 0)
        self._requests += 1
        self._documents += record.documents
        self._chunks += record.chunks
        self._tokens += record.tokens
        self._reported += record.reported
        self._aborted += record.status == "disconnected"
        self._by_status[str(record.status)] += 1
        self._by_path[record.path] += 1
        if record.fault is not None:
            label = record.fault if record.fault in self._by_fault or len(self._by_fault) < _FAULTS else "other"
            self._by_fault[label] += 1
        second = int(record.at + record.seconds)
        self._by_second.setdefault(second, Counter())[str(record.status)] += 1
        if len(self._by_second) > _SECONDS:
            del self._by_second[min(self._by_second)]
        self._recent.append(record)

    def to_json(self) -> dict[str, Any]:
        """Return the totals and the last 1,024 requests, in the order they ended.

        ``tokens`` counts every request that was embedded; ``reported_tokens`` what clients could read in a response;
        ``aborted`` the clients that disconnected early; ``by_second`` the statuses for each of the last 3,600
        seconds in which a request ended.
        """
        return {
            "requests": self._requests,
            "documents": self._documents,
            "chunks": self._chunks,
            "tokens": self._tokens,
            "reported_tokens": self._reported,
            "aborted": self._aborted,
            "by_status": dict(self._by_status),
            "by_path": dict(self._by_path),
            "by_fault": dict(self._by_fault),
            "by_second": {str(second): dict(statuses) for second, statuses in sorted(self._by_second.items())},
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak,
            "recent": [asdict(record) for record in self._recent],
        }
