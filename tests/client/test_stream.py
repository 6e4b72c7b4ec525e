"""Streams: lazy, bounded, complete, and gone when left."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed._client import AsyncClient, Client, EmbeddingsPart

from .conftest import KEY, answer, busy, documents_of

SMALL = ctxembed.Limits(documents=4)


@pytest.fixture
def to(server):
    return {"base_url": server.base_url, "limits": SMALL}


def joined(parts):
    """Rows by position in the input."""
    rows = {}
    for part in parts:
        assert isinstance(part, EmbeddingsPart)
        assert part.documents.dtype == np.int64
        assert part.documents.shape == (len(part),)
        for position, vectors in zip(part.documents.tolist(), part, strict=True):
            assert position not in rows
            rows[position] = vectors
    return rows


def test_a_stream_brings_what_embed_brings(driver, to):
    documents = documents_of(67)
    rows = joined(driver.stream(iter(documents), _client=to))
    whole = driver.embed(documents, _client=to)
    assert sorted(rows) == list(range(67))
    for position, expected in enumerate(whole):
        np.testing.assert_array_equal(rows[position], expected)


def test_full_requests_are_sent(driver, to, control):
    parts = driver.stream(documents_of(67), _client=to)
    assert len(parts) == control.stats()["requests"] == 17
    assert sum(part.usage.total_tokens for part in parts) == control.stats()["tokens"]


def test_nothing_in_is_nothing_out(driver, to, control):
    assert driver.stream([], _client=to) == []
    assert control.stats()["requests"] == 0


def test_parts_come_as_they_land(driver, scripted):
    def script(request):
        if request["input"][0][0].startswith("document 0,"):
            time.sleep(0.5)
        return 200, {}, answer(request["input"])

    scripted.script = script
    parts = driver.stream(documents_of(12), _client={"base_url": scripted.base_url, "limits": SMALL})
    assert [0 in part.documents for part in parts] == [False, False, True]


def test_parts_come_in_order_when_asked(driver, to, control):
    control.faults({"delay": 0.5}, {"delay": 0.2}, "none", {"delay": 0.1})
    documents = documents_of(31)
    documents[9] = []
    parts = driver.stream(documents, ordered=True, on_error="return", _client=to)
    assert np.concatenate([part.documents for part in parts]).tolist() == list(range(31))
    assert [failure.document for part in parts for failure in part.failures] == [9]


def test_order_survives_a_split(driver, scripted):
    def script(request):
        if any("poison" in chunk for document in request["input"] for chunk in document):
            return 400, {}, b"no"
        return 200, {}, answer(request["input"])

    scripted.script = script
    documents = documents_of(20)
    documents[6] = ["poison"]
    client = {"base_url": scripted.base_url, "limits": SMALL}
    parts = driver.stream(documents, ordered=True, on_error="return", _client=client)
    assert np.concatenate([part.documents for part in parts]).tolist() == list(range(20))
    assert [failure.document for part in parts for failure in part.failures] == [6]


def test_failures_come_inside_the_parts_when_asked(driver, to, control, clock):
    control.faults({"status": 500, "times": 2})
    documents = documents_of(22)
    documents[5] = ["", "x"]
    parts = driver.stream(
        documents, on_error="return", _client={**to, "max_retries": 1, "max_concurrency": 1}, _clock=clock
    )
    failures = {failure.document: failure for part in parts for failure in part.failures}
    rows = joined(parts)
    assert sorted(rows) == list(range(22))
    assert isinstance(failures[5].error, ctxembed.DocumentError)
    assert len(failures) == 5
    assert all(len(rows[position]) == 0 for position in failures)
    assert all(len(rows[position]) == len(documents[position]) for position in set(rows) - set(failures))


def test_a_failure_is_raised_after_what_landed_was_handed_out(to, control):
    control.faults("none", "none", {"status": 403, "times": 9})
    landed = []
    with Client(KEY, **to, max_concurrency=1) as client, pytest.raises(ctxembed.EmbedError) as caught:
        landed.extend(client.stream(itertools.repeat(["a"])))
    assert len(landed) == 2
    assert isinstance(caught.value.__cause__, ctxembed.PermissionDeniedError)
    assert {failure.document for failure in caught.value.failures} >= {8, 9, 10, 11}
    assert control.stats()["requests"] == 3
    assert len(caught.value.partial) == 0


def test_a_problem_in_the_source_is_raised_after_what_landed(driver, to):
    class BrokenError(Exception):
        pass

    def source():
        yield from documents_of(9)
        raise BrokenError

    with pytest.raises(BrokenError):
        driver.stream(source(), _client=to)
    for bad in ("a flat text", b"bytes", 3, None):
        with pytest.raises(TypeError, match="document 9 "):
            driver.stream([*documents_of(9), bad], _client=to)
    with pytest.raises(TypeError, match="document 9, chunk 1: must be a str, got int"):
        driver.stream([*documents_of(9), ["a", 3]], _client=to)
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.stream([*documents_of(9), []], _client=to)
    assert isinstance(caught.value.__cause__, ctxembed.DocumentError)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio", "async source"])
def test_what_the_source_gave_before_it_broke_is_embedded_and_handed_out(to, kind, ordered):
    def source():
        yield from documents_of(9)
        raise RuntimeError("out of documents")

    async def async_source():
        for document in source():
            yield document

    seen = []

    async def main():
        async with AsyncClient(KEY, **to) as client:
            async for part in client.stream(async_source() if kind == "async source" else source(), ordered=ordered):
                seen.extend(part.documents.tolist())

    with pytest.raises(RuntimeError, match="out of documents"):  # noqa: PT012
        if kind == "sync":
            with Client(KEY, **to) as client:
                for part in client.stream(source(), ordered=ordered):
                    seen.extend(part.documents.tolist())
        else:
            anyio.run(main, backend="trio" if kind == "trio" else "asyncio")
    assert sorted(seen) == list(range(9))


def test_a_failure_after_the_source_broke_is_what_is_raised(driver, to, control):
    def source():
        yield from documents_of(9)
        raise RuntimeError("out of documents")

    control.faults({"status": 403, "times": 9})
    with pytest.raises(ctxembed.EmbedError) as caught:
        driver.stream(source(), _client={**to, "max_concurrency": 1})
    assert isinstance(caught.value.__cause__, ctxembed.PermissionDeniedError)
    assert isinstance(caught.value.__context__, RuntimeError)


def test_an_outage_does_not_end_a_stream_that_returns_failures(driver, to, control):
    control.faults({"status": 403, "times": 2})
    parts = driver.stream(documents_of(200), on_error="return", _client={**to, "max_concurrency": 1})
    rows = joined(parts)
    assert sorted(rows) == list(range(200))
    assert any(part.failures for part in parts)
    assert sum(not part.failures for part in parts) > 20


@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_source_is_read_no_further_than_needed(driver_kind, to, ordered):
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
        with Client(KEY, **to, max_concurrency=2) as client:
            stream = client.stream(source(), ordered=ordered)
            check(stream)
            stream.close()
        return

    async def main():
        async with AsyncClient(KEY, **to, max_concurrency=2) as client:
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
def test_an_async_source_is_read_as_it_gives(to, backend):
    async def source():
        for document in documents_of(18):
            await anyio.sleep(0.001)
            yield document

    async def main():
        async with AsyncClient(KEY, **to) as client:
            return [part async for part in client.stream(source())]

    assert sorted(joined(anyio.run(main, backend=backend))) == list(range(18))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_part_does_not_wait_for_a_slow_async_source(to, backend):
    async def source():
        for document in documents_of(4):
            yield document
        for document in documents_of(4):
            yield document
        await anyio.sleep(30)

    async def main():
        with anyio.fail_after(10):
            async with AsyncClient(KEY, **to) as client, client.stream(source()) as stream:
                return len(await anext(stream))

    assert anyio.run(main, backend=backend) == 4


# Leaving


def test_leaving_a_sync_stream_cancels_and_leaks_nothing(to, control):
    before = threading.active_count()
    control.faults("none", *[{"delay": 20}] * 30)
    with Client(KEY, **to, max_concurrency=4) as client:
        began = time.monotonic()
        for _ in client.stream(itertools.repeat(["a"])):
            break
        assert time.monotonic() - began < 5
        assert not client._loop._loop.tasks
        assert busy(client) == []
        control.faults()
        assert len(client.embed([["still", "works"]])) == 1
    assert threading.active_count() == before


@pytest.mark.parametrize("how", ["close", "with", "raise"])
def test_every_way_out_of_a_sync_stream_cancels(to, control, how):
    control.faults("none", *[{"delay": 20}] * 30)

    def leave(client):
        if how == "raise":
            for _ in client.stream(itertools.repeat(["a"])):
                raise LookupError
        stream = client.stream(itertools.repeat(["a"]))
        next(stream)
        assert client._loop._loop.tasks
        if how == "close":
            stream.close()
            stream.close()
        else:
            with stream:
                pass
        assert list(stream) == []

    began = time.monotonic()
    with Client(KEY, **to) as client:
        if how == "raise":
            with pytest.raises(LookupError) as caught:
                leave(client)
            del caught
            gc.collect()
        else:
            leave(client)
        assert not client._loop._loop.tasks
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("how", ["break", "aclose", "with", "raise", "cancel"])
def test_every_way_out_of_an_async_stream_leaves_no_task(to, control, how):
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
                # "cancel": waits for the second part

    async def main():
        async with AsyncClient(KEY, **to, max_concurrency=4) as client:
            task = asyncio.create_task(consume(client))
            if how == "cancel":
                await asyncio.sleep(0.5)
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

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 8


def test_leaving_a_trio_stream_leaves_no_task(to, control):
    import trio

    control.faults("none", *[{"delay": 20}] * 40)

    async def main():
        async with AsyncClient(KEY, **to, max_concurrency=4) as client:
            before = trio.lowlevel.current_statistics().tasks_living
            async for _ in client.stream(itertools.repeat(["a"])):
                break
            for _ in range(200):
                if trio.lowlevel.current_statistics().tasks_living == before:
                    break
                await trio.sleep(0.005)
            assert trio.lowlevel.current_statistics().tasks_living == before
            with trio.move_on_after(0.5) as scope:
                async for _ in client.stream(itertools.repeat(["a"])):
                    pass
            assert scope.cancelled_caught
            assert trio.lowlevel.current_statistics().tasks_living == before

    trio.run(main)


def test_memory_does_not_grow_with_the_stream(to):
    import tracemalloc

    with Client(KEY, **to) as client:
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


def test_progress_of_a_stream(driver, to):
    told = []
    driver.stream(documents_of(10), progress=told.append, _client=to)
    assert [progress.requests_done for progress in told] == sorted(progress.requests_done for progress in told)
    assert told[-1].documents_done == told[-1].documents_total == 10
    assert told[-1].requests_total is None
    assert told[-1].chunks_done == sum(map(len, documents_of(10)))

    def stop(progress):
        raise LookupError

    with pytest.raises(LookupError):
        driver.stream(documents_of(10), progress=stop, _client=to)


# Slow sources


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_slow_source_has_given_is_sent_while_it_is_waited_for(server, backend):
    async def slowly():
        yield ["a"]
        yield ["b"]
        await anyio.sleep(20)
        yield ["c"]

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url) as client:
            with anyio.fail_after(8):
                async with client.stream(slowly(), flush_after=0.2) as stream:
                    return (await anext(stream)).documents.tolist()

    assert anyio.run(main, backend=backend) == [0, 1]


def test_what_waits_too_long_is_sent_with_the_next_document(driver, server, clock):
    def slowly():
        for number in range(6):
            clock._now += 1.0
            yield [str(number)]

    client = {"base_url": server.base_url, "max_concurrency": 1}
    parts = driver.stream(slowly(), flush_after=1.5, _client=client, _clock=clock)
    assert sorted(position for part in parts for position in part.documents.tolist()) == list(range(6))
    assert [len(part) for part in parts] != [6]
    parts = driver.stream(slowly(), _client=client, _clock=clock)
    assert [len(part) for part in parts] == [6]
