"""The page on a billion documents: its arithmetic is that of the code, and its simulation that of the limiter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import ctxembed
import pytest

from benches import internet_scale, simulation

TEXT = internet_scale.PAGE.read_text(encoding="utf-8")


def rows(title):
    """The cells of the rows of a part of the page."""
    part = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(cell):
    return Fraction(cell.split()[0].replace(",", "").rstrip("%"))


def test_the_page_holds_what_the_records_give():
    assert internet_scale.arithmetic() in TEXT, "run `python -m benches.internet_scale --write`"


def test_every_record_that_the_page_names_is_there():
    for name in (internet_scale.SEARCH, internet_scale.LIMITER):
        assert name in TEXT
        assert (internet_scale.RECORDS / name).exists()


def test_requests_and_days_are_computed_again():
    """By hand: 3 x 200 + 2 tokens a document, 120,000 a request."""
    documents = 120_000 // 602
    requests = -(-1_000_000_000 // documents)
    assert f"{requests:,} requests" in TEXT
    for row in rows("Requests and days")[2:]:
        assert number(row[1]) == pytest.approx(requests / float(number(row[0])) / 86_400, abs=0.005)


def test_costs_are_computed_again():
    for row in rows("Cost")[2:]:
        price = ctxembed.get_model(row[0].strip("`")).usd_per_million_tokens
        assert number(row[3]) == pytest.approx(602_000_000_000 * float(price) / 1e6, abs=0.5)


def test_bytes_are_computed_again():
    for row in rows("Bytes")[2:]:
        size = 3_000_000_000 * int(number(row[0]))
        for cell, expected in zip(row[1:], (size, size / 8, 4 * size), strict=True):
            unit = {"TB": 1e12, "GB": 1e9}[cell.split()[1]]
            assert float(number(cell)) * unit == pytest.approx(expected, rel=0.01)


def test_machines_are_computed_again():
    for row in rows("Machines for search")[2:]:
        seconds = float(number(row[1])) / 1000 * 3_000
        assert number(row[3]) == pytest.approx(seconds / (float(number(row[2])) / 1000), rel=0.01, abs=1)


SMALL = replace(simulation.PAGE, workers=20, per_second=20, burst=20, requests=3_000, latency=0.5)
SMALL = replace(SMALL, worker_lives=400, limiter_away=10.0)


def test_a_simulation_gives_the_same_result_each_time():
    small = replace(SMALL, requests=500)
    assert simulation.simulate(small) == simulation.simulate(small)
    assert simulation.simulate(small) != simulation.simulate(replace(small, seed=2))


@pytest.mark.parametrize("retry_after", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_simulated_workers_use_the_rate_whatever_dies(seed, retry_after):
    found = simulation.simulate(replace(SMALL, seed=seed, retry_after=retry_after, limiter_ends=(40.0, 100.0)))
    assert found.deaths > 5
    assert found.rate_used >= 0.85
    assert found.refused <= 0.04 * found.accepted


@pytest.mark.parametrize("seed", range(4))
def test_a_rate_is_learned_where_few_of_many_requests_are_refused(seed):
    """Without a Retry-After, and with so few in flight that never a third of the latest responses are refusals."""
    busy = simulation.Setting(workers=8, concurrency=8, per_second=50, burst=20, requests=3_000, latency=0.05)
    found = simulation.simulate(replace(busy, worker_lives=100, seed=seed))
    assert found.rate_used >= 0.9
    assert found.refused <= 0.02 * 3_000


@pytest.mark.parametrize(("workers", "per_second", "burst"), [(6, 20, 10), (8, 50, 20)])
def test_a_rate_that_was_learned_from_few_requests_is_corrected_soon(workers, per_second, burst):
    """Refusals in quick succession learn it from a handful of requests, and it may be a tenth too low."""
    plain = simulation.Setting(workers, 8, per_second, burst, requests=30 * per_second, latency=0.05)
    for seed in range(40):
        found = simulation.simulate(replace(plain, seed=seed))
        accepted = [count for count, _ in found.by_second[8:24]]
        assert sum(accepted) >= 0.95 * per_second * len(accepted), seed
        assert found.refused <= 2 * 8 * workers


def test_the_simulation_of_the_page_uses_the_rate_and_the_workers_alone_are_refused_much():
    shared, alone = (simulation.simulate(replace(simulation.PAGE, shared=shared)) for shared in (True, False))
    assert shared.rate_used >= 0.9
    assert shared.refused <= 0.02 * shared.accepted
    assert alone.refused >= 0.1 * alone.accepted
    assert alone.seconds > 1.2 * shared.seconds


def test_without_failures_nothing_is_sent_twice():
    plain = simulation.Setting(workers=6, concurrency=8, per_second=20, burst=10, requests=630, latency=0.05)
    found = simulation.simulate(plain)
    assert found.accepted == 630
    assert found.seconds <= 1.05 * 31
