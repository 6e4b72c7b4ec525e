"""A server with a slow embedder: it loads while the server listens, short requests do not wait, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed._backends.hashed import HashedEmbedder

from .conftest import CONTEXT_MODEL, DOCUMENTS, matrix

SCRIPT = Path(__file__).with_name("paced_server.py")
SMALL = {"encoding_format": "base64_binary", "dimensions": 128}


class PacedServer:
    """The process of ``paced_server.py``."""

    def __init__(self, options, key=None):
        environment = {name: value for name, value in os.environ.items() if name != "CTXEMBED_SERVER_KEY"}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), repr({"key": key, **options})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.pid = self._process.pid
        self.base_url = self.line()
        self.address = self.base_url.rpartition("/")[2].split(":")

    def line(self):
        """Return the next line of its stdout."""
        return self._process.stdout.readline().strip()

    def say(self, word):
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def terminate(self):
        self._process.send_signal(signal.SIGTERM)

    def wait(self):
        """Wait until it ends. Return the exit code and its stderr."""
        _, errors = self._process.communicate(timeout=60)
        return self._process.returncode, errors

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def threads(self):
        return int(Path(f"/proc/{self.pid}/status").read_text().split("Threads:")[1].split()[0])

    def descriptors(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@pytest.fixture
def paced():
    """Return a function that starts a paced server. The servers end with the test."""
    started = []

    def start(**options):
        started.append(PacedServer(options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def background():
    with ThreadPoolExecutor(80) as pool:
        yield pool


def wait_for_queue(api, **expected):
    """Return when the queue has so many requests or tokens; the test's timeout limits the wait."""
    while True:
        queue = api.stats()["queue"]
        if all(queue[name] == value for name, value in expected.items()):
            return
        time.sleep(0.02)


def expected_vectors(documents, **options):
    model = options.pop("model", CONTEXT_MODEL)
    return HashedEmbedder([ctxembed.get_model(model)]).embed(documents, model=model, **options).vectors


def send(server, documents, **options):
    """Send a request over a socket and return the socket."""
    body = json.dumps({"input": documents, "model": CONTEXT_MODEL, **SMALL, **options})
    connection = socket.create_connection((server.address[0].strip("/"), int(server.address[1])), timeout=60)
    connection.sendall(
        f"POST {DOCUMENTS} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer k\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def test_a_short_request_and_healthz_wait_for_one_pass_of_a_slow_document(paced, connect, background):
    server = paced()
    api = connect(server)
    slow = [["held-1"], ["held-2"], ["held-3"]]
    long = background.submit(api.vectors, slow)
    assert server.line() == "pass held-1"
    short = background.submit(api.vectors, [["short"]])
    wait_for_queue(api, requests=2)
    assert api.http.get("/healthz").json() == {"status": "ok"}
    server.say("go")
    assert server.line() == "pass short"
    np.testing.assert_array_equal(short.result(), expected_vectors([["short"]]))
    assert server.line() == "pass held-2"
    assert not long.done()
    server.say("go")
    server.say("go")
    np.testing.assert_array_equal(long.result(), expected_vectors(slow))
    wait_for_queue(api, requests=0, tokens=0)


def test_a_full_queue_responds_with_429_before_tokens_are_counted(paced, connect, background):
    server = paced(max_queued_tokens=60)
    api = connect(server)
    document = ["held", *["word"] * 10]  # 22 tokens
    first = background.submit(api.documents, [document])
    assert server.line() == "pass held"
    second = background.submit(api.documents, [document])
    wait_for_queue(api, requests=2, tokens=42)
    refused = api.documents([["short", "words " * 60]])
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"] == {
        "message": "The queue of this server is full",
        "type": "rate_limit_exceeded",
        "code": 429,
    }
    small = background.submit(api.documents, [["small"]])
    wait_for_queue(api, requests=3)
    server.say("go")
    server.say("go")
    assert [each.result().status_code for each in (first, second, small)] == [200] * 3
    wait_for_queue(api, requests=0)
    # Larger than the bound, and alone.
    assert api.documents([["quiet", *["word"] * 25] for _ in range(100)]).status_code == 200


def test_retry_after_is_of_the_measured_speed(paced, connect, background):
    server = paced(max_queued_tokens=20)
    api = connect(server)
    timer = threading.Timer(1.0, server.say, ["go"])
    timer.start()
    assert api.documents([["held", "two"]]).status_code == 200
    timer.join()
    speed = api.stats()["queue"]["tokens_per_second"]
    assert 0 < speed <= 3  # 3 tokens in a second or more
    server.line()
    blocked = background.submit(api.documents, [["held", *["word"] * 9]])
    assert server.line() == "pass held"
    refused = api.documents([["held", "words " * 19]])
    # The clock of the process has gone on since the speed was read, at most by the time of this test.
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 20 / speed + 1
    server.say("go")
    assert blocked.result().status_code == 200


def test_a_client_that_hangs_up_leaves_the_queue_and_stops_between_passes(paced, connect):
    server = paced()
    api = connect(server)
    running = send(server, [["held-1"], ["held-2"], ["held-3"]])
    assert server.line() == "pass held-1"
    waiting = send(server, [["never"]])
    wait_for_queue(api, requests=2)
    waiting.close()
    wait_for_queue(api, requests=1)
    running.close()
    while api.stats()["by_status"] != {"disconnected": 2}:
        time.sleep(0.02)
    assert api.stats()["queue"]["requests"] == 1  # its pass cannot be stopped
    server.say("go")
    wait_for_queue(api, requests=0, tokens=0)
    assert api.documents([["next"]]).status_code == 200
    assert server.line() == "pass next"


def test_half_of_64_clients_hang_up_and_nothing_is_lost(paced, connect, background):
    server = paced()
    api = connect(server)
    generator = random.Random(7)
    documents = [
        [[f"quiet {client} {number}", "a second chunk"] for number in range(generator.randint(1, 6))]
        for client in range(64)
    ]
    grown = []
    for round_ in range(3):
        blocked = background.submit(api.documents, [["held"]], **SMALL)
        assert server.line() == "pass held"
        sockets = [send(server, each) for each in documents]
        wait_for_queue(api, requests=65)
        for client in range(0, 64, 2):
            if client % 4:  # a reset in place of a close
                sockets[client].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sockets[client].close()
        if round_ % 2:  # else some leave while requests run
            wait_for_queue(api, requests=33)
        server.say("go")
        assert blocked.result().status_code == 200

        def receive(client, sockets=sockets):
            with contextlib.closing(sockets[client]) as connection:
                response = httpx_like(connection)
            return matrix(response["data"], bits=True)

        for client, found in zip(range(1, 64, 2), background.map(receive, range(1, 64, 2)), strict=True):
            np.testing.assert_array_equal(found, expected_vectors(documents[client], **SMALL))
        wait_for_queue(api, requests=0, tokens=0)
        while api.stats()["in_flight"]:
            time.sleep(0.02)
        grown.append((server.threads(), server.descriptors()))
    # Some requests were interrupted, each with a thread of the pool. Threads that leak would be 65 more a round.
    assert grown[2][0] <= grown[0][0] + 10
    assert grown[2][1] <= grown[0][1]
    by_status = api.stats()["by_status"]
    assert by_status["200"] + by_status["disconnected"] == 3 * 65
    assert by_status["200"] >= 3 * 33
    server.terminate()
    code, errors = server.wait()
    assert (code, errors) == (0, "")


def httpx_like(connection):
    """Read a response with a length from a socket, and return its JSON."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), data
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return json.loads(body)


def test_requests_get_503_until_the_model_is_loaded(paced, connect):
    server = paced(loads=True)
    api = connect(server)
    responses = [api.http.get("/healthz"), api.documents([["a"]]), api.texts("a"), api.documents("no contract")]
    assert [response.status_code for response in responses] == [503] * 4
    assert {response.headers["retry-after"] for response in responses} == {"5"}
    assert responses[0].json() == {"status": "loading"}
    assert responses[1].json()["error"]["message"] == "The model is loading"
    assert api.documents([["a"]], headers={"authorization": ""}).status_code == 401
    server.say("load")
    while api.http.get("/healthz").status_code == 503:
        time.sleep(0.02)
    assert api.documents([["quiet"]], model="paced-model").status_code == 200
    server.terminate()
    code, errors = server.wait()
    assert (code, errors) == (0, "ctxembed: paced-model is loaded: 1024 dimensions, 40 tokens a pass\n")


@pytest.fixture
def local(paced, connect):
    """A client of a server with a local model."""
    server = paced(loads=True)
    server.say("load")
    api = connect(server)
    while api.http.get("/healthz").status_code == 503:
        time.sleep(0.02)
    return api


def test_a_local_model_is_served_under_its_own_name_at_both_endpoints(local):
    documents = local.documents([["quiet one", "two"]], model="paced-model")
    texts = local.texts(["quiet one"], model="paced-model", dimensions=128)
    assert [response.status_code for response in (documents, texts)] == [200, 200]
    assert documents.json()["usage"]["total_tokens"] == 4
    assert texts.json()["data"][0]["object"] == "embedding"
    for response in (local.documents([["a"]]), local.texts("a")):
        assert response.status_code == 422
        assert response.json()["detail"] == [
            {"loc": ["body", "model"], "msg": "Input should be 'paced-model'", "type": "literal_error"}
        ]


def test_a_chunk_that_is_longer_than_the_context_is_named(local):
    long = "word " * 41
    documents = local.documents([["quiet"], ["short", long]], model="paced-model")
    texts = local.texts(["quiet", long], model="paced-model")
    assert [response.status_code for response in (documents, texts)] == [422, 422]
    message = "has 41 tokens, more than the 40 of a pass"
    assert documents.json()["detail"] == [
        {"loc": ["body", "input", 1, 1], "msg": f"This chunk {message}", "type": "value_error"}
    ]
    assert texts.json()["detail"][0] == {
        "loc": ["body", "input", 1], "msg": f"This text {message}", "type": "value_error"
    }  # fmt: skip


def test_a_model_that_cannot_be_loaded_ends_the_server(paced):
    server = paced(loads=True)
    server.say("fail")
    code, errors = server.wait()
    assert code == 1
    assert errors.splitlines()[-1] == "ValueError: the model of this test cannot be loaded"


def test_a_server_stops_while_its_model_loads(paced):
    server = paced(loads=True)
    server.terminate()
    assert server.wait() == (0, "")


def test_a_server_that_stops_ends_waiting_requests_and_finishes_the_running_one(paced, connect, background):
    server = paced()
    running = background.submit(connect(server).documents, [["held"]])
    assert server.line() == "pass held"
    api = connect(server)
    waiting = background.submit(connect(server).documents, [["waiting"]])
    wait_for_queue(api, requests=2)
    server.terminate()
    response = waiting.result()
    assert (response.status_code, response.json()["error"]["message"]) == (503, "The server is stopping")
    assert response.headers["retry-after"] == "5"
    server.say("go")
    assert running.result().status_code == 200
    assert server.wait() == (0, "")


def test_a_server_that_stops_ends_the_running_request_when_its_time_is_over(paced, connect, background):
    server = paced()
    running = background.submit(connect(server).documents, [["held"], ["never"]])
    assert server.line() == "pass held"
    server.terminate()
    response = running.result()
    assert (response.status_code, response.json()["error"]["message"]) == (503, "The server is stopping")
    server.say("go")
    assert server.line() == ""  # no further pass
    assert server.wait() == (0, "")
