"""The server as a process: it prints its address, shuts down cleanly, and does not outlive its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ctxembed._server import ServerConfig, ServerProcess
from ctxembed._server.config import is_loopback
from ctxembed._server.rate_limiter import Bucket, retry_after_seconds

COMMAND = [sys.executable, "-m", "ctxembed._server"]


@pytest.fixture
def spawn():
    """Return a function that starts the command. Processes that still run at the end are killed."""
    started = []

    def start(*args, **options):
        process = subprocess.Popen([*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until_gone(pid):
    """Return when the process has ended; the test's timeout limits the wait."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError):
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_line_and_shuts_down_on_a_signal(spawn, number):
    process = spawn("--port", "0")
    address = process.stdout.readline().decode()
    assert address.startswith("http://127.0.0.1:")
    assert httpx.get(address.strip() + "/healthz", trust_env=False).status_code == 200
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert rest == b""
    assert b"Traceback" not in errors
    assert b"stand-in" in errors


@pytest.mark.parametrize("fault", ['{"delay": 60}', '{"stall": {"after": 5, "seconds": 60}}'])
def test_shutdown_ends_paused_responses(fresh_server, fault):
    server = fresh_server()

    def embed():
        body = {"input": "a", "model": "pplx-embed-v1-0.6b"}
        headers = {"authorization": "Bearer k", "x-fault": fault}
        url = server.base_url + "/v1/embeddings"
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)

    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(embed)
        while httpx.get(server.base_url + "/stats", trust_env=False).json()["in_flight"] == 0:
            time.sleep(0.01)
        server.stop()
        assert response.result().json()["object"] == "list"
    assert server.returncode == 0
    assert "graceful shutdown exceeded" not in server.stderr  # the pause ended, uvicorn did not cancel it
    assert "Traceback" not in server.stderr


def test_a_taken_port_is_reported_with_exit_code_1(spawn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = spawn("--port", str(taken.getsockname()[1]))
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == b""
    assert b"in use" in errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(("arguments", "message"), [
    (["--host", "0.0.0.0"], b"not a loopback address"),
    (["--port", "70000"], b"port"),
    (["--latency", "-1"], b"latency"),
    (["--fail-kinds", "nonsense"], b"fail_kinds"),
    (["--limit-tokens", "0"], b"tokens"),
    (["--nonsense"], b"nonsense"),
])  # fmt: skip
def test_invalid_arguments_give_exit_code_2(spawn, arguments, message):
    process = spawn(*arguments)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors
    assert b"Traceback" not in errors


def test_the_process_helper_ends_its_process(fresh_server):
    with ServerProcess() as server:
        pid = server.pid
        assert server.returncode is None
    assert server.returncode == 0
    wait_until_gone(pid)
    assert "stand-in" in server.stderr


def test_the_process_helper_ends_its_process_on_interrupt():
    with pytest.raises(KeyboardInterrupt), ServerProcess() as server:
        raise KeyboardInterrupt
    assert server.returncode == 0


def test_the_process_helper_kills_a_process_that_ignores_sigterm():
    with ServerProcess() as server:
        os.kill(server.pid, signal.SIGSTOP)
        server.stop(timeout=0.2)
    assert server.returncode == -signal.SIGKILL


def test_the_process_helper_reports_why_a_server_did_not_start():
    with pytest.raises(RuntimeError, match=r"(?s)code 2 .*not a loopback address"):
        ServerProcess("--host", "0.0.0.0").start()


def test_the_process_helper_stops_waiting_at_its_timeout():
    with pytest.raises(RuntimeError, match="did not start within"):
        ServerProcess(timeout=0.001).start()


def test_a_server_ends_when_its_parent_is_killed():
    code = (
        "import time; from ctxembed._server import ServerProcess\n"
        "with ServerProcess() as s: print(s.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as starter:
        pid = int(starter.stdout.readline())
        starter.kill()
    wait_until_gone(pid)


def test_the_key_is_not_visible_in_the_process_arguments(fresh_server):
    server = fresh_server(key="sk-hidden")
    assert "hidden" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert "hidden" not in repr(ServerConfig(key="sk-hidden"))


def test_options_reach_the_process(fresh_server, connect):
    api = connect(fresh_server("--access-log", limits=ServerConfig().limits.__class__(documents=2), burst=3))
    assert api.texts(["a", "b"]).status_code == 200
    assert api.texts(["a", "b", "c"]).status_code == 422


def test_the_access_log_goes_to_stderr(fresh_server, connect):
    server = fresh_server("--access-log")
    connect(server).texts("a")
    assert "POST /v1/embeddings" in server.stderr


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_on_the_loopback_address_of_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    with ServerProcess("--host", "::1") as server:
        assert server.base_url.startswith("http://[::1]:")
        assert httpx.get(server.base_url + "/healthz", trust_env=False).status_code == 200


@pytest.mark.parametrize(("host", "loopback"), [
    ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
    ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("example.org", False),
    ("", False),
])  # fmt: skip
def test_loopback_addresses_are_recognised(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(("options", "error"), [
    ({"host": "0.0.0.0"}, ValueError), ({"host": 1}, TypeError), ({"port": "8"}, TypeError), ({"port": -1}, ValueError),
    ({"port": True}, TypeError), ({"key": ""}, ValueError), ({"key": b"k"}, TypeError), ({"latency": -1}, ValueError),
    ({"latency": float("nan")}, ValueError), ({"fail_rate": 1.1}, ValueError), ({"fail_rate": "1"}, TypeError),
    ({"fail_kinds": ("nope",)}, ValueError), ({"fail_rate": 0.1, "fail_kinds": ()}, ValueError),
    ({"requests_per_minute": 0}, ValueError), ({"tokens_per_minute": -1}, ValueError), ({"burst": 0}, ValueError),
    ({"threads": 0}, ValueError), ({"models": ()}, ValueError),
])  # fmt: skip
def test_an_invalid_option_is_rejected_by_name(options, error):
    with pytest.raises(error, match=f"ServerConfig.{next(reversed(options)) if len(options) == 1 else 'fail_kinds'}"):
        ServerConfig(**options)


def test_remote_hosts_need_allow_remote():
    assert ServerConfig(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"


def test_a_bucket_admits_a_burst_then_a_steady_rate():
    bucket = Bucket(per_minute=120, capacity=3)
    assert [bucket.take(1, 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(1, 100.25) == 0.25
    assert bucket.take(1, 100.5) == 0
    assert [bucket.take(1, 1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_bucket_admits_more_than_its_capacity_only_when_full():
    bucket = Bucket(per_minute=60, capacity=10)
    assert bucket.take(25, 0.0) == 0
    assert bucket.take(1, 0.0) == 16
    assert bucket.take(25, 10.0) == 15
    assert bucket.take(25, 25.0) == 0


def test_retry_after_is_rounded_up_to_whole_seconds():
    assert [retry_after_seconds(seconds) for seconds in (0.01, 1.0, 1.01, 59.5)] == ["1", "1", "2", "60"]
