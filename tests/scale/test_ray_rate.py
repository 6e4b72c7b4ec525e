"""Actors of Ray that share a limiter, against a server of unknown rate, whichever of them dies: the server's counts."""

import os
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import ctxembed
import httpx
import numpy as np
import pytest
from ctxembed._server import ServerProcess
from ctxembed.distributed import ray as cray

pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Ray's own

KEY = "pplx-0123456789abcdefghijklmnopqrstuvwxyz"
PER_SECOND = 50
BURST = 20
COUNT = 2_400


class Journal(cray.JournalFolder):
    """Says which processes use it."""

    def put(self, rows, usage):
        super().put(rows, usage)
        (self._folder.parent / "pids" / str(os.getpid())).touch()


@pytest.mark.parametrize(("actors", "victim"), [(2, "nobody"), (8, "an actor"), (4, "the limiter")])
def test_the_rate_is_used_and_the_output_is_whole_whichever_actor_dies(ray, tmp_path, actors, victim):
    counted = []
    for attempt in ("first", "second"):  # a machine that was busy while the rate was learned gets another one
        counted.append(rate_and_refused(ray, tmp_path / attempt, actors, victim))
        rate, refused = counted[-1]
        if rate >= 0.9 * PER_SECOND and refused <= 0.02 * COUNT:
            return
    pytest.fail(f"accepted a second, and refused of {COUNT}: {counted}")


def rate_and_refused(ray, folder, actors, victim):
    """Embed, check the output, and return the requests accepted a second after the event, and those refused in all."""
    pids = folder / "pids"
    pids.mkdir(parents=True)
    documents = [[f"document {number}", "its second chunk"] for number in range(COUNT)]
    rows = [{"id": f"d{number}", "chunks": chunks, "number": number} for number, chunks in enumerate(documents)]
    limiter = cray.RayLimiter(f"{actors}-{victim}-{folder.name}".replace(" ", "-"))
    options = {"api_key": KEY, "limits": ctxembed.Limits(documents=1), "max_retries": 50, "retry_budget": None}
    with ServerProcess("--latency", "0.05") as server:
        base_url = server.base_url
        limits = {"requests_per_minute": 60 * PER_SECOND, "burst": BURST, "retry_after": "none"}
        httpx.post(base_url + "/faults", json={"limits": limits}, trust_env=False).raise_for_status()

        def stats():
            return httpx.get(base_url + "/stats", trust_env=False).json()

        embedded = cray.embed(
            ray.data.from_items(rows, override_num_blocks=2 * actors),
            dimensions=128,
            client_options=options | {"base_url": base_url},
            journal=Journal(folder / "journal"),
            limiter=limiter,
            concurrency=actors,
            batch_size=25,
            num_cpus=0.01,
        )
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(embedded.take_all)
            while stats()["documents"] < COUNT // 5 and not result.done():
                time.sleep(0.1)
            event = max(map(int, stats()["by_second"]))
            if victim == "an actor":
                os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)
            elif victim == "the limiter":
                os.kill(ray.get(limiter._actor.pid.remote()), signal.SIGKILL)
            found = sorted(result.result(), key=lambda row: row["number"])
        counts = stats()
        httpx.post(base_url + "/faults", json={}, trust_env=False).raise_for_status()
        with ctxembed.Client(KEY, base_url=base_url) as client:
            expected = client.embed(documents, dimensions=128)

    assert [row["id"] for row in found] == [f"d{number}" for number in range(COUNT)]
    assert [row["error"] for row in found] == [None] * COUNT
    for number, row in enumerate(found):
        assert np.array_equal(np.array([*row["vectors"]], dtype=np.int8), expected[number])
    lost = 8 if victim == "an actor" else 0  # at most what it had in flight
    assert COUNT <= counts["documents"] <= COUNT + 2 * lost

    # While all actors have documents left. Of these seconds the better half counts: in the others a busy machine did
    # something else. The simulations of tests/bench/test_internet_scale.py depend on no machine, and take all of them.
    seconds = [counts["by_second"].get(str(event + number), {}) for number in range(1, 25)]
    accepted = sorted(second.get("200", 0) for second in seconds)
    return statistics.mean(accepted[len(accepted) // 2 :]), counts["by_status"].get("429", 0)
