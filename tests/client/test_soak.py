"""A job of 3,000 chunks with a server that fails a fifth of all requests, in ten ways at random.

``make bench`` runs the same with 100,000 chunks.
"""

from __future__ import annotations

import httpx
import pytest

from benches.soaking import FAULTS, GROWTH, Soak, run


@pytest.mark.parametrize("client", ["ctxembed async", "ctxembed sync", "ctxembed stream"])
def test_a_job_with_random_faults_is_complete_and_leaks_nothing(server, control, client):
    soak = Soak(server.base_url, client, documents=300, dimensions=256)
    assert len(FAULTS) == 10
    httpx.post(server.base_url + "/faults", json=soak.plan(seed=1), trust_env=False).raise_for_status()
    trace = run(soak)
    assert trace.error == ""
    assert trace.digest == soak.expected()
    assert trace.rows == 3_000
    assert sum(control.stats()["by_fault"].values()) >= 5
    assert trace.growth <= GROWTH
    assert trace.files_after <= trace.files_before
    assert trace.threads_after == 1
