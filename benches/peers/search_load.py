"""Callers of a search server, in a process of their own: each sends its next request when it has its last response.

``python -m benches.peers.search_load URL CALLERS SECONDS FILE`` sends the bodies of a file, one a line, and writes what
came back as JSON. It speaks just enough HTTP to take little of the processor time that the server needs.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class _Caller:
    """One connection."""

    def __init__(self, address: tuple[str, int], first: int) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.turn = first
        self.began = 0.0
        self.received = b""

    def send(self, requests: list[bytes]) -> None:
        self.received = b""
        self.began = time.perf_counter()
        self.socket.sendall(requests[self.turn % len(requests)])

    def receive(self) -> bytes | None:
        """Return a response once it is whole."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed a connection")
        self.received += piece
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(_LENGTH.search(head)[1])
        return self.received if len(body) == length else None


def load(url: str, callers: int, seconds: float, bodies: list[bytes]) -> dict[str, Any]:
    """Send searches for some time.

    Returns
    -------
    dict
        ``count`` and ``seconds``; the ``latencies``; ``failed``, which are no 200; ``batches``, the queries that shared
        the scan of each search; and the first of the ``hits`` of each body.
    """
    parts = urlsplit(url)
    head = f"POST /v1/search HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    requests = [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    selector = selectors.DefaultSelector()
    waiting = [_Caller((parts.hostname, parts.port), place) for place in range(callers)]
    latencies, failed, kept = [], 0, []
    for caller in waiting:
        selector.register(caller.socket, selectors.EVENT_READ, caller)
    began = time.perf_counter()
    for caller in waiting:
        caller.send(requests)
    active = callers
    while active:
        for key, _ in selector.select():
            caller = key.data
            response = caller.receive()
            if response is None:
                continue
            now = time.perf_counter()
            latencies.append(now - caller.began)
            failed += not response.startswith(b"HTTP/1.1 200")
            kept.append((caller.turn % len(requests), response))
            caller.turn += callers
            if now - began < seconds:
                caller.send(requests)
            else:
                active -= 1
    took = time.perf_counter() - began
    parsed = [(place, json.loads(response.partition(b"\r\n\r\n")[2])) for place, response in kept]
    first = {place: found["hits"][:1] for place, found in parsed}
    return {
        "count": len(latencies),
        "seconds": took,
        "latencies": latencies,
        "failed": failed,
        "batches": [found["batch"] for _, found in parsed],
        "hits": {
            place: [(hit["document"], hit["chunk"], hit["score"]) for hit in hits] for place, hits in first.items()
        },
    }


if __name__ == "__main__":
    url, callers, seconds, file = sys.argv[1:]
    lines = Path(file).read_bytes().splitlines()
    sys.stdout.write(json.dumps(load(url, int(callers), float(seconds), lines)))
