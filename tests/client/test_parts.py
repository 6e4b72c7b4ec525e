"""The pieces without I/O: request bytes, rates, delays, places, splits."""

from __future__ import annotations

import json

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import _core
from ctxembed._client._policy.clock import Clock
from ctxembed._client._policy.concurrency import ConcurrencyLimiter
from ctxembed._client._policy.pacing import Pacing
from ctxembed._client._policy.rate_limiter import Bucket, RateLimiter
from ctxembed._client._policy.retry import RetryPolicy, retry_after
from ctxembed._client._runtime import current_event_loop
from ctxembed._client.batches import Batch
from ctxembed._client.endpoint import RequestTemplate, read_usage, refused_documents
from ctxembed._planning.prepare import prepare, prepare_one
from hypothesis import given
from hypothesis import strategies as st

from .conftest import FakeClock, documents_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text(
    st.sampled_from('"\\\n\r\t\b\x00\x1d\x1e\x1f/a é😀'), min_size=1
)


# Request bytes


def body_of(documents, dimensions=None):
    return RequestTemplate.create(
        "/v1/contextualizedembeddings", "pplx-embed-context-v1-0.6b", dimensions, "base64_int8"
    ).body(documents)


def dumped(documents):
    options = {"model": "pplx-embed-context-v1-0.6b", "encoding_format": "base64_int8"}
    return json.dumps({"input": documents, **options}, ensure_ascii=False, separators=(",", ":")).encode()


@given(st.lists(st.lists(TEXT, min_size=1), min_size=1))
def test_a_body_is_compact_json_in_utf_8(documents):
    assert body_of(documents) == dumped(documents)


def test_every_character_travels():
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    documents = [["".join(characters)], ["x" * i + character for i, character in enumerate(characters[:300])]]
    assert body_of(documents) == dumped(documents)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200])
def test_an_escape_is_written_wherever_it_stands(length):
    documents = [
        ["a" * at + escape + "b" * (length - at) for at in range(length + 1)] for escape in '"\\\n\x00\x1f\x7f'
    ]
    assert body_of(documents) == dumped(documents)


@pytest.mark.parametrize("documents", [[["a"], "b"], [("a",)], [["a", 3]], (["a"],), None])
def test_what_is_no_list_of_lists_of_str_has_no_body(documents):
    with pytest.raises(TypeError):
        _core.encode_request(documents, b"}")


@given(st.lists(TEXT, min_size=1), st.integers(128, 1024) | st.none())
def test_a_body_is_what_was_asked_for(texts, dimensions):
    flat = RequestTemplate.create("/v1/embeddings", "pplx-embed-v1-0.6b", dimensions, "base64_int8")
    expected = {"input": texts, "model": "pplx-embed-v1-0.6b", "encoding_format": "base64_int8"}
    if dimensions is not None:
        expected["dimensions"] = dimensions
    assert json.loads(flat.body([[text] for text in texts])) == expected


def test_a_lone_surrogate_cannot_be_sent():
    with pytest.raises(UnicodeEncodeError):
        body_of([["fine", "\ud800"]])


def test_the_max_response_size_leaves_room_for_indented_json():
    call = RequestTemplate.create("/v1/contextualizedembeddings", "pplx-embed-context-v1-0.6b", None, "base64_int8")
    row = {"object": "embedding", "index": 15_999, "embedding": "A" * 1368}
    documents = [{"object": "list", "index": 511, "data": [row] * 30} for _ in range(512)]
    for indent in (None, 2, 8):
        assert len(json.dumps({"data": documents}, indent=indent)) < call.max_response_size(512, 512 * 30)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage": {"prompt_tokens": 3, "total_tokens": 4, "cost": {"total_cost": 8E-8}}}', (3, 4, "8E-8", 1)),
        (b'{"usage": {"total_tokens": "4", "prompt_tokens": true}}', (None, None, None, 1)),
        (b'{"usage": {"cost": null}}', (None, None, None, 1)),
        (b'{"usage": {"cost": {"total_cost": 1, "currency": "EUR"}}}', (None, None, None, 1)),
        (b'{"usage": null}', (None, None, None, 0)),
        (b"[]", (None, None, None, 0)),
        (b"garbage \xff", (None, None, None, 0)),
        (b'{"usage": {"cost": {"total_cost": NaN}}}', (None, None, None, 1)),
        (b"[" * 100_000, (None, None, None, 0)),
    ],
)
def test_the_cost_of_a_useless_answer_is_read_as_far_as_it_can_be(body, expected):
    usage = read_usage(body)
    cost = None if usage.cost_usd is None else str(usage.cost_usd)
    assert (usage.prompt_tokens, usage.total_tokens, cost, usage.requests) == expected


# Single requests


def test_a_single_request_is_checked_as_any_other():
    documents = documents_of(30)
    sent = prepare_one(documents, ctxembed.Limits(), b"}")
    whole = prepare(documents)
    assert sent.documents == whole.documents
    assert sent.chunk_counts == whole.chunk_counts.tolist()
    assert sent.tokens_upper == whole.tokens_upper.tolist()
    assert sent.body == _core.encode_request(documents, b"}")


@pytest.mark.parametrize(
    "documents", [[["a", ""]], [["a"], []], [["<|endoftext|>"]], [["\ud800"]], [["word " * 10_000]], [["a"] * 16_001]]
)
def test_what_only_a_closer_look_can_tell_is_left_to_that(documents):
    assert prepare_one(documents, ctxembed.Limits(), b"}") is None


def test_documents_that_change_under_way_are_sent_as_they_were(driver, server):
    documents, changed = documents_of(5), []

    def change(event):
        documents[0].append("another")
        documents.append(["another"])
        changed.append(event)

    emb = driver.create(documents, _client={"base_url": server.base_url, "on_request": change})
    assert changed
    assert np.diff(emb.offsets).tolist() == [len(document) for document in documents_of(5)]


@pytest.mark.parametrize("documents", [[["a"], "b"], [["a"], 3], [["a"], ["b", 3]]])
def test_positions_in_messages_count_from_the_first_document(documents):
    with pytest.raises(TypeError, match="document 101"):
        prepare(documents, first_document=100)


# Refusals


def refusal(*places):
    detail = [{"loc": list(place), "msg": "no", "type": "value_error"} for place in places]
    return ctxembed.UnprocessableEntityError("no", 422, {"detail": detail})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refusal(("body", "input", 3)), [3]),
        (refusal(("body", "input", 3, 0), ("body", "input", 1), ("body", "input", 3)), [1, 3]),
        (refusal(("body", "input")), []),
        (refusal(("body", "input", 99)), []),
        (refusal(("body", "input", True)), []),
        (refusal(("body", "model")), None),
        (refusal(("body", "model"), ("body", "input", 2)), [2]),
        (refusal(("body",)), []),
        (ctxembed.BadRequestError("no", 400, "text"), []),
        (ctxembed.BadRequestError("no", 400, {"detail": "text"}), []),
        (ctxembed.BadRequestError("no", 400, {"detail": [3, None, {"loc": 3}]}), []),
        (ctxembed.BadRequestError("no", 400, None), []),
    ],
)
def test_a_refusal_names_documents_or_something_all_share_or_nothing(error, expected):
    assert refused_documents(error, 8) == expected


@given(st.integers(2, 60), st.data())
def test_the_pieces_of_a_split_are_the_whole(n, data):
    named = sorted(data.draw(st.sets(st.integers(0, n - 1), max_size=5)))
    batch = Batch(documents_of(n), np.arange(100, 100 + n), data.draw(st.integers(0, 10_000)), root=3)
    pieces = batch.split(named, attempts=2)
    assert [document for piece in pieces for document in piece.documents] == batch.documents
    assert np.concatenate([piece.positions for piece in pieces]).tolist() == batch.positions.tolist()
    assert sum(piece.tokens for piece in pieces) == batch.tokens
    assert all(0 < len(piece.documents) < n for piece in pieces)
    assert {(piece.root, piece.attempts) for piece in pieces} == {(3, 2)}
    for position in named:
        assert any(piece.positions.tolist() == [100 + position] for piece in pieces)


# Delays


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("Thu Jan  1 00:02:00 1970", 20.0),
        ("-1", None),
        ("1e3", None),
        ("inf", None),
        ("\u0661", None),
        ("", None),
        ("tomorrow", None),
    ],
)
def test_retry_after_is_read(value, expected):
    assert retry_after({"retry-after": value}, now=100.0) == expected


def test_no_header_is_no_time():
    assert retry_after({}, now=0.0) is None


@given(st.integers(0, 2000), st.floats(0, 1))
def test_a_delay_is_never_longer_than_the_longest(retries, chance):
    clock = Clock(random=lambda: chance)
    delay = RetryPolicy(max_retries=10_000).delay(ctxembed.APITimeoutError("late"), retries, None, clock)
    assert 0 <= delay <= min(20.0, 0.5 * 2.0 ** min(retries, 64))


@pytest.mark.parametrize(
    "error",
    [
        ctxembed.BadRequestError("no", 400),
        ctxembed.AuthenticationError("no", 401),
        ctxembed.DecodeError("no", "json", 0),
    ],
)
def test_what_would_fail_again_is_not_tried_again(error):
    assert RetryPolicy(max_retries=4).delay(error, 0, None, Clock()) is None


# Rates


@given(st.floats(1, 1e6), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 5)), min_size=1, max_size=60))
def test_no_minute_exceeds_the_rate_by_more_than_a_second_and_the_last_start(rate, arrivals):
    bucket, now, starts = Bucket(rate), 0.0, []
    for gap, units in arrivals:
        now = bucket.earliest_start(now + gap)
        bucket.take(units, now)
        starts.append((now, units))
    for first, _ in starts:
        inside = [units for at, units in starts if first <= at < first + 60]
        assert sum(inside[:-1]) <= (rate + rate / 60) * (1 + 1e-9)


def test_what_was_not_used_is_given_back():
    bucket = Bucket(60)
    bucket.take(10, 0.0)
    assert bucket.earliest_start(0.0) == 10.0
    bucket.give_back(7)
    assert bucket.earliest_start(0.0) == 3.0


@pytest.mark.parametrize("option", ["requests_per_minute", "tokens_per_minute"])
def test_requests_are_spaced_after_a_burst_of_a_second(driver, server, control, option):
    clock = FakeClock()
    rate = {"requests_per_minute": 120, "tokens_per_minute": 6_000}[option]
    client = {"base_url": server.base_url, "limits": ctxembed.Limits(documents=1), "max_concurrency": 1, option: rate}
    client["token_counter"] = lambda texts: [150 for _ in texts]
    driver.embed([["a"]] * 5, _client=client, _clock=clock)
    if option == "requests_per_minute":
        assert clock.slept == [0.5] * 3
    else:
        # Each would hold the next for half a second beyond the burst; what the API counts instead of 150 lets them go.
        assert sum(clock.slept) < 0.5


def test_a_cancelled_wait_reserves_nothing():
    async def main():
        concurrency = ConcurrencyLimiter(1, current_event_loop)
        limiter, clock = RateLimiter(), Clock(monotonic=lambda: 0.0)
        pacing = Pacing(limiter, concurrency, requests_per_minute=60, tokens_per_minute=None, clock=clock)
        assert await pacing.wait(1)
        with anyio.move_on_after(0.01) as scope:
            await pacing.wait(1)
        assert scope.cancelled_caught
        return limiter.reserve(1, limiter.bucket("requests", 60), None, 0.0)

    assert anyio.run(main) == 1.0


# Concurrency


def limited(maximum, actions):
    """Run ``actions(limiter, group)`` and return the limiter."""

    async def main():
        limiter = ConcurrencyLimiter(maximum, current_event_loop)
        async with anyio.create_task_group() as group:
            await actions(limiter, group)
        return limiter

    return anyio.run(main)


def test_slots_are_given_in_order_and_urgent_requests_go_first():
    entered = []

    async def actions(limiter, group):
        async def use(name, first):
            await limiter.acquire(first=first)
            entered.append(name)
            limiter.release()

        await limiter.acquire()
        for name, first in [("a", False), ("b", False), ("urgent", True)]:
            group.start_soon(use, name, first)
        await anyio.wait_all_tasks_blocked()
        assert entered == []
        limiter.release()

    limited(1, actions)
    assert entered == ["urgent", "a", "b"]


def test_a_cancelled_wait_loses_no_slot():
    async def actions(limiter, group):
        await limiter.acquire()
        with anyio.move_on_after(0.01):
            await limiter.acquire()
        limiter.release()
        for _ in range(2):
            with anyio.fail_after(1):
                await limiter.acquire()
                limiter.release()

    limited(1, actions)


def test_concurrency_starts_low_and_grows_by_two_with_each_success():
    limiter = ConcurrencyLimiter(8, lambda: None)
    assert limiter.limit == 4
    limiter.increase()
    assert limiter.limit == 6
    limiter.increase()
    limiter.increase()
    assert limiter.limit == 8
    assert [ConcurrencyLimiter(maximum, lambda: None).limit for maximum in (2, 40)] == [2, 20]


def test_an_overload_halves_concurrency_once_and_successes_restore_it():
    limiter = ConcurrencyLimiter(16, lambda: None)
    for _ in range(9):
        limiter.increase()
    limiter.decrease(started=10.0, now=11.0)
    limiter.decrease(started=10.5, now=11.1)
    assert limiter.limit == 8
    limiter.decrease(started=11.5, now=12.0)
    assert limiter.limit == 4
    for _ in range(5):
        limiter.increase()
    assert limiter.limit == 5
    for _ in range(400):
        limiter.increase()
    assert limiter.limit == 16
    for started in range(20, 60):
        limiter.decrease(started=float(started), now=float(started))
    assert limiter.limit == 1


@pytest.mark.parametrize(
    ("status", "retry_after", "halved"), [(429, None, True), (429, 1.0, False), (503, None, True), (503, 1.0, True)]
)
def test_each_refusal_is_answered_by_the_rate_or_by_concurrency(status, retry_after, halved):
    concurrency = ConcurrencyLimiter(16, lambda: None)
    pacing = Pacing(RateLimiter(), concurrency, None, None, Clock(monotonic=lambda: 2.0))
    pacing.record(status, {}, retry_after, 1.0, 2.0)
    assert concurrency.limit == (4 if halved else 8)
    assert pacing.blocked() == (retry_after or 0.0)


def test_fewer_requests_are_in_flight_after_a_429(driver, server, control):
    limits = ctxembed.Limits(documents=1)
    control.faults(*[{"status": 429, "delay": 0.05}] * 8, {"delay": 0.03, "times": 100})
    clock = FakeClock()
    emb = driver.embed(
        documents_of(40), _client={"base_url": server.base_url, "limits": limits, "max_concurrency": 8}, _clock=clock
    )
    assert emb.failures == ()
    assert control.stats()["by_status"]["429"] == 8
