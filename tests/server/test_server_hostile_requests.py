"""The server stays small and quick, and refuses other sites, whatever a request contains."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ctxembed._server import ServerConfig, ServerProcess

DOCUMENTS = "/v1/contextualizedembeddings"
TEXTS = "/v1/embeddings"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server():
    with ServerProcess(config=ServerConfig(key="right", allowed_hosts=("embed.test",))) as process:
        yield process


@pytest.fixture
def api(server, connect):
    return connect(server, key="right")


def peak_memory(server):
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("path", [DOCUMENTS, TEXTS])
@pytest.mark.parametrize("items", ["1,", "[1,1],", '"",', "[],", '[""],', "[[]],", "{},", "null,"])
def test_many_wrong_items_get_a_small_response(api, path, items):
    body = '{"model":"pplx-embed-v1-0.6b","input":[' + items * (2_000_000 // len(items)) + items[:-1] + "]}"
    response = api.http.post(path, content=body, headers=JSON)
    assert response.status_code == 422
    assert len(response.content) < 64 * 1024


def test_the_first_hundred_problems_of_an_input_are_listed(api):
    documents = [["good", 1, ""] for _ in range(100)]
    response = api.http.post(DOCUMENTS, json={"model": "none", "input": documents})
    details = response.json()["detail"]
    assert details[0]["loc"] == ["body", "input", 0, 1]
    assert details[1]["loc"] == ["body", "input", 0, 2]
    assert details[99]["loc"] == ["body", "input", 49, 2]
    assert details[100] == {
        "loc": ["body", "input"],
        "msg": "The input has more problems than these 100",
        "type": "too_many_errors",
    }
    assert len(details) == 101


def test_all_problems_of_a_small_input_are_listed(api):
    response = api.http.post(DOCUMENTS, json={"input": [["a", 5], [], "text", ["b"], [None]]})
    places = [(detail["loc"], detail["type"]) for detail in response.json()["detail"]]
    assert places == [
        (["body", "model"], "missing"),
        (["body", "input", 0, 1], "string_type"),
        (["body", "input", 1], "too_short"),
        (["body", "input", 2], "list_type"),
        (["body", "input", 4, 0], "string_type"),
    ]


@pytest.mark.parametrize("body", ["[" * 100_000, '{"input":' * 50_000, '{"a":1,' * 5, "\ud83d", '{"input": NaN'])
def test_unreadable_json_is_a_400(api, body):
    content = body.encode("utf-8", "surrogatepass")
    assert api.http.post(DOCUMENTS, content=content, headers=JSON).status_code == 400


def test_unknown_paths_are_counted_together(api):
    api.http.delete("/stats")
    for number in range(20):
        api.http.post(f"/v1/{number}", content=b"")
    stats = api.stats()
    assert stats["by_path"] == {"other": 20}
    assert {entry["path"] for entry in stats["recent"]} == {"other"}


@pytest.mark.parametrize("authorization", ["Bearer wrong", ""])
def test_a_body_without_a_valid_key_is_not_kept(authorization):
    with ServerProcess(config=ServerConfig(key="right")) as server:
        before = peak_memory(server)
        lines = [f"POST {TEXTS} HTTP/1.1", "host: localhost", "transfer-encoding: chunked"]
        lines += [f"authorization: {authorization}"] if authorization else []
        with connect_to(server) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            for _ in range(48):
                connection.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
            assert receive(connection) == 401
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")  # the connection goes on
            assert receive(connection) == 200
        assert peak_memory(server) - before < 16 << 20


def test_a_body_beyond_the_limit_is_neither_kept_nor_read_to_its_end():
    with ServerProcess(config=ServerConfig(max_body_bytes=1 << 20)) as server, connect_to(server) as connection:
        before = peak_memory(server)
        connection.sendall(
            f"POST {TEXTS} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\n"
            f"transfer-encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(3):
            connection.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        head = connection.recv(65536)
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in head
        assert peak_memory(server) - before < 16 << 20


def receive(connection):
    """Read one response; return its status."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def connect_to(server):
    host, port = server.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nhost: loc"])
def test_a_connection_without_a_whole_head_is_closed(sent):
    with timed_server(head=0.5) as address, socket.create_connection(address, timeout=30) as connection:
        connection.sendall(sent)
        assert connection.recv(65536) == b""


def test_a_head_that_comes_slowly_is_not_waited_for_after_another_request():
    with timed_server(head=0.5) as address, socket.create_connection(address, timeout=30) as connection:
        request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
        connection.sendall(request)
        assert receive(connection) == 200
        with contextlib.suppress(ConnectionError):
            for byte in itertools.cycle(b"GET /"):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert connection.recv(65536) == b""


def test_a_request_in_flight_is_not_cut_by_the_time_for_heads():
    with timed_server(head=0.3, latency=1.0) as address, socket.create_connection(address, timeout=30) as connection:
        content = b'{"input":"a","model":"pplx-embed-v1-0.6b"}'
        connection.sendall(
            f"POST {TEXTS} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        assert b"200 OK" in connection.recv(65536)


@pytest.mark.parametrize("authorization", ["Bearer k", "Basic k"])
def test_a_body_that_does_not_come_is_a_408_or_a_401(authorization):
    with timed_server(body=0.3) as address, socket.create_connection(address, timeout=30) as connection:
        connection.sendall(
            f"POST {TEXTS} HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\n"
            f"content-type: application/json\r\ncontent-length: 100\r\n\r\n[".encode()
        )
        head = connection.recv(65536)
        assert head.split()[1] == (b"408" if authorization == "Bearer k" else b"401")
        assert b"connection: close" in head


@contextlib.contextmanager
def timed_server(**options):
    """A server with short times, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", TIMED, repr(options)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        yield host, int(port)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


TIMED = """
import ast, sys
from ctxembed._backends.hashed import HashedEmbedder
from ctxembed._server import ServerConfig, http_server, protocols, requests
options = ast.literal_eval(sys.argv[1])
protocols.HEAD_TIMEOUT = options.get("head", 30)
requests._BODY_TIMEOUT = requests._DISCARD_TIMEOUT = options.get("body", 30)
config = ServerConfig(latency=options.get("latency", 0))
http_server.serve(config, HashedEmbedder(config.models), until_stdin_closes=True)
"""


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "localhost@evil.test", "embed.test.evil.test"])
@pytest.mark.parametrize("path", ["/stats", "/healthz", "/faults"])
def test_a_foreign_host_is_refused(api, host, path):
    assert api.http.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST", "embed.test:8765"])
def test_a_local_or_allowed_host_is_accepted(api, host):
    assert api.http.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**JSON, "origin": "http://evil.test"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        (JSON, 200),
    ],
)
def test_a_page_of_another_site_cannot_set_faults(api, headers, status):
    assert api.http.post("/faults", content=b'{"steps":[]}', headers=headers).status_code == status


def test_a_fault_plan_that_is_too_large_is_refused(api):
    response = api.http.post("/faults", content=b"[" + b"{}," * 1_000_000 + b"{}]", headers=JSON)
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert api.http.get("/faults").json() == []
