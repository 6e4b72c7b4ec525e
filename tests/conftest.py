"""Fixtures that every room shares: a real server process on a free loopback port, and a clean environment."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import httpx
import pytest
from ctxembed._server import ServerConfig, ServerProcess

# A shell that runs a job in the background starts it with SIGINT ignored, and children inherit that. Tests of Ctrl-C
# need what a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PREFIXES = ("PERPLEXITY_", "PPLX_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No test sees the developer's key, base URL or proxy."""
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
    """The server that all tests share: any key is accepted, no latency, and no fault left from the test before.

    ``server.base_url`` is its address. A test that sets a plan with ``POST /faults`` need not clear it.
    """
    _session_control.delete("/faults").raise_for_status()
    yield _session_server
    _session_control.delete("/faults").raise_for_status()


@pytest.fixture
def fresh_server():
    """A factory of servers of a test's own: ``fresh_server(key="secret", latency=0.1)``; all end with the test."""
    with ExitStack() as stack:

        def start(*args: str, **options) -> ServerProcess:
            config = ServerConfig(**options)
            return stack.enter_context(ServerProcess(*args, config=config))

        yield start
