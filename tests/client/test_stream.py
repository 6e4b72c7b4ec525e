"""Streams: order, failures, back-pressure, leaving early, and slow sources."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client, EmbeddingsPart

from .conftest import KEY, make_documents, response_body

SMALL = ctxembed.Limits(documents=4)


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": SMALL}


def rows_by_position(parts):
    """Return the rows of each document, by position in the input."""
    rows = {}
    for part in parts:
        assert isinstance(part, EmbeddingsPart)
        assert part.documents.dtype == np.int64
        assert part.documents.shape == (len(part),)
        for position, vectors in zip(part.documents.tolist(), part, strict=True):
            assert position not in rows
            rows[position] = vectors
    return rows


def test_a_stream_returns_the_same_rows_as_embed(driver, server_options):
    documents = make_documents(67)
    rows = rows_by_position(driver.stream(iter(documents), _client=server_options))
    whole = driver.embed(documents, _client=server_options)
    assert sorted(rows) == list(range(67))
    for position, expected in enumerate(whole):
        np.testing.assert_array_equal(rows[position], expected)


def test_a_stream_fills_its_requests(driver, server_options, control):
    parts = driver.stream(make_documents(67), _client=server_options)
    assert len(parts) == control.stats()["requests"] == 17
    assert sum(part.usage.total_tokens for part in parts) == control.stats()["tokens"]


def test_an_empty_source_sends_no_request(driver, server_options, control):
    assert driver.stream([], _client=server_options) == []
    assert control.stats()["requests"] == 0


def test_parts_are_returned_as_requests_finish(driver, scripted_server):
    responses, others = [], threading.Event()

    def script(request):
        if request["input"][0][0].startswith("document 0,"):
            others.wait()
        return 200, {}, response_body(request["input"])

    def on_response(event):
        responses.append(event)
        if len(responses) == 2:
            others.set()

    scripted_server.script = script
    client = {"base_url": scripted_server.base_url, "limits": SMALL, "on_response": on_response}
    parts = driver.stream(make_documents(12), _client=client)
    assert [0 in part.documents for part in parts] == [False, False, True]


def test_ordered_parts_keep_input_order(driver, server_options, control):
    control.faults({"delay": 0.5}, {"delay": 0.2}, "none", {"delay": 0.1})
    documents = make_documents(31)
    documents[9] = []
    parts = driver.stream(documents, ordered=True, on_error="return", _client=server_options)
    assert np.concatenate([part.documents for part in parts]).tolist() == list(range(31))
    assert [failure.document for part in parts for failure in part.failures] == [9]


def test_ordered_parts_keep_input_order_after_a_split(driver, scripted_server):
    def script(request):
        if any("poison" in chunk for document in request["input"] for chunk in document):
            return 400, {}, b"no"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    documents = make_documents(20)
    documents[6] = ["poison"]
    client = {"base_url": scripted_server.base_url, "limits": SMALL}
    parts = driver.stream(documents, ordered=True, on_error="return", _client=client)
    assert np.concatenate([part.documents for part in parts]).tolist() == list(range(20))
    assert [failure.document for part in parts for failure in part.failures] == [6]


def test_failures_are_in_the_parts_with_on_error_return(driver, server_options, control, clock):
    control.faults({"status": 500, "times": 2})
    documents = make_documents(22)
    documents[5] = ["", "x"]
    parts = driver.stream(
        documents, on_error="return", _client={**server_options, "max_retries": 1, "max_concurrency": 1}, _clock=clock
    )
    failures = {failure.document: failure for part in parts for failure in part.failures}
    rows = rows_by_position(parts)
    assert sorted(rows) == list(range(22))
    assert isinstance(failures[5].error, ctxembed.DocumentError)
    assert len(failures) == 5
    assert all(len(rows[position]) == 0 for position in failures)
    assert all(len(rows[position]) == len(documents[position]) for position in set(rows) - set(failures))


def test_a_failure_is_raised_after_the_parts_before_it(server_options, control):
    control.faults("none", "none", {"status": 403, "times": 9})
    parts = []
    with Client(KEY, **server_options, max_concurrency=1) as client, pytest.raises(ctxembed.EmbedError) as caught:
        parts.extend(client.stream(itertools.repeat(["a"])))
    assert len(parts) == 2
    assert isinstance(caught.value.__cause__, ctxembed.PermissionDeniedError)
    assert {failure.document for failure in caught.value.failures} >= {8, 9, 10, 11}
    assert control.stats()["requests"] == 3
    assert len(caught.value.partial) == 0


def test_an_error_in_the_source_is_raised(driver, server_options):
    def source():
        yield from make_documents(9)
        raise LookupError

    with pytest.raises(LookupError):
        driver.stream(source(), _client=server_options)
    for bad in ("a flat text", b"bytes", 3, None):
        with pytest.raises(TypeError, match="document 9 "):
            driver.stream([*make_documents(9), bad], _client=server_options)
    with pytest.raises(TypeError, match="document 9, chunk 1: must be a str, got int"):
        driver.stream([*make_documents(9), ["a", 3]], _client=server_options)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.stream([*make_documents(9), []], _client=server_options)
    assert isinstance(caught.value.__cause__, ctxembed.DocumentError)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio", "async source"])
def test_documents_before_an_error_in_the_source_are_returned(server_options, kind, ordered):
    def source():
        yield from make_documents(9)
        raise RuntimeError("out of documents")

    async def async_source():
        for document in source():
            yield document

    seen = []

    async def main():
        async with AsyncClient(KEY, **server_options) as client:
            async for part in client.stream(async_source() if kind == "async source" else source(), ordered=ordered):
                seen.extend(part.documents.tolist())

    with pytest.raises(RuntimeError, match="out of documents"):  # noqa: PT012
        if kind == "sync":
            with Client(KEY, **server_options) as client:
                for part in client.stream(source(), ordered=ordered):
                    seen.extend(part.documents.tolist())
        else:
            anyio.run(main, backend="trio" if kind == "trio" else "asyncio")
    assert sorted(seen) == list(range(9))


def test_a_failure_is_raised_in_place_of_an_error_in_the_source(driver, server_options, control):
    def source():
        yield from make_documents(9)
        raise RuntimeError("out of documents")

    control.faults({"status": 403, "times": 9})
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.stream(source(), _client={**server_options, "max_concurrency": 1})
    assert isinstance(caught.value.__cause__, ctxembed.PermissionDeniedError)
    assert isinstance(caught.value.__context__, RuntimeError)


def test_an_outage_does_not_end_a_stream_that_returns_failures(driver, server_options, control):
    control.faults({"status": 403, "times": 2})
    parts = driver.stream(make_documents(200), on_error="return", _client={**server_options, "max_concurrency": 1})
    rows = rows_by_position(parts)
    assert sorted(rows) == list(range(200))
    assert any(part.failures for part in parts)
    assert sum(not part.failures for part in parts) > 20


@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_source_is_read_within_the_bound(driver_kind, server_options, ordered):
    read = itertools.count()
    position = 0

    def source():
        nonlocal position
        for position in read:
            yield [f"text {position}"]

    bound = (2 + 4) * 4  # (max_concurrency + 4) requests of four documents

    def check(parts):
        for delivered, part in enumerate(parts):
            assert position + 1 - 4 * delivered <= bound + 1
            assert len(part) == 4
            if delivered == 20:
                return

    if driver_kind == "sync":
        with Client(KEY, **server_options, max_concurrency=2) as client:
            stream = client.stream(source(), ordered=ordered)
            check(stream)
            stream.close()
        return

    async def main():
        async with AsyncClient(KEY, **server_options, max_concurrency=2) as client:
            stream = client.stream(source(), ordered=ordered)
            delivered = 0
            async for part in stream:
                assert position + 1 - 4 * delivered <= bound + 1
                assert len(part) == 4
                delivered += 1
                if delivered == 20:
                    break
            await stream.aclose()

    anyio.run(main, backend=driver_kind)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def driver_kind(request):
    return request.param


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_source_is_embedded(server_options, backend):
    async def source():
        for document in make_documents(18):
            await anyio.sleep(0.001)
            yield document

    async def main():
        async with AsyncClient(KEY, **server_options) as client:
            return [part async for part in client.stream(source())]

    assert sorted(rows_by_position(anyio.run(main, backend=backend))) == list(range(18))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_part_does_not_wait_for_a_slow_async_source(server_options, backend):
    async def source():
        for document in make_documents(4):
            yield document
        for document in make_documents(4):
            yield document
        await anyio.sleep_forever()

    async def main():
        async with AsyncClient(KEY, **server_options) as client, client.stream(source()) as stream:
            return len(await anext(stream))

    assert anyio.run(main, backend=backend) == 4


# Leaving early


def test_leaving_a_sync_stream_cancels_its_requests_and_leaks_nothing(server_options, control):
    before = threading.active_count()
    control.faults("none", *[{"delay": 20}] * 30)
    with Client(KEY, **server_options, max_concurrency=4) as client:
        for _ in client.stream(itertools.repeat(["a"])):
            control.wait_for_in_flight(4)
            break
        control.wait_until_idle()
        control.faults()
        assert len(client.embed([["still", "works"]])) == 1
    assert threading.active_count() == before


@pytest.mark.parametrize("how", ["close", "with", "raise"])
def test_each_way_to_leave_a_sync_stream_cancels_its_requests(server_options, control, how):
    control.faults("none", *[{"delay": 20}] * 30)

    def leave(client):
        if how == "raise":
            for _ in client.stream(itertools.repeat(["a"])):
                raise LookupError
        stream = client.stream(itertools.repeat(["a"]))
        next(stream)
        control.wait_for_in_flight(4)
        if how == "close":
            stream.close()
            stream.close()
        else:
            with stream:
                pass
        assert list(stream) == []

    with Client(KEY, **server_options, max_concurrency=4) as client:
        if how == "raise":
            with pytest.raises(LookupError) as caught:
                leave(client)
            del caught
            gc.collect()
        else:
            leave(client)
        control.wait_until_idle()


@pytest.mark.parametrize("how", ["break", "aclose", "with", "raise", "cancel"])
def test_each_way_to_leave_an_async_stream_leaves_no_task(server_options, control, how):
    control.faults("none", *[{"delay": 20}] * 40)

    async def consume(client):
        if how == "with":
            async with client.stream(itertools.repeat(["a"])) as stream:
                async for _ in stream:
                    break
        elif how == "aclose":
            stream = client.stream(itertools.repeat(["a"]))
            async for _ in stream:
                break
            await stream.aclose()
            await stream.aclose()
        else:
            count = 0
            async for _ in client.stream(itertools.repeat(["a"])):
                count += 1
                if how == "break":
                    break
                if how == "raise":
                    raise LookupError
                # "cancel": the second part does not arrive

    async def main():
        async with AsyncClient(KEY, **server_options, max_concurrency=4) as client:
            task = asyncio.create_task(consume(client))
            if how == "cancel":
                await asyncio.to_thread(control.wait_for_in_flight, 4)
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == (how == "cancel")
            if how == "raise":
                assert isinstance(task.exception(), LookupError)
            del task
            for _ in range(200):
                if len(asyncio.all_tasks()) == 1:
                    break
                gc.collect()
                await asyncio.sleep(0.005)
            assert len(asyncio.all_tasks()) == 1
            control.faults()
            assert len(await client.embed([["still"], ["works"]])) == 2

    asyncio.run(main())


def test_leaving_a_trio_stream_leaves_no_task(server_options, control):
    import trio

    faults = ("none", *[{"delay": 20}] * 40)
    control.faults(*faults)

    async def main():
        async with AsyncClient(KEY, **server_options, max_concurrency=4) as client:
            before = trio.lowlevel.current_statistics().tasks_living
            async for _ in client.stream(itertools.repeat(["a"])):
                break
            for _ in range(200):
                if trio.lowlevel.current_statistics().tasks_living == before:
                    break
                await trio.sleep(0.005)
            assert trio.lowlevel.current_statistics().tasks_living == before
            control.faults(*faults)
            with trio.CancelScope() as scope:
                async for _ in client.stream(itertools.repeat(["a"]), progress=lambda event: scope.cancel()):
                    pass
            assert scope.cancelled_caught
            assert trio.lowlevel.current_statistics().tasks_living == before

    trio.run(main)


def test_memory_does_not_grow_with_the_stream(server_options):
    import tracemalloc

    with Client(KEY, **server_options) as client:
        stream = client.stream([f"text {i}"] for i in itertools.count())
        sizes = []
        tracemalloc.start()
        try:
            for number, _ in enumerate(stream):
                if number in (50, 250):
                    gc.collect()
                    sizes.append(tracemalloc.get_traced_memory()[0])
                if number == 250:
                    break
        finally:
            tracemalloc.stop()
        stream.close()
    assert sizes[1] < sizes[0] + 300_000


def test_a_stream_reports_progress(driver, server_options):
    events = []
    driver.stream(make_documents(10), progress=events.append, _client=server_options)
    assert [event.requests_done for event in events] == sorted(event.requests_done for event in events)
    assert events[-1].documents_done == events[-1].documents_total == 10
    assert events[-1].requests_total is None
    assert events[-1].chunks_done == sum(map(len, make_documents(10)))

    def stop(event):
        raise LookupError

    with pytest.raises(LookupError):
        driver.stream(make_documents(10), progress=stop, _client=server_options)


# Slow sources


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_flush_after_sends_held_documents_while_the_source_waits(server, backend):
    async def source():
        yield ["a"]
        yield ["b"]
        await anyio.sleep_forever()

    async def main():
        options = {"base_url": server.base_url}
        async with AsyncClient(KEY, **options) as client, client.stream(source(), flush_after=0.2) as stream:
            return (await anext(stream)).documents.tolist()

    assert anyio.run(main, backend=backend) == [0, 1]


def test_flush_after_sends_held_documents_with_the_next_one(driver, server, clock):
    def source():
        for number in range(6):
            clock.advance(1.0)
            yield [str(number)]

    client = {"base_url": server.base_url, "max_concurrency": 1}
    parts = driver.stream(source(), flush_after=1.5, _client=client, _clock=clock)
    assert sorted(position for part in parts for position in part.documents.tolist()) == list(range(6))
    assert [len(part) for part in parts] != [6]
    parts = driver.stream(source(), _client=client, _clock=clock)
    assert [len(part) for part in parts] == [6]
