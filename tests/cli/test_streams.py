"""Standard streams that are closed, full, without a reader, or not text."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess

import numpy as np
import pytest

from tests.cli.process import command


@pytest.fixture
def shell(process_environment, tmp_path):
    """Return a function that runs a line of the shell, in which ``$ctxembed`` is the command."""

    def run(line: str, **extra: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("$ctxembed", shlex.join(command()))
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env={**process_environment, **extra}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("$ctxembed plan - <&-", 1, "error: stdin is closed: nothing to read\n"),
        ("$ctxembed plan - <&- --json", 1, '"message": "stdin is closed: nothing to read"'),
        ("$ctxembed plan - 0>write-only", 1, "error: stdin: "),
        ("$ctxembed plan docs.jsonl >&-", 1, "error: stdout is closed\n"),
        ("$ctxembed search out q >&-", 1, "error: stdout is closed\n"),
        ("$ctxembed plan docs.jsonl >/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        ("$ctxembed info --json >/dev/full", 1, '"message": "cannot write to stdout: No space left on device"'),
        ("$ctxembed --help >/dev/full", 1, "No space left on device\n"),
        ("$ctxembed --version >/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        ("$ctxembed embed docs.jsonl new >&-", 0, "6 vectors of 3 documents"),
        ("$ctxembed embed docs.jsonl new >&- <&-", 0, "6 vectors of 3 documents"),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_line(shell, lines, output, line, code, message):
    done = shell(line)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full"])
def test_messages_are_dropped_without_stderr(shell, lines, output, target):
    failed = shell(f"$ctxembed plan absent.jsonl {target}")
    assert (failed.returncode, failed.stdout, failed.stderr) == (1, "", "")
    misused = shell(f"$ctxembed nonsense {target}")
    assert (misused.returncode, misused.stdout, misused.stderr) == (2, "", "")
    found = shell(f"$ctxembed search out fish --json {target}")
    assert found.returncode == 0
    assert len(json.loads(found.stdout)["hits"]) == 6


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_documents_are_embedded_without_stderr(shell, lines, tmp_path, target):
    done = shell(f"$ctxembed embed docs.jsonl new {target}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert np.load(tmp_path / "new" / "vectors.npy").shape == (6, 1024)


@pytest.mark.parametrize("line", ["$ctxembed search out q", "$ctxembed --help", "$ctxembed info --json"])
def test_a_reader_that_leaves_ends_the_command_quietly(shell, output, line):
    done = shell(f"{{ sleep 0.1; {line}; }} | true")
    assert (done.returncode, done.stderr) == (1, "")


def test_the_result_is_kept_when_the_terminal_goes_away(process_environment, lines, tmp_path):
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        ["setsid", *command("embed", "docs.jsonl", "new")],
        env=process_environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=side,
    )  # fmt: skip
    os.close(side)
    os.close(terminal)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert np.load(tmp_path / "new" / "vectors.npy").shape == (6, 1024)
