"""What the server has seen: numbers for tests, and never a key or a text."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Exchange", "Stats"]

_REMEMBERED = 1024
_SECONDS = 3600


@dataclass(slots=True)
class Exchange:
    """One request to the API and its answer.

    Attributes
    ----------
    status : int or str
        The HTTP status, or ``reset``, ``truncated``, ``hung up`` or ``raw``, or ``disconnected``: the client hung up.
    documents, chunks, tokens : int
        Of a request that kept the contract and was embedded, hence would be paid; else 0.
    reported : int
        Those of the tokens that ``usage`` told of, in an answer that could be read.
    fault : str or None
        What went wrong on purpose.
    """

    request_id: str
    path: str
    at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: int | str = "disconnected"
    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    reported: int = 0
    fault: str | None = None


class Stats:
    """Sums over the exchanges. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start counting anew."""
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
        self._recent: deque[Exchange] = deque(maxlen=_REMEMBERED)

    def begin(self) -> None:
        """Count a request that has arrived."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)

    def end(self, exchange: Exchange) -> None:
        """Count a request that is over."""
        exchange.seconds = time.monotonic() - exchange.at
        self._in_flight = max(self._in_flight - 1, 0)
        self._requests += 1
        self._documents += exchange.documents
        self._chunks += exchange.chunks
        self._tokens += exchange.tokens
        self._reported += exchange.reported
        self._aborted += exchange.status == "disconnected"
        self._by_status[str(exchange.status)] += 1
        self._by_path[exchange.path] += 1
        if exchange.fault is not None:
            self._by_fault[exchange.fault] += 1
        second = int(exchange.at + exchange.seconds)
        self._by_second.setdefault(second, Counter())[str(exchange.status)] += 1
        if len(self._by_second) > _SECONDS:
            del self._by_second[min(self._by_second)]
        self._recent.append(exchange)

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and the last 1,024 exchanges in the order they ended.

        ``tokens`` are those of every request that was embedded, hence paid; ``reported_tokens`` those that a client
        could read in an answer; ``aborted`` counts clients that hung up while they were being answered;
        ``by_second`` holds the statuses of each of the last 3,600 seconds in which a request ended.
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
            "by_second": {str(second): dict(found) for second, found in sorted(self._by_second.items())},
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak,
            "recent": [asdict(exchange) for exchange in self._recent],
        }
