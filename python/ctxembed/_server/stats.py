"""What the server has seen: numbers for tests, and never a key or a text."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Exchange", "Stats"]

_REMEMBERED = 1024


@dataclass(slots=True)
class Exchange:
    """One request to the API and its answer.

    Attributes
    ----------
    status : int or str
        The HTTP status, or ``reset``, ``truncated`` or ``disconnected``.
    documents, chunks, tokens : int
        Of a request that kept the contract and was embedded, hence would be paid; else 0.
    """

    request_id: str
    path: str
    at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: int | str = "disconnected"
    documents: int = 0
    chunks: int = 0
    tokens: int = 0


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
        self._by_status: Counter[str] = Counter()
        self._by_path: Counter[str] = Counter()
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
        self._by_status[str(exchange.status)] += 1
        self._by_path[exchange.path] += 1
        self._recent.append(exchange)

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and the last 1,024 exchanges in the order they ended."""
        return {
            "requests": self._requests,
            "documents": self._documents,
            "chunks": self._chunks,
            "tokens": self._tokens,
            "by_status": dict(self._by_status),
            "by_path": dict(self._by_path),
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak,
            "recent": [asdict(exchange) for exchange in self._recent],
        }
