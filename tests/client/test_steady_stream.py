"""Streams of ingestion jobs: requests that can be predicted, and the admission of each request."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections import Counter

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import TokenCounter
from ctxembed._client import AsyncClient, Client
from ctxembed._client.dispatch import NotAdmittedError, affects_all
from ctxembed._client.simulation import simulate
from ctxembed._errors import APIConnectionError, status_error

from tests.samples import LARGEST_VOCABULARY, VOCABULARIES

from .conftest import KEY, make_documents, response_body

MODEL = "pplx-embed-context-v1-0.6b"
SMALL = ctxembed.Limits(documents=4)
ARGUMENTS = (MODEL, None, "base64_int8")
OPTIONS = {"on_error": "return", "ordered": False, "progress": None, "deadline": None, "flush_after": None}
KINDS = ["sync", "asyncio", "trio"]


@pytest.fixture(scope="module")
def counter():
    return TokenCounter.from_file(VOCABULARIES[LARGEST_VOCABULARY])


def read_all(kind, documents, client_options, **options):
    """Return the parts of an internal stream."""
    options = {**OPTIONS, **options}
    if kind == "sync":
        with Client(KEY, **client_options) as client:
            return list(client._open_stream(documents, *ARGUMENTS, **options))

    async def main():
        async with AsyncClient(KEY, **client_options) as client:
            return [part async for part in client._open_stream(documents, *ARGUMENTS, **options)]

    return anyio.run(main, backend=kind)


def simulated(client_options, documents, *, ordered=False):
    """Return the first chunk of each document of each request that a steady stream would send."""
    with Client(KEY, **client_options) as client:
        options = {"on_error": "return", "ordered": ordered, "progress": None, "flush_after": None}
        state, _ = client._stream_state(*ARGUMENTS, **options, steady=True)
        return [[chunks[0] for chunks in batch.documents] for batch in simulate(state, documents)]


def uneven_documents(count):
    chooser = random.Random(7)
    words = ["heron", "reeds", "fish", "lake", "owned memory", "garbage"]
    return [
        [
            f"document {number}",
            *(" ".join(chooser.choices(words, k=chooser.randint(1, 120))) for _ in range(number % 5)),
        ]
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_a_simulation_yields_the_requests_of_a_steady_stream(scripted_server, counter, kind, ordered, concurrency):
    received, lock = [], threading.Lock()

    def script(request):
        with lock:
            received.append([chunks[0] for chunks in request["input"]])
        time.sleep(random.random() * 0.02)
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    client = {
        "base_url": scripted_server.base_url,
        "limits": ctxembed.Limits(documents=40, tokens=1500, tokens_per_document=1200),
        "token_counter": counter,
        "max_concurrency": concurrency,
    }
    documents = uneven_documents(400)
    documents[17] = documents[230] = []
    expected = simulated(client, iter(documents), ordered=ordered)
    parts = read_all(kind, iter(documents), client, ordered=ordered, steady=True)
    assert sum(len(part) for part in parts) == 400
    assert len(expected) > 20
    order = {chunks[0]: position for position, chunks in enumerate(documents) if chunks}
    assert sorted(received, key=lambda request: order[request[0]]) == expected


@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_a_steady_stream_holds_few_documents(scripted_server, concurrency):
    read = 0

    def source():
        nonlocal read
        for read in itertools.count(1):  # counted
            yield [f"document {read}"]

    with (
        Client(
            KEY, base_url=scripted_server.base_url, limits=SMALL, max_concurrency=concurrency, max_retries=0
        ) as client,
        client._open_stream(source(), *ARGUMENTS, **OPTIONS, steady=True) as stream,
    ):
        returned = 0
        for part in itertools.islice(stream, 60):
            returned += len(part)
            assert read - returned <= (concurrency + 8) * 4 + 4
            assert stream.in_flight <= concurrency + 5


def test_a_steady_stream_reads_a_slow_source_no_longer_than_a_moment(scripted_server):
    clock = [0.0]

    def source():
        for number in itertools.count():
            clock[0] += 0.02
            yield [f"document {number}"]

    with Client(KEY, base_url=scripted_server.base_url) as client:
        state, _ = client._stream_state(
            *ARGUMENTS, on_error="return", ordered=False, progress=None, flush_after=None, steady=True
        )
    state._clock = type("Clock", (), {"monotonic": staticmethod(lambda: clock[0])})
    documents = source()
    state.feed_from(documents)
    assert next(documents) == ["document 3"]  # three took more than 0.05 seconds
    assert state.wants_document


@pytest.mark.parametrize("kind", KINDS)
def test_equal_documents_do_not_stall_a_steady_stream(scripted_server, kind):
    stored = {}

    class Journal:
        def get(self, keys):
            return {key: stored[key] for key in keys if key in stored}

        def put(self, rows, usage):
            stored.update(rows)

    client = {"base_url": scripted_server.base_url, "limits": SMALL, "max_concurrency": 2, "journal": Journal()}
    documents = [["same"]] * 300 + [["other"]] * 300
    parts = read_all(kind, documents, client, steady=True)
    assert sum(len(part) for part in parts) == 600
    assert sum(len(request["input"]) for request in scripted_server.requests) == 2


def test_a_simulation_raises_what_the_source_raises(scripted_server):
    def source():
        yield from make_documents(9)
        raise LookupError("no more")

    client = {"base_url": scripted_server.base_url, "limits": SMALL}
    with Client(KEY, **client) as one:
        state, _ = one._stream_state(
            *ARGUMENTS, on_error="return", ordered=False, progress=None, flush_after=None, steady=True
        )
        requests = []
        with pytest.raises(LookupError, match="no more"):
            requests.extend(simulate(state, source()))
    assert sum(len(batch.documents) for batch in requests) == 9
    assert scripted_server.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_not_admitted_is_not_sent(scripted_server, kind):
    asked, settled = [], []

    def admit(batch):
        asked.append(batch.positions.tolist())
        return len(asked) <= 3

    client = {"base_url": scripted_server.base_url, "limits": SMALL, "max_concurrency": 1}
    parts = read_all(kind, make_documents(40), client, admit=admit, settled=settled.append)
    failures = [failure for part in parts for failure in part.failures]
    assert len(asked) == 10
    assert len(scripted_server.requests) == len(settled) == 3
    assert len(failures) == 28
    assert all(isinstance(failure.error, NotAdmittedError) and failure.attempts == 0 for failure in failures)
    assert all(outcome.error is None for outcome in settled)


@pytest.mark.parametrize("kind", KINDS)
def test_admission_is_asked_for_each_piece_and_not_for_retries(scripted_server, kind, clock):
    asked, settled, statuses = [], [], Counter()

    def script(request):
        statuses[len(request["input"])] += 1
        if len(request["input"]) > 2:
            return 413, {}, b"no"
        if statuses[2] == 1:
            return 500, {}, b"later"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    client = {"base_url": scripted_server.base_url, "limits": SMALL, "max_concurrency": 1, "clock": clock}

    def admit(batch):
        asked.append(len(batch.documents))
        return True

    parts = read_all(kind, make_documents(4), client, admit=admit, settled=settled.append)
    assert asked == [4, 2, 2]
    assert len(scripted_server.requests) == 4
    assert sorted(len(outcome.batch.documents) for outcome in settled) == [2, 2, 4]
    usage = sum((outcome.usage for outcome in settled), ctxembed.Usage())
    assert usage == sum((part.usage for part in parts), ctxembed.Usage())


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_is_stored_then_settled_then_returned(scripted_server, kind):
    events = []

    class Journal:
        def get(self, keys):
            return {}

        def put(self, rows, usage):
            events.append("put")

    read_all(
        kind,
        make_documents(4),
        {"base_url": scripted_server.base_url, "journal": Journal()},
        admit=lambda batch: events.append("admit") or True,
        settled=lambda outcome: events.append("settled"),
        progress=lambda event: events.append("part"),
    )
    assert events == ["admit", "put", "settled", "part"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["admit", "settled"])
def test_an_exception_of_a_callback_ends_the_stream(scripted_server, kind, name):
    def fail(_):
        raise LookupError("in the callback")

    client = {"base_url": scripted_server.base_url, "limits": SMALL}
    with pytest.raises(LookupError, match="in the callback"):
        read_all(kind, make_documents(40), client, **{name: fail})


def test_a_stream_counts_its_retries(scripted_server, clock):
    responses = iter([500, 500, 200, 200])

    def script(request):
        return next(responses), {}, response_body(request["input"])

    scripted_server.script = script
    with Client(KEY, base_url=scripted_server.base_url, max_concurrency=1, clock=clock) as client:
        stream = client.stream([["a"]])
        assert (stream.in_flight, stream.retries) == (0, 0)
        list(stream)
        assert (stream.in_flight, stream.retries) == (0, 2)


def test_errors_that_affect_all_requests():
    for status in (401, 402, 403, 404):
        assert affects_all(status_error(status, "", {}))
    for status in (400, 408, 409, 413, 422, 429, 500, 503):
        assert not affects_all(status_error(status, "", {}))
    assert affects_all(status_error(422, {"detail": [{"loc": ["body", "model"]}]}, {}))
    assert not affects_all(status_error(422, {"detail": [{"loc": ["body", "input", 0]}]}, {}))
    assert not affects_all(APIConnectionError("reset"))
    assert not affects_all(ctxembed.DocumentError(0, None, "has no chunks", "document"))
    assert not affects_all(NotAdmittedError())


@pytest.mark.parametrize("where", ["thread", "signal handler"])
@pytest.mark.parametrize("waits", ["response", "journal"])
def test_a_stream_can_be_closed_while_its_next_part_is_waited_for(server, control, where, waits):
    stored, started = [], threading.Event()

    class Journal:
        def get(self, keys):
            return {}

        def put(self, rows, usage):
            started.set()
            time.sleep(0.3 if waits == "journal" else 0)
            stored.extend(rows)

    control.faults("none", *[{"delay": 25}] * 99)
    with Client(KEY, base_url=server.base_url, limits=SMALL, max_concurrency=1, journal=Journal()) as client:
        stream = client.stream(make_documents(400))

        def close(*_):
            stream.close()

        def interrupt():
            started.wait()
            if waits == "response":
                control.wait_for_in_flight(1)
            if where == "thread":
                close()
            else:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, close)
        closing = threading.Thread(target=interrupt)
        begun, parts = time.monotonic(), []
        try:
            closing.start()
            parts.extend(stream)
        except ctxembed.ClosedClientError:
            pass
        finally:
            closing.join()
            signal.signal(signal.SIGUSR1, before)
        assert time.monotonic() - begun < 20
        assert len(stored) == 4
        assert sum(len(part) for part in parts) in (0, 4)
        assert next(stream, None) is None


def test_closing_a_stream_at_any_time_never_hangs(server):
    with Client(KEY, base_url=server.base_url, limits=SMALL, max_concurrency=4) as client:
        for number in range(40):
            stream = client.stream(make_documents(60))
            closing = threading.Timer(number * 0.0005, stream.close)
            closing.start()
            try:
                rows = np.concatenate([part.documents for part in stream] or [np.empty(0, np.int64)])
            except ctxembed.ClosedClientError:
                rows = np.empty(0, np.int64)
            closing.join()
            assert len(rows) <= 60
        assert len(client.embed([["a"]])) == 1
