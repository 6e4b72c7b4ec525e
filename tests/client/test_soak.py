"""A job of some thousand chunks through a server that fails a fifth of all requests, in ten ways at random.

``make bench`` runs the same with 100,000 chunks.
"""

from __future__ import annotations

import httpx
import pytest

from benches.soaking import FAULTS, GROWTH, Soak, run


@pytest.mark.parametrize("way", ["ctxembed async", "ctxembed sync", "ctxembed stream"])
def test_a_job_with_random_faults_is_complete_and_leaks_nothing(server, control, way):
    asked = Soak(server.base_url, way, documents=300, dimensions=256)
    assert len(FAULTS) == 10
    httpx.post(server.base_url + "/faults", json=asked.plan(seed=1), trust_env=False).raise_for_status()
    trace = run(asked)
    assert trace.error == ""
    assert trace.digest == asked.expected()
    assert trace.rows == 3_000
    spoilt = control.stats()["by_fault"]
    assert sum(spoilt.values()) >= 5
    assert trace.growth <= GROWTH
    assert trace.files_after <= trace.files_before
    assert trace.threads_after == 1
