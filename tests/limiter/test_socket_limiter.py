"""``ctxembed limiter`` and ``ctxembed.limiter``: real processes and sockets."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import ctxembed
import pytest

from tests.limiter.processes import processes, run_limiter

DESCRIPTORS = Path("/proc/self/fd")
RUNNER = [sys.executable, "-m", "ctxembed", "limiter", "--listen"]


@pytest.fixture
def start():
    with processes() as starting:
        yield starting


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("l") / "s"


def reserve(limiter, count=1, backend="asyncio"):
    """Reserve starts one after the other, and settle each as accepted."""

    async def main():
        waits = []
        for _ in range(count):
            waits.append(await limiter.reserve(1, 10))
            limiter.settle("accepted", 0.01, None, 10)
        return waits

    return anyio.run(main, backend=backend)


def connect(path):
    """A plain connection, as of a stranger."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(path))
    return connection


def lines(connection):
    return [json.loads(line) for line in connection.makefile().read().splitlines() if line]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("listen", ["unix", "tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"])
def test_starts_are_granted_over_every_kind_of_socket(start, path, listen, backend):
    limiter = run_limiter(start, f"unix:{path}" if listen == "unix" else listen)
    assert limiter.line.startswith(listen.rstrip("0"))
    assert reserve(ctxembed.limiter(limiter.line), 10, backend) == [0.0] * 10


def test_the_socket_is_private_and_removed_at_the_end(start, path):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        limiter = run_limiter(start, f"unix:{path}")
        assert limiter.line == f"unix:{path}"
        assert stat.S_ISSOCK(path.lstat().st_mode)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        limiter.signal(number)
        assert limiter.end() == (0, "")
        assert not path.exists()


def test_the_socket_of_a_killed_limiter_is_replaced(start, path):
    limiter = run_limiter(start, f"unix:{path}")
    limiter.signal(signal.SIGKILL)
    limiter.end()
    assert path.exists()
    run_limiter(start, f"unix:{path}")
    assert reserve(ctxembed.limiter(f"unix:{path}")) == [0.0]


def refused(*arguments):
    found = subprocess.run([*RUNNER, *arguments], check=False, capture_output=True, text=True, timeout=100)
    assert found.returncode != 0
    assert "Traceback" not in found.stderr
    return found.stderr


def test_a_limiter_that_runs_is_not_replaced(start, path):
    run_limiter(start, f"unix:{path}")
    assert f"{path}: a process listens there already" in refused(f"unix:{path}")
    assert reserve(ctxembed.limiter(f"unix:{path}")) == [0.0]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_as_it_is(path, kind):
    target = path.parent / "target"
    target.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    assert "exists and is no socket" in refused(f"unix:{path}")
    assert target.read_text() == "precious"
    assert path.is_dir() or path.read_text() == "precious"


def test_a_socket_that_replaced_the_own_one_is_not_removed(start, path):
    limiter = run_limiter(start, f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        limiter.signal(signal.SIGTERM)
        assert limiter.end()[0] == 0
        assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["unix:/nonexistent/folder/s"], "/nonexistent/folder"),
        (["tcp:0.0.0.0:0"], "pass --allow-remote if the network is yours"),
        (["tcp:example.com:0"], "pass --allow-remote"),
        (["/run/s"], "must be unix:PATH or tcp:HOST:PORT"),
        (["tcp:127.0.0.1:0", "--requests-per-minute", "0"], "--requests-per-minute must be finite and above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments, message):
    assert message in " ".join(refused(*arguments).split())


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        assert address in refused(address)


def test_known_limits_are_kept_for_each_name(start, path):
    run_limiter(start, f"unix:{path}", "--requests-per-minute", "60")
    one, other = (ctxembed.limiter(f"unix:{path}", name=name) for name in ("team-a", "team-b"))

    async def main():
        await one.reserve(1, 10)
        await other.reserve(1, 10)
        with anyio.move_on_after(0.3) as scope:
            await ctxembed.limiter(f"unix:{path}", name="team-a").reserve(1, 10)
        return scope.cancelled_caught

    assert asyncio.run(main())


def test_a_cancelled_request_takes_no_start(start, path):
    run_limiter(start, f"unix:{path}", "--requests-per-minute", "120")
    limiter = ctxembed.limiter(f"unix:{path}")

    async def main():
        await limiter.reserve(1, 10)
        await limiter.reserve(1, 10)
        for _ in range(20):
            with anyio.move_on_after(0.01):
                await limiter.reserve(1, 10)
        began = anyio.current_time()
        await limiter.reserve(1, 10)
        return anyio.current_time() - began

    assert asyncio.run(main()) < 5  # twenty starts more would take ten seconds


def test_threads_event_loops_and_forks_share_one_object(start, path):
    run_limiter(start, f"unix:{path}")
    limiter = ctxembed.limiter(f"unix:{path}")
    found = []
    work = [
        threading.Thread(target=lambda backend=backend: found.append(reserve(limiter, 20, backend)))
        for backend in ("asyncio", "trio", "asyncio", "trio")
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert found == [[0.0] * 20] * 4
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(reserve(limiter, 3)))
    child.start()
    assert queue.get() == [0.0] * 3
    child.join()
    assert reserve(limiter, 3) == [0.0] * 3


def test_a_limiter_that_ends_is_a_connection_error_until_it_is_back(start, path):
    first = run_limiter(start, f"unix:{path}")
    limiter = ctxembed.limiter(f"unix:{path}")

    async def main():
        assert await limiter.reserve(1, 10) == 0.0
        first.signal(signal.SIGKILL)
        await asyncio.to_thread(first.end)
        with pytest.raises(OSError, match="limiter|refused"):
            await limiter.reserve(1, 10)
        with pytest.raises(ConnectionRefusedError):
            await limiter.reserve(1, 10)
        await asyncio.to_thread(run_limiter, start, f"unix:{path}")
        assert await limiter.reserve(1, 10) == 0.0

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_limiter_that_hangs_is_a_timeout_and_then_usable_again(start, path, backend):
    process = run_limiter(start, f"unix:{path}")
    limiter = ctxembed.limiter(f"unix:{path}")

    async def main():
        assert await limiter.reserve(1, 10) == 0.0
        process.signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="has sent nothing for 3 seconds"):
            await limiter.reserve(1, 10)
        process.signal(signal.SIGCONT)
        assert await limiter.reserve(1, 10) == 0.0

    anyio.run(main, backend=backend)


def test_starts_of_a_killed_client_go_to_the_others(start, path):
    """Four requests may be in flight before one was accepted. Those of a killed process count no more."""
    run_limiter(start, f"unix:{path}")
    script = (
        "import asyncio, sys, ctxembed\n"
        "async def main():\n"
        f"    limiter = ctxembed.limiter('unix:{path}')\n"
        "    for _ in range(4): await limiter.reserve(1, 10)\n"
        "    print('reserved', flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())"
    )
    client = start("-c", script)
    client.signal(signal.SIGKILL)
    client.end()
    assert reserve(ctxembed.limiter(f"unix:{path}"), 4) == [0.0] * 4


HELLO = b'{"ctxembed_limiter": 1, "name": "default", "pace": null}\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a line is a JSON object: got 'GET / HTTP/1.1\\r'"),
        (b"\xff\xfe\n", "a line is a JSON object"),
        (b"[" * 3000 + b"\n", "a line is a JSON object"),
        (b"[]\n", "a line is a JSON object"),
        (b"x" * 5000, "a line has 4096 bytes at most"),
        (b"{}\n", "the first line says ctxembed_limiter: None"),
        (b'{"ctxembed_limiter": 2}\n', "run the same version of ctxembed on both sides"),
        (b'{"ctxembed_limiter": 1}\n', "name must be a str, got NoneType"),
        (b'{"ctxembed_limiter": 1, "name": ""}\n', "name must have 1 to 200 printable characters"),
        (b'{"ctxembed_limiter": 1, "name": "a", "pace": -1}\n', "pace must be a finite number from 0"),
        (b'{"ctxembed_limiter": 1, "name": "a", "pace": "x"}\n', "pace must be"),
        (HELLO + b'{"reserve": 1}\n', "reserve takes a list of 2"),
        (HELLO + b'{"reserve": [0, 1]}\n', "requests must be an int from 1, got 0"),
        (HELLO + b'{"settle": ["ok", 0, null, null]}\n', "outcome must be one of"),
        (HELLO + b'{"settle": ["accepted", NaN, null, null]}\n', "age must be a finite number"),
        (HELLO + b'{"settle": [{}, 0, null, null]}\n', "outcome must be one of"),
        (HELLO + b'{"stop": true}\n', "a line is one of reserve, settle and cancel"),
    ],
)
def test_a_stranger_is_told_why_it_is_refused_and_disturbs_nobody(start, path, data, message):
    run_limiter(start, f"unix:{path}")
    with connect(path) as connection:
        connection.sendall(data)
        found = lines(connection)
    assert message in found[-1]["error"]
    assert reserve(ctxembed.limiter(f"unix:{path}"), 2) == [0.0] * 2


def test_a_connection_reserves_one_start_at_a_time(start, path):
    run_limiter(start, f"unix:{path}", "--requests-per-minute", "1")
    with connect(path) as connection:
        connection.sendall(HELLO + b'{"reserve": [1, 1]}\n' * 3)
        found = lines(connection)
    assert found[:2] == [{"ctxembed_limiter": 1}, {"wait": 0.0}]
    assert found[-1] == {"error": "a connection reserves one start at a time"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no ctxembed limiter: it sent 'HTTP/1.1 400 Bad Request"),
        (b"\x00\xff\n", "is no ctxembed limiter"),
        (b"[1]\n", "is no ctxembed limiter"),
        (b"x" * 5000, "is no ctxembed limiter"),
        (b'{"hello": 1}\n', "is no ctxembed limiter"),
        (b'{"ctxembed_limiter": 7}\n', "speaks version 7 of its protocol, and this client 1"),
        (b'{"ctxembed_limiter": 1}\n{"wait": "soon"}\n', "is no ctxembed limiter"),
        (b'{"ctxembed_limiter": 1}\n{"wait": -1}\n', "is no ctxembed limiter"),
        (b'{"ctxembed_limiter": 1}\n{"error": "too many names"}\n', "refused the request: too many names"),
    ],
)
def test_a_stranger_at_the_address_is_a_clear_error(reply, message, backend):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)
                connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ctxembed.LimiterError) as caught:
            reserve(ctxembed.limiter(address), 1, backend)
        thread.join()
    assert message in str(caught.value)
    assert address in str(caught.value)


def test_a_stranger_at_the_address_fails_the_call(server):
    address = "tcp:" + server.base_url.removeprefix("http://")
    with (
        ctxembed.Client("a-key", base_url=server.base_url, limiter=ctxembed.limiter(address)) as client,
        pytest.raises(ctxembed.EmbedError) as caught,
    ):
        client.embed([["a"]])
    assert isinstance(caught.value.__cause__, ctxembed.LimiterError)
    assert "is no ctxembed limiter: it sent 'HTTP/1.1 400" in str(caught.value.__cause__)


def test_neither_key_nor_time_goes_over_the_socket(server, path):
    """A limiter in between records what a client sends."""
    sent = bytearray()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                greeted = False
                while data := connection.recv(4096):
                    sent.extend(data)
                    if b"reserve" in data:
                        hello = b"" if greeted else b'{"ctxembed_limiter": 1}\n'
                        greeted = True
                        connection.sendall(hello + b'{"wait": 0.0}\n')

        thread = threading.Thread(target=serve)
        thread.start()
        options = {"limiter": ctxembed.limiter(f"unix:{path}"), "limits": ctxembed.Limits(documents=1)}
        with ctxembed.Client("pplx-secret-key", base_url=server.base_url, max_concurrency=1, **options) as client:
            client.embed([["a"], ["b"]])
        del options, client
        thread.join()
    messages = [json.loads(line) for line in sent.splitlines() if line]
    assert messages[0] == {"ctxembed_limiter": 1, "name": "default", "pace": None}
    assert [next(iter(message)) for message in messages[1:]] == ["reserve", "settle"] * 2
    assert b"secret" not in sent
    ages = [message["settle"][1] for message in messages if "settle" in message]
    assert all(0 < age < 60 for age in ages)


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="open descriptors are counted in /proc")
def test_connections_leave_no_descriptors(start, path):
    run_limiter(start, f"unix:{path}")
    limiter = ctxembed.limiter(f"unix:{path}")
    reserve(limiter)
    before = len([*DESCRIPTORS.iterdir()])
    for _ in range(20):
        reserve(limiter)
    gc.collect()
    assert len([*DESCRIPTORS.iterdir()]) <= before
