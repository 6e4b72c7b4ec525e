"""The arithmetic of a shared limiter, on a clock of numbers."""

from __future__ import annotations

import math

import pytest
from ctxembed._client._policy.own_pace import OwnPace
from ctxembed._client._policy.reservations import OUTCOMES, Ending, Reservations
from hypothesis import given
from hypothesis import strategies as st


def started(reservations, now):
    return [grant.ticket for grant in reservations.grant(now)[0]]


def test_starts_come_in_the_order_of_asking_whoever_asks():
    reservations = Reservations(requests_per_minute=60)
    for ticket in range(3):
        reservations.ask(f"process {ticket % 2}", 1, 0, ticket)
    assert [started(reservations, now) for now in (5.0, 5.5, 6.0, 7.0)] == [[0], [], [1], [2]]


def test_a_place_that_is_given_up_goes_to_the_next():
    reservations = Reservations(requests_per_minute=60)
    for ticket in "abc":
        reservations.ask(ticket, 1, 0, ticket)
    assert started(reservations, 0.0) == ["a"]
    assert reservations.cancel("b")
    assert not reservations.cancel("a")
    assert started(reservations, 1.0) == ["c"]


def test_places_of_a_process_that_has_gone_are_forgotten():
    reservations = Reservations(requests_per_minute=60)
    for ticket in range(5):
        reservations.ask("killed" if ticket < 4 else "alive", 1, 0, ticket)
    assert started(reservations, 0.0) == [0]
    reservations.release("killed")
    assert started(reservations, 1.0) == [4]


def test_an_unused_start_is_given_back():
    reservations = Reservations(requests_per_minute=60)
    reservations.ask("a", 1, 0, 1)
    reservations.ask("a", 1, 0, 2)
    assert started(reservations, 0.0) == [1]
    reservations.settle("a", Ending("unused", 0.0), 0.0)
    assert started(reservations, 0.0) == [2]


def test_a_start_that_nobody_took_gives_nothing_back():
    reservations = Reservations(requests_per_minute=60)
    reservations.settle("a", Ending("unused", 0.0), 0.0)
    for ticket in range(2):
        reservations.ask("a", 1, 0, ticket)
    assert started(reservations, 0.0) == [0]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=40), st.randoms())
def test_every_token_is_counted_once_in_whatever_order_requests_end(requests, random):
    reservations, now = Reservations(tokens_per_minute=600, slow_start=False), 0.0
    for reserved, _ in requests:
        while not (found := reservations.try_start("a", 1, reserved, now))[0]:
            now += found[1]
    before = reservations._token_bucket.earliest_start(-math.inf)
    endings = [actual for _, actual in requests]
    random.shuffle(endings)
    for actual in endings:
        reservations.settle("a", Ending("accepted", 0.0, None, actual), now)
    difference = sum(reserved for reserved, _ in requests) - sum(endings)
    assert reservations._token_bucket.earliest_start(-math.inf) == pytest.approx(before - difference / 10, abs=1e-6)


def test_few_requests_are_in_flight_before_one_was_accepted():
    reservations = Reservations()
    for ticket in range(100):
        reservations.ask(ticket, 1, 0, ticket)
    assert len(started(reservations, 0.0)) == 4
    for _ in range(2):
        reservations.settle(0, Ending("accepted", 1.0), 1.0)
    assert len(started(reservations, 1.0)) == 3  # the window is 6, and 3 of process 1 to 3 are in flight


def test_a_process_that_settles_nothing_does_not_stop_the_others():
    reservations = Reservations()
    for ticket in range(10):
        reservations.ask("silent", 1, 0, ticket)
    granted, seconds = reservations.grant(0.0)
    assert (len(granted), seconds) == (4, 10.0)
    assert [len(started(reservations, 10.0 * n)) for n in (1, 2, 3)] == [1, 1, 1]


def test_requests_in_flight_of_a_killed_process_do_not_count():
    reservations = Reservations()
    for ticket in range(5):
        reservations.ask("killed", 1, 0, ticket)
    reservations.ask("alive", 1, 0, "next")
    assert len(started(reservations, 0.0)) == 4
    reservations.release("killed")
    assert started(reservations, 0.0) == ["next"]


def test_a_long_block_is_told_and_not_waited_for():
    reservations = Reservations()
    reservations.ask("a", 1, 0, 0)
    reservations.grant(0.0)
    reservations.settle("a", Ending("refused", 0.1, 3600.0), 1.0)
    reservations.ask("b", 1, 0, 1)
    [grant], _ = reservations.grant(11.0)
    assert grant.seconds == 3590.0


def test_a_short_block_is_waited_for():
    reservations = Reservations()
    reservations.ask("a", 1, 0, 0)
    reservations.grant(0.0)
    reservations.settle("a", Ending("unavailable", 0.1, 2.0), 1.0)
    reservations.ask("b", 1, 0, 1)
    assert reservations.grant(1.5) == ([], 1.5)


def test_paces_of_returning_processes_add_up_to_the_rate():
    reservations = Reservations()
    for number in range(6):
        reservations.add_pace(20 / 6, now=0.1 * number)
    assert reservations._limiter.known_rate(1.0) == pytest.approx(0.95 * 20, rel=0.06)


def test_a_limiter_that_knows_its_rate_takes_no_pace():
    reservations = Reservations()
    reservations.add_pace(10, now=0.0)
    before = reservations._limiter.known_rate(30.0)
    reservations.add_pace(10, now=30.0)
    assert reservations._limiter.known_rate(30.0) == before


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (Ending("ok", 0.0), "outcome must be one of accepted, refused"),
        (Ending(["accepted"], 0.0), "outcome must be one of"),
        (Ending("accepted", -1.0), "age must be a finite number from 0, got -1.0"),
        (Ending("accepted", math.nan), "age must be"),
        (Ending("accepted", True), "age must be"),
        (Ending("refused", 0.0, math.inf), "retry_after must be"),
        (Ending("accepted", 0.0, None, -1), "actual_tokens must be an int from 0"),
        (Ending("accepted", 0.0, None, 1.5), "actual_tokens must be an int from 0"),
    ],
)
def test_endings_that_cannot_be_are_refused(ending, message):
    with pytest.raises(ValueError, match=message):
        Reservations().settle("a", ending, 0.0)


@pytest.mark.parametrize(("requests", "tokens"), [(0, 1), (1, -1), (True, 1), (1, 1.0), ("1", 1), (2**60, 1)])
def test_requests_that_cannot_be_are_refused(requests, tokens):
    with pytest.raises(ValueError, match="must be an int from"):
        Reservations().ask("a", requests, tokens, 0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_holder_that_is_unknown_may_settle(outcome):
    reservations = Reservations(tokens_per_minute=60)
    reservations.settle("after a reconnection", Ending(outcome, 0.5, 1.0, 7), 1.0)
    assert reservations._in_flight == 0


def test_the_own_pace_is_that_of_late():
    pace = OwnPace()
    for number in range(100):
        pace.start(now=0.1 * number, waited=0.4)
    for number in range(100):
        pace.start(now=10 + 0.5 * number, waited=0.4)
    assert pace.last(59.6) == (2.0, 60.0)
    assert pace.last() == (2.0, 60.0)


def test_there_is_no_own_pace_where_nothing_was_held_back():
    pace = OwnPace()
    assert pace.last(1.0) is None
    for number in range(100):
        pace.start(now=0.1 * number, waited=0.001)
    assert pace.last(10.0) is None
