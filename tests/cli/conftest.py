"""Fixtures for tests of the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.process import DOCUMENTS, command, environment, write_documents


@pytest.fixture
def process_environment(server):
    """The environment of a command that uses the shared server."""
    return environment(PERPLEXITY_API_KEY="key-for-tests", PERPLEXITY_BASE_URL=server.base_url)


@pytest.fixture
def ctxembed(process_environment, tmp_path):
    """Return a function that runs a command with a key and the shared server, and returns the completed process."""

    def run(
        *args, stdin: str | bytes | None = None, unprivileged: bool = False, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*args, unprivileged=unprivileged),
            env={**process_environment, **extra},
            cwd=tmp_path, input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "docs.jsonl"
    write_documents(path, DOCUMENTS)
    return path


@pytest.fixture(scope="session")
def _session_collection(_session_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    write_documents(folder / "docs.jsonl", DOCUMENTS)
    variables = environment(PERPLEXITY_API_KEY="key-for-tests", PERPLEXITY_BASE_URL=_session_server.base_url)
    subprocess.run(command("embed", "docs.jsonl", "corpus.ctx"), env=variables, cwd=folder, timeout=60, check=True)
    return folder / "corpus.ctx"


@pytest.fixture
def collection(_session_collection, server, tmp_path) -> Path:
    """A collection of three documents with six chunks, in the current folder of the command."""
    return Path(shutil.copytree(_session_collection, tmp_path / "corpus.ctx"))
