"""Tests of users that freeze ``time``: retries and deadlines of the synchronous client go on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import ctxembed
import freezegun
import pytest
from ctxembed import Client

from .conftest import KEY


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_a_retry_ends_its_backoff(server, control, transport):
    control.faults("503")
    with freezegun.freeze_time("2026-01-01"), Client(KEY, base_url=server.base_url, transport=transport) as client:
        assert len(client.embed([["a"]], deadline=20)) == 1
    assert control.stats()["requests"] == 2


def test_a_deadline_passes(server, control):
    control.faults({"delay": 20})
    with freezegun.freeze_time("2026-01-01"), Client(KEY, base_url=server.base_url) as client:
        with pytest.raises(ctxembed.EmbedError) as caught:
            client.embed([["a"]], deadline=0.3)
        assert isinstance(caught.value.__cause__, ctxembed.APITimeoutError)


def test_a_retry_after_date_is_read_with_the_frozen_clock(server, control):
    control.faults({"status": 503, "headers": {"retry-after": "Thu, 01 Jan 2026 00:00:01 GMT"}})
    with freezegun.freeze_time("2026-01-01"), Client(KEY, base_url=server.base_url) as client:
        assert len(client.embed([["a"]], deadline=20)) == 1


def test_a_patched_time_module_does_not_stop_the_client(server, control, monkeypatch):
    control.faults("503", "503")
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 1.0)
    with Client(KEY, base_url=server.base_url) as client:
        assert len(client.embed([["a"]], deadline=20)) == 1


def test_the_package_may_be_imported_while_time_is_frozen(server, control):
    control.faults("503")
    code = f"""
        import freezegun
        with freezegun.freeze_time("2026-01-01"):
            import ctxembed
            with ctxembed.Client("key-1234", base_url={server.base_url!r}) as client:
                print(len(client.embed([["a"]], deadline=20)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("1\n", "")
