"""A server of prepared responses: it costs next to nothing, so that the clients' own work is measured.

``python -m benches.canned DOCUMENTS CHUNKS DIMENSIONS`` prepares the response to each document, writes its address to
stdout, and runs until stdin closes. The vectors are synthetic. The number at its beginning identifies a document; those
beyond the prepared ones get their vectors again, from the first on.
"""

from __future__ import annotations

import atexit
import base64
import re
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benches import vectors
from benches.serving import MODEL

if TYPE_CHECKING:
    import numpy as np

ROOT: Final = Path(__file__).parent.parent
DIMENSIONS: Final = 1024

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NUMBER: Final = re.compile(rb'\["document (\d+):')
_USAGE: Final = b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"cost":{"total_cost":%.8f,"currency":"USD"}}'
_USD_PER_TOKEN: Final = 8e-9
_BYTES_PER_TOKEN: Final = 5
_TEXT: Final = (
    "The harbour master counts the ships that come in with the tide, and writes their names into a long ledger, "
    "one line each, with the cargo, the port of origin and the hour. "
) * 8


def documents(count: int, chunks: int) -> list[list[str]]:
    """Return documents with chunks of some 1,250 bytes: 480 chunks hold 120,000 tokens."""
    return [[f"document {i}: {j}. {_TEXT}"[:1_250] for j in range(chunks)] for i in range(count)]


@cache
def expected(count: int, chunks: int, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Return the vectors of the documents."""
    return vectors.int8_vectors(1, count * chunks, dimensions)


def _prepared(count: int, chunks: int, dimensions: int) -> list[bytes]:
    """Return the part of the response for each document that follows its index."""
    texts = iter([base64.b64encode(row).decode() for row in expected(count, chunks, dimensions)])
    return [
        (
            ',"data":['
            + ",".join(f'{{"object":"embedding","index":{j},"embedding":"{next(texts)}"}}' for j in range(chunks))
            + "]}"
        ).encode()
        for _ in range(count)
    ]


def _response(numbers: list[bytes], prepared: list[bytes], tokens: int) -> bytes:
    pieces: list[bytes] = []
    for index, number in enumerate(numbers):
        pieces += [
            b'%b{"object":"list","index":%d' % (b"," if index else b"", index),
            prepared[int(number) % len(prepared)],
        ]
    pieces.insert(0, b'{"object":"list","data":[')
    pieces.append(b'],"model":"%b",%b}' % (MODEL.encode(), _USAGE % (tokens, tokens, tokens * _USD_PER_TOKEN)))
    size = sum(map(len, pieces))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
    return b"".join([head, *pieces])


def _serve(connection: socket.socket, prepared: list[bytes]) -> None:
    buffer = bytearray(4 * 1024 * 1024)
    view = memoryview(buffer)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            filled = end = 0
            while not end:
                received = connection.recv_into(view[filled:])
                if not received:
                    return
                filled += received
                end = buffer.find(b"\r\n\r\n", 0, filled) + 4 if b"\r\n\r\n" in buffer[:filled] else 0
            length = _LENGTH.search(buffer, 0, end)
            if length is None:
                raise ValueError("a request without a content-length")
            while filled < end + int(length[1]):
                received = connection.recv_into(view[filled:])
                if not received:
                    return
                filled += received
            numbers = _NUMBER.findall(buffer, end, filled)
            connection.sendall(_response(numbers, prepared, int(length[1]) // _BYTES_PER_TOKEN))


def main(count: int, chunks: int, dimensions: int) -> None:
    """Serve until stdin closes."""
    prepared = _prepared(count, chunks, dimensions)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, prepared), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


@cache
def server(count: int, chunks: int, dimensions: int = DIMENSIONS) -> str:
    """Start the server in a process that runs until this one exits, and return its address."""
    command = [sys.executable, "-m", "benches.canned", str(count), str(chunks), str(dimensions)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop() -> None:
        process.communicate(timeout=10)  # this closes its stdin

    atexit.register(stop)
    return process.stdout.readline().decode().strip()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
