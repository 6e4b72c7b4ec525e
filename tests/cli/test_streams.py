"""Standard streams that are closed, full, without a reader, or not text."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from tests.cli.process import command, ids_of


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
        ("$ctxembed plan - 0>write-only", 1, "stdin: "),
        ("$ctxembed plan docs.jsonl >&-", 1, "error: stdout is closed\n"),
        ("$ctxembed search corpus.ctx q >&-", 1, "error: stdout is closed\n"),
        ("$ctxembed plan docs.jsonl >/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        ("$ctxembed info --json >/dev/full", 1, '"message": "cannot write to stdout: No space left on device"'),
        ("$ctxembed --help >/dev/full", 1, "No space left on device\n"),
        ("$ctxembed --version >/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        ("$ctxembed embed docs.jsonl new >&-", 0, "3 added"),
        ("$ctxembed embed docs.jsonl new >&- <&-", 0, "3 added"),
    ],
)
def test_a_stream_that_cannot_be_used_is_one_line(shell, lines, collection, line, code, message):
    done = shell(line)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full"])
def test_messages_are_dropped_without_stderr(shell, lines, collection, target):
    failed = shell(f"$ctxembed plan absent.jsonl {target}")
    assert (failed.returncode, failed.stdout, failed.stderr) == (1, "", "")
    misused = shell(f"$ctxembed nonsense {target}")
    assert (misused.returncode, misused.stdout, misused.stderr) == (2, "", "")
    found = shell(f"$ctxembed search corpus.ctx fish --json {target}")
    assert found.returncode == 0
    assert len(json.loads(found.stdout)["hits"]) == 6


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_documents_are_embedded_without_stderr(shell, lines, tmp_path, target):
    done = shell(f"$ctxembed embed docs.jsonl new {target}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(ids_of(tmp_path / "new")) == 3


@pytest.mark.parametrize("line", ["$ctxembed search corpus.ctx q", "$ctxembed --help", "$ctxembed info --json"])
def test_a_reader_that_leaves_ends_the_command_quietly(shell, collection, line):
    done = shell(f"{{ sleep 0.1; {line}; }} | true")
    assert (done.returncode, done.stderr) == (1, "")
