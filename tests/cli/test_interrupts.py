"""Ctrl-C at any moment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from tests.cli.process import LONG_DOCUMENTS, command, environment, requests_of, set_plan, write_documents


def test_ctrl_c_keeps_what_was_embedded(fresh_server, tmp_path):
    slow = fresh_server()
    set_plan(slow, [{}, {"delay": 60, "times": "always"}])
    write_documents(tmp_path / "docs.jsonl", LONG_DOCUMENTS)
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxembed", "embed", "docs.jsonl", "out"],
        env=environment(PERPLEXITY_API_KEY="k", PERPLEXITY_BASE_URL=slow.base_url),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # The client starts with four requests. A fifth means that it has the response to the first.
        requests = 0
        while requests < 5:
            time.sleep(0.02)
            stats = httpx.get(slow.base_url + "/stats", trust_env=False).json()
            requests = stats["requests"] + stats["in_flight"]
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout) == (130, ""), stderr
    assert "Traceback" not in stderr
    assert "9 documents without vectors (interrupted)" in stderr
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["chunks"], len(meta["failures"])) == (1, 9)
    assert {failure["code"] for failure in meta["failures"]} == {"CTX-001"}
    assert len(np.load(tmp_path / "out" / "vectors.npy")) == 1


def test_ctrl_c_ends_the_demo_and_its_server(tmp_path):
    import socket

    process = subprocess.Popen(
        [sys.executable, "-m", "ctxembed", "demo"],
        env=environment(PYTHONUNBUFFERED="1"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stdout if line.startswith("local server at"))
        port = int(line.split("http://127.0.0.1:")[1].split()[0])
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert stderr.strip().endswith("error: interrupted")
    assert "Traceback" not in stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def start(tmp_path, *args, **extra):
    return subprocess.Popen(
        command(*args), env=environment(**extra), cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("presses", [1, 3])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_while_the_input_is_read_is_one_line(tmp_path, presses, options):
    process = start(tmp_path, "plan", "-", *options)
    try:
        process.stdin.write('{"id": 1, "chunks": ["a"]}\n' * 10_000)  # more than a pipe holds: it is being read
        process.stdin.flush()
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.002)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout, len(stderr.splitlines())) == (130, "", 1)
    assert (json.loads(stderr)["message"] if options else stderr) in {"interrupted", "error: interrupted\n"}


def test_ctrl_c_while_documents_are_planned_is_one_line(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in (".hidden", "a.md"):
        (tmp_path / "docs" / name).write_text("word\n\n" * 4_000_000)
    process = start(tmp_path, "embed", "docs", "out")
    try:
        assert process.stderr.readline() == "skipped: 1 hidden\n"  # everything is read now
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert (stdout, stderr) == ("", "error: interrupted\n")


def test_ctrl_c_while_a_query_is_embedded_is_one_line(fresh_server, output, tmp_path):
    slow = fresh_server()
    set_plan(slow, [{"delay": 60, "times": "always"}])
    process = start(tmp_path, "search", output, "q", PERPLEXITY_API_KEY="k", PERPLEXITY_BASE_URL=slow.base_url)
    try:
        while requests_of(slow) == 0:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "error: interrupted\n")
