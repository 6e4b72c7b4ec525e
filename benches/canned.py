"""A server that spends next to nothing, so that what is measured is the clients' own work.

``python -m benches.canned DOCUMENTS CHUNKS`` makes what it answers to each document beforehand, writes its address to
stdout, and ends with its stdin. The vectors are synthetic; a document is told by the number that it begins with.
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
_USAGE: Final = b'"usage":{"prompt_tokens":120000,"total_tokens":120000,"cost":{"total_cost":0.00096,"currency":"USD"}}'
_TEXT: Final = (
    "The harbour master counts the ships that come in with the tide, and writes their names into a long ledger, "
    "one line each, with the cargo, the port of origin and the hour. "
) * 8


def documents(count: int, chunks: int) -> list[list[str]]:
    """Make documents of some 1,250 bytes a chunk, hence 120,000 tokens in 480 chunks."""
    return [[f"document {i}: {j}. {_TEXT}"[:1_250] for j in range(chunks)] for i in range(count)]


@cache
def expected(count: int, chunks: int) -> np.ndarray:
    """Return the vectors that the documents are answered with."""
    return vectors.int8_vectors(1, count * chunks, DIMENSIONS)


def _answers(count: int, chunks: int) -> list[bytes]:
    """Write what each document is answered, from behind its index on."""
    texts = iter([base64.b64encode(row).decode() for row in expected(count, chunks)])
    return [
        (
            ',"data":['
            + ",".join(f'{{"object":"embedding","index":{j},"embedding":"{next(texts)}"}}' for j in range(chunks))
            + "]}"
        ).encode()
        for _ in range(count)
    ]


def _respond(numbers: list[bytes], answers: list[bytes]) -> bytes:
    pieces: list[bytes] = []
    for index, number in enumerate(numbers):
        pieces += [b'%b{"object":"list","index":%d' % (b"," if index else b"", index), answers[int(number)]]
    pieces.insert(0, b'{"object":"list","data":[')
    pieces.append(b'],"model":"%b",%b}' % (MODEL.encode(), _USAGE))
    size = sum(map(len, pieces))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
    return b"".join([head, *pieces])


def _converse(connection: socket.socket, answers: list[bytes]) -> None:
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
                raise ValueError("a request without its length")
            while filled < end + int(length[1]):
                received = connection.recv_into(view[filled:])
                if not received:
                    return
                filled += received
            connection.sendall(_respond(_NUMBER.findall(buffer, end, filled), answers))


def main(count: int, chunks: int) -> None:
    """Serve until stdin closes."""
    answers = _answers(count, chunks)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, answers), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


@cache
def server(count: int, chunks: int) -> str:
    """Start the server as a process of its own, for as long as this one lives, and return its address."""
    command = [sys.executable, "-m", "benches.canned", str(count), str(chunks)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop() -> None:
        process.communicate(timeout=10)  # closes its stdin

    atexit.register(stop)
    return process.stdout.readline().decode().strip()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
