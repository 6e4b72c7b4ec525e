"""Fixtures for all tests: a clean environment, the local server as a process of its own, and vocabularies."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from ctxembed._server import ServerConfig, ServerProcess

from tests.samples import SHARED, VOCABULARIES

# A shell starts background jobs with SIGINT ignored, and child processes inherit that. Tests of Ctrl-C need the
# handler that a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PREFIXES = ("PERPLEXITY_", "PPLX_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def pytest_report_header() -> str:
    return f"data: tests/data{' and ../shared/data' if SHARED.is_dir() else ', without ../shared/data'}"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Hide the developer's API key, base URL and proxies."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _session_server():
    with ServerProcess() as process:
        yield process


@pytest.fixture(scope="session")
def _session_control(_session_server):
    with httpx.Client(base_url=_session_server.base_url, trust_env=False) as control:
        yield control


@pytest.fixture
def server(_session_server, _session_control):
    """The server that tests share: it accepts any key, adds no latency, and injects no faults.

    ``server.base_url`` is its address. Faults that a test sets with ``POST /faults`` end with the test.
    """
    _session_control.delete("/faults").raise_for_status()
    yield _session_server
    _session_control.delete("/faults").raise_for_status()


@pytest.fixture
def fresh_server():
    """Start servers for one test: ``fresh_server(key="secret", latency=0.1)``. They stop when the test ends."""
    with ExitStack() as stack:

        def start(*args: str, **options) -> ServerProcess:
            config = ServerConfig(**options)
            return stack.enter_context(ServerProcess(*args, config=config))

        yield start


@pytest.fixture(scope="session", params=VOCABULARIES)
def vocabulary(request) -> Path:
    """The path of a tokenizer.json of Qwen3's form: cut to a few thousand tokens, and full where it is present."""
    return VOCABULARIES[request.param]
