"""A caller that hangs up while its search waits: the search is taken out of the queue."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import uvicorn
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._server import ServerConfig, ServerProcess, create_app
from ctxembed._server.protocols import FastProtocol, StrictProtocol
from ctxembed._server.search.scans import ScanQueue

from .served import documents, ingest


class Gate:
    """Holds each scan back until it is told to go on, and counts the queries."""

    def __init__(self, monkeypatch):
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.queries, self.queue = [], None
        scan = ScanQueue._scan

        def held(queue, batch):
            self.queue = queue
            self.queries.append(len(batch))
            self.begun.release()
            assert self.go_on.acquire(timeout=60)
            scan(queue, batch)

        monkeypatch.setattr(ScanQueue, "_scan", held)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


@pytest.fixture
def birds(tmp_path):
    with ServerProcess() as standin:
        return ingest(tmp_path / "birds.ctx", standin, documents(5))


def send(address, query):
    body = json.dumps({"query": query}).encode()
    head = (
        f"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    connection = socket.create_connection(address, timeout=60)
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


def wait_until(condition):
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("protocol", [FastProtocol, StrictProtocol])
def test_a_search_whose_caller_hangs_up_is_not_scanned(birds, gate, protocol):
    config = ServerConfig(collections=(str(birds),))
    app = create_app(config, HashedEmbedder(config.models))
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", lifespan="on", log_config=None))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            address = listener.getsockname()
            first = send(address, "heron")
            assert gate.begun.acquire(timeout=60)  # it scans for the first, and the others wait
            stays, leaves = send(address, "reed"), send(address, "river")
            wait_until(lambda: len(gate.queue) == 2)
            leaves.close()
            wait_until(lambda: sum(scan.done is None for scan in gate.queue._waiting) == 1)
            gate.go_on.release(2)
            assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert stays.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert gate.queries == [1, 1]
            first.close()
            stays.close()
        finally:
            gate.go_on.release(100)
            server.should_exit = True
            thread.join(timeout=60)
