"""A job that is killed, interrupted, or left by its terminal, and goes on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time

import pytest

from tests.cli.process import (
    command,
    environment,
    ids_of,
    in_flight_of,
    paid_of,
    requests_of,
    set_plan,
    write_documents,
)

EMBED = ("embed", "docs.jsonl", "corpus.ctx", "--concurrency", "2")
DOCUMENTS = [{"id": i, "chunks": [f"text {i}"]} for i in range(4096)]  # eight requests of 512


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command against a server; it is killed when the test ends."""
    processes = []

    def run(server, *arguments, **options):
        variables = {"PERPLEXITY_API_KEY": "k"}
        if server is not None:
            variables["PERPLEXITY_BASE_URL"] = server.base_url
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(command(*arguments), env=environment(**variables), cwd=tmp_path, text=True, **pipes)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def slow(fresh_server, tmp_path):
    """A server that responds after 0.5 seconds, and documents for eight requests."""
    write_documents(tmp_path / "docs.jsonl", DOCUMENTS)
    return fresh_server(latency=0.5)


def wait_until(condition):
    end = time.monotonic() + 50
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_stores_what_is_in_flight_and_the_same_command_goes_on(start, slow, tmp_path, number, code):
    # These tests may run under nohup themselves.
    process = start(slow, *EMBED, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_until(lambda: paid_of(slow) >= 2)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    stored = len(ids_of(tmp_path / "corpus.ctx"))
    assert (process.returncode, stdout, stored) == (code, "", 512 * paid_of(slow))
    assert f"error: interrupted: {stored:,} documents of the input are stored, and the same command goes on" in stderr
    again = start(slow, *EMBED)
    again.communicate(timeout=60)
    assert (again.returncode, paid_of(slow)) == (0, 8)


def test_a_second_signal_ends_the_job_at_once(start, slow, tmp_path):
    set_plan(slow, [{}, {"delay": 60, "times": "always"}])
    process = start(slow, *EMBED)
    wait_until(lambda: requests_of(slow) >= 3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 7  # less than it waits for what is in flight
    assert len(ids_of(tmp_path / "corpus.ctx")) == 512


def test_a_killed_job_goes_on_and_pays_for_no_committed_document_again(start, slow, tmp_path):
    process = start(slow, *EMBED)
    wait_until(lambda: paid_of(slow) >= 2)
    process.kill()
    process.communicate()
    stored = len(ids_of(tmp_path / "corpus.ctx"))
    wait_until(lambda: in_flight_of(slow) == 0)
    before = paid_of(slow)
    again = start(slow, *EMBED)
    _, stderr = again.communicate(timeout=60)
    assert (again.returncode, len(ids_of(tmp_path / "corpus.ctx"))) == (0, 4096)
    assert f"{4096 - stored:,} added, {stored:,} unchanged" in stderr
    assert paid_of(slow) == before + 8 - stored // 512


def test_an_outage_is_waited_for_and_then_ends_the_job(start, fresh_server, tmp_path):
    write_documents(tmp_path / "docs.jsonl", DOCUMENTS)
    server = fresh_server()
    set_plan(server, [{}, {"fault": "503", "times": "always"}])
    process = start(server, *EMBED, "--max-wait", "1", "--max-retries", "0")
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, "503" in stderr) == (1, True)
    assert "the same command goes on from there" in stderr
    set_plan(server, [{"fault": "503", "times": 9}])
    again = start(server, *EMBED, "--max-wait", "60", "--max-retries", "0")
    again.communicate(timeout=90)
    assert (again.returncode, len(ids_of(tmp_path / "corpus.ctx"))) == (0, 4096)


def test_hang_up_stays_ignored_under_nohup(start, slow, tmp_path):
    process = start(slow, *EMBED, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_until(lambda: paid_of(slow) >= 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert (process.returncode, len(ids_of(tmp_path / "corpus.ctx"))) == (0, 4096)


def test_a_terminal_that_goes_away_silences_the_display_alone(start, slow, tmp_path):
    terminal, side = pty.openpty()
    process = start(slow, *EMBED, stdin=subprocess.DEVNULL, stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    wait_until(lambda: paid_of(slow) >= 1)
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert len(ids_of(tmp_path / "corpus.ctx")) == 4096


def test_nobody_needs_to_read_the_events(start, slow, tmp_path):
    process = start(slow, *EMBED, "--json")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) in (0, 1)
    assert len(ids_of(tmp_path / "corpus.ctx")) == 4096


def test_a_terminal_shows_a_bar_that_never_moves_backwards(start, slow):
    terminal, side = pty.openpty()
    process = start(slow, *EMBED, stdin=subprocess.DEVNULL, stderr=side)
    os.close(side)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:  # the other side is closed
            break
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    shares = [
        int(part.rsplit(b"m", 1)[-1]) for part in shown.split(b"%")[:-1] if part.rsplit(b"m", 1)[-1].strip().isdigit()
    ]
    assert shares == sorted(shares)
    assert b"documents" in shown
    assert b"in flight" in shown


def test_ctrl_c_while_stdin_is_read_is_one_line(start):
    process = start(None, "plan", "-")
    documents = "".join(f'{{"id": {i}, "chunks": ["a"]}}\n' for i in range(10_000))
    process.stdin.write(documents)  # more than a pipe holds: it is being read
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "error: interrupted\n"


def test_ctrl_c_while_a_query_is_embedded_is_one_line(start, slow, collection):
    set_plan(slow, [{"delay": 60, "times": "always"}])
    process = start(slow, "search", collection, "q", "--json")
    wait_until(lambda: requests_of(slow) > 0)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert json.loads(stderr)["message"] == "interrupted"
