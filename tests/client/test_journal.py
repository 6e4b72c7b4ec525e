"""A journal: known documents are not sent, equal ones once, and what is paid for is stored before it is returned."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import document_key
from ctxembed._client import AsyncClient, Client

from .conftest import KEY, MODEL, make_documents, response_body

SMALL = ctxembed.Limits(documents=4)
ONE = ctxembed.Limits(documents=1)


class MemoryJournal:
    """Keeps rows in memory, and checks that no two of its calls overlap."""

    def __init__(self, delay=0.0):
        self.rows, self.usages, self.asked, self.threads = {}, [], [], set()
        self.started = threading.Event()
        self._delay = delay
        self._busy = False

    def _enter(self):
        assert not self._busy, "two calls at once"
        self._busy = True
        self.threads.add(threading.get_ident())
        time.sleep(self._delay)

    def get(self, keys):
        self._enter()
        self.asked.append(keys)
        found = {key: self.rows[key] for key in keys if key in self.rows}
        self._busy = False
        return found

    def put(self, rows, usage):
        self.started.set()
        self._enter()
        for matrix in rows.values():
            assert matrix.flags.c_contiguous
            assert not matrix.flags.writeable
        assert not self.rows.keys() & rows.keys(), "stored twice"
        self.rows.update(rows)
        self.usages.append(usage)
        self._busy = False


class FullDisk(MemoryJournal):
    def put(self, rows, usage):
        super().put(rows, usage)
        if len(self.usages) == 2:
            raise OSError(28, "No space left on device")


def keys_of(documents, **options):
    return [document_key(document, model=MODEL, **options) for document in documents]


@pytest.fixture
def server_options(server):
    return {"base_url": server.base_url, "limits": SMALL}


@pytest.fixture(params=["embed", "stream", "ordered stream"])
def embed(request, driver):
    """Embed documents by one of the calls that use a journal; return the rows of each, the usage and the failures."""

    def call(documents, **options):
        if request.param == "embed":
            found = driver.embed(documents, **options)
            return list(found), found.usage, {failure.document: failure for failure in found.failures}
        ordered = request.param == "ordered stream"
        parts = driver.stream(documents, ordered=ordered, **options)
        positions = [position for part in parts for position in part.documents.tolist()]
        assert sorted(positions) == list(range(len(documents)))
        assert not ordered or positions == sorted(positions)
        rows = {
            position: vectors for part in parts for position, vectors in zip(part.documents.tolist(), part, strict=True)
        }
        usage = sum((part.usage for part in parts), ctxembed.Usage())
        failures = {failure.document: failure for part in parts for failure in part.failures}
        return [rows[position] for position in range(len(documents))], usage, failures

    return call


def test_an_unknown_document_is_sent_and_stored(embed, driver, server_options, control):
    documents, journal = make_documents(23), MemoryJournal()
    expected = list(driver.embed(documents, _client=server_options))
    control.reset()
    rows, usage, _ = embed(documents, _client={**server_options, "journal": journal})
    for found, wanted, key in zip(rows, expected, keys_of(documents), strict=True):
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(journal.rows[key], wanted)
    assert len(journal.usages) == control.stats()["requests"] == 6
    assert sum(journal.usages, ctxembed.Usage()) == usage
    assert sorted(key for keys in journal.asked for key in keys) == sorted(keys_of(documents))


def test_a_known_document_is_not_sent(embed, server_options, control):
    documents, journal = make_documents(23), MemoryJournal()
    client = {**server_options, "journal": journal}
    expected, _, _ = embed(documents, _client=client)
    control.reset()
    rows, usage, failures = embed(documents, _client=client)
    assert control.stats()["requests"] == 0
    assert (usage, failures) == (ctxembed.Usage(), {})
    for found, wanted in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_only_the_documents_that_are_missing_are_sent(embed, driver, server_options, control):
    documents, journal = make_documents(40), MemoryJournal()
    expected = list(driver.embed(documents, _client=server_options))
    client = {**server_options, "journal": journal}
    embed(documents[::2], _client=client)
    control.reset()
    rows, usage, _ = embed(documents, _client=client)
    assert control.stats()["requests"] == 5  # the gaps between them do not make requests smaller
    assert control.stats()["documents"] == 20
    assert usage.total_tokens == control.stats()["tokens"]
    for found, wanted in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_equal_documents_are_sent_once(embed, driver, server_options, control):
    documents = [[f"text {number % 7}", "chunk"] for number in range(200)]
    expected = list(driver.embed(documents[:7], _client=server_options))
    control.reset()
    rows, usage, _ = embed(documents, _client={**server_options, "journal": MemoryJournal()})
    assert control.stats()["documents"] == 7
    assert usage.total_tokens == control.stats()["tokens"]
    for number, found in enumerate(rows):
        np.testing.assert_array_equal(found, expected[number % 7])


def test_equal_documents_fail_alike(embed, scripted_server):
    def script(request):
        if ["poison"] in request["input"]:
            return 400, {}, b"no"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    journal = MemoryJournal()
    documents = [["good"], ["poison"], ["other"], ["poison"], []]
    client = {"base_url": scripted_server.base_url, "limits": SMALL, "journal": journal}
    rows, _, failures = embed(documents, on_error="return", _client=client)
    assert [len(found) for found in rows] == [1, 0, 1, 0, 0]
    assert failures.keys() == {1, 3, 4}
    assert failures[1].error is failures[3].error
    assert failures[1].attempts == failures[3].attempts > 1
    assert journal.rows.keys() == set(keys_of([["good"], ["other"]]))


def test_each_piece_of_a_split_request_is_stored_once(embed, scripted_server):
    def script(request):
        if len(request["input"]) > 2:
            return 413, {}, b"no"
        return 200, {}, response_body(request["input"])

    scripted_server.script = script
    journal, documents = MemoryJournal(), make_documents(8)
    client = {"base_url": scripted_server.base_url, "limits": SMALL, "journal": journal}
    _, usage, _ = embed(documents, _client=client)
    assert journal.rows.keys() == set(keys_of(documents))
    assert len(journal.usages) == 4
    assert sum(journal.usages, ctxembed.Usage()) == usage


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_keys_and_rows_are_those_of_the_dimensions_and_format(embed, server_options, control, encoding_format):
    options = {"dimensions": 256, "encoding_format": encoding_format}
    journal, documents = MemoryJournal(), make_documents(5)
    client = {**server_options, "journal": journal}
    first, _, _ = embed(documents, **options, _client=client)
    assert journal.rows.keys() == set(keys_of(documents, **options))
    control.reset()
    rows, _, _ = embed(documents, **options, _client=client)
    assert control.stats()["requests"] == 0
    for found, wanted in zip(rows, first, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    embed(documents, _client=client)
    assert control.stats()["requests"] == 2


@pytest.mark.parametrize(
    "rows",
    [np.zeros((3, 1024), np.int8), np.zeros((2, 128), np.int8), np.zeros((2, 1024)), np.zeros(2048, np.int8)],
    ids=["chunks", "width", "dtype", "one dimension"],
)
def test_rows_that_do_not_fit_are_refused_with_the_key_and_both_shapes(embed, server_options, control, rows):
    journal, document = MemoryJournal(), ["a", "b"]
    [key] = keys_of([document])
    journal.rows[key] = rows
    with pytest.raises(ValueError, match=rf"{key.hex()}: expected shape \(2, 1024\) and dtype int8") as caught:
        embed([["c"], document], _client={**server_options, "journal": journal})
    assert f"rows of shape {rows.shape} and dtype {rows.dtype}" in str(caught.value)
    assert control.stats()["requests"] == 0


def test_a_result_of_get_that_is_no_mapping_is_refused(embed, server_options):
    journal = MemoryJournal()
    journal.get = lambda keys: None
    with pytest.raises(TypeError, match="must return a mapping of keys to rows, got NoneType"):
        embed([["a"]], _client={**server_options, "journal": journal})


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_object_without_get_and_put_is_refused(kind):
    with pytest.raises(TypeError, match=r"journal must have get\(\) and put\(\), got dict without put\(\)"):
        kind(KEY, journal={})
    with pytest.raises(TypeError, match=r"got object without get\(\)"):
        kind(KEY).with_options(journal=object())


def test_other_calls_use_no_journal(driver, server_options):
    journal = MemoryJournal()
    client = {**server_options, "journal": journal}
    driver.embed_queries(["a"], _client=client)
    driver.embed_texts(["a"], _client=client)
    driver.create([["a"]], _client=client)
    assert (journal.rows, journal.asked) == ({}, [])


def test_invalid_documents_are_not_looked_up(embed, server_options):
    journal = MemoryJournal()
    client = {**server_options, "journal": journal}
    _, _, failures = embed([[], ["a"], [""]], on_error="return", _client=client)
    assert failures.keys() == {0, 2}
    assert journal.asked == [keys_of([["a"]])]
    with pytest.raises(ctxembed.EmbedError):
        embed([[], [""]], _client=client)
    assert len(journal.asked) == 1


def test_progress_counts_known_and_equal_documents(driver, server_options):
    journal, reports = MemoryJournal(), []
    client = {**server_options, "journal": journal}
    documents = [*make_documents(3), ["same"], ["same"], ["known"], ["known"]]
    driver.embed([["known"]], _client=client)
    driver.embed(documents, progress=reports.append, _client=client)
    assert (reports[-1].documents_done, reports[-1].chunks_done) == (7, sum(map(len, documents)))
    assert (reports[-1].documents_total, reports[-1].chunks_total) == (7, sum(map(len, documents)))


def test_rows_of_a_journal_have_no_known_space(driver, server_options):
    client = {**server_options, "journal": MemoryJournal()}
    first = driver.embed([["a"]], _client=client)
    assert first.space.startswith("stand-in:")
    assert driver.embed([["a"], ["b"]], _client=client).space == first.space
    assert driver.embed([["a"]], _client=client).space is None


def test_rows_are_stored_before_their_part_is_returned(driver, server_options):
    journal = MemoryJournal(delay=0.01)
    documents = make_documents(40)
    keys = keys_of(documents)
    seen = []

    def progress(event):
        seen.append((event.documents_done, len(journal.rows)))

    driver.stream(documents, progress=progress, _client={**server_options, "journal": journal})
    assert seen[-1] == (40, 40)
    assert all(done <= stored for done, stored in seen)
    assert journal.rows.keys() == set(keys)


def test_calls_of_a_journal_never_overlap(server_options):
    journal = MemoryJournal(delay=0.002)

    def run(number):
        documents = [[f"{number}, document {i}"] for i in range(20)]
        options = {**server_options, "limits": ctxembed.Limits(documents=2), "journal": journal}
        if number % 2:

            async def main():
                async with AsyncClient(KEY, **options) as client, anyio.create_task_group() as group:
                    group.start_soon(client.embed, documents[:10])
                    group.start_soon(client.embed, documents[10:])

            anyio.run(main, backend="trio" if number % 4 == 1 else "asyncio")
        else:
            with Client(KEY, **options) as client, client.with_options(max_retries=1) as copy:
                list(client.stream(documents[:10]))
                copy.embed(documents[10:])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert len(journal.rows) == 160


def test_get_is_called_in_the_thread_of_a_sync_call_and_else_in_a_worker_thread(driver, server_options):
    for method in ("embed", "stream"):
        journal = MemoryJournal()
        journal.put = lambda rows, usage: None
        getattr(driver, method)(make_documents(9), _client={**server_options, "journal": journal})
        assert (threading.get_ident() in journal.threads) == (driver.kind == "sync")
        assert len(journal.threads) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_event_loop_goes_on_while_rows_are_stored(server_options, backend):
    journal = MemoryJournal(delay=0.5)

    async def main():
        ticks = 0
        async with AsyncClient(KEY, **server_options, journal=journal) as client, anyio.create_task_group() as group:

            async def tick():
                nonlocal ticks
                while True:
                    await anyio.sleep(0.01)
                    ticks += 1

            group.start_soon(tick)
            await client.embed([["a"]])
            group.cancel_scope.cancel()
        return ticks

    assert anyio.run(main, backend=backend) > 20


def test_an_error_of_put_ends_embed_with_all_that_is_paid(driver, server_options, control):
    control.faults("none", "none", *[{"delay": 25}] * 20)
    journal = FullDisk()
    started = time.monotonic()
    with pytest.raises(OSError, match="No space left") as caught:
        driver.embed(
            make_documents(12), _client={**server_options, "max_concurrency": 1, "limits": SMALL, "journal": journal}
        )
    assert time.monotonic() - started < 20  # requests in flight are cancelled
    partial = caught.value.partial
    assert np.count_nonzero(np.diff(partial.offsets)) == 8
    assert partial.usage.requests == 2


def test_an_error_of_put_ends_a_stream(driver, server_options, control):
    control.faults("none", "none", *[{"delay": 25}] * 20)
    started = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        driver.stream(make_documents(400), _client={**server_options, "max_concurrency": 1, "journal": FullDisk()})
    assert time.monotonic() - started < 20
    assert control.stats()["requests"] <= 3


def test_an_error_of_get_is_raised_as_it_is(driver, server_options, control):
    class Broken(MemoryJournal):
        def get(self, keys):
            raise LookupError("the catalogue is gone")

    for method in ("embed", "stream"):
        with pytest.raises(LookupError, match="the catalogue is gone") as caught:
            getattr(driver, method)(make_documents(9), _client={**server_options, "journal": Broken()})
        assert method == "stream" or len(caught.value.partial.failures) == 9
    assert control.stats()["requests"] == 0


def test_an_error_of_get_cancels_the_requests_of_a_stream(driver, server_options, control):
    control.faults(*[{"delay": 25}] * 99)

    class Broken(MemoryJournal):
        def get(self, keys):
            if self.asked:
                self.asked.append(keys)
                control.wait_for_in_flight(1)
                raise LookupError("the catalogue is gone")
            return super().get(keys)

    started, journal = time.monotonic(), Broken()
    with pytest.raises(LookupError, match="the catalogue is gone"):
        driver.stream(make_documents(400), _client={**server_options, "max_concurrency": 1, "journal": journal})
    assert time.monotonic() - started < 20
    assert len(journal.asked) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("method", ["embed", "stream"])
def test_a_cancelled_call_stores_what_has_arrived(server_options, backend, method):
    journal = MemoryJournal(delay=0.3)
    documents = make_documents(12)

    async def main():
        async with AsyncClient(KEY, **server_options, journal=journal) as client:
            with anyio.CancelScope() as scope:

                async def cancel():
                    await anyio.to_thread.run_sync(journal.started.wait)
                    scope.cancel()

                async with anyio.create_task_group() as group:
                    group.start_soon(cancel)
                    if method == "embed":
                        await client.embed(documents)
                    else:
                        async for _ in client.stream(documents):
                            pass
            stored = len(journal.rows)
        await anyio.sleep(0.5)
        return stored

    stored = anyio.run(main, backend=backend)
    assert stored == len(journal.rows) > 0


@pytest.mark.parametrize("method", ["embed", "stream"])
def test_closing_a_client_waits_for_the_journal(server_options, method):
    journal = MemoryJournal(delay=0.5)
    client = Client(KEY, **server_options, journal=journal)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(lambda: list(getattr(client, method)(make_documents(9))))
        journal.started.wait()
        client.close()
        stored = set(journal.rows)
        assert len(stored) >= 4
        with contextlib.suppress(ctxembed.ClosedClientError):  # or all had arrived
            call.result()
    assert journal.rows.keys() == stored


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_an_async_client_waits_for_the_journal(server_options, backend):
    journal = MemoryJournal(delay=0.3)

    async def main():
        client = AsyncClient(KEY, **server_options, journal=journal)
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, make_documents(3))
            await anyio.to_thread.run_sync(journal.started.wait)
            await client.aclose()
            return len(journal.rows)

    assert anyio.run(main, backend=backend) == 3


def test_a_closed_call_carries_the_rows_that_were_stored(server_options, control):
    control.faults("none", *[{"delay": 25}] * 9)
    journal = MemoryJournal(delay=0.5)
    client = Client(KEY, **server_options, max_concurrency=1, journal=journal)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.embed, make_documents(9))
        journal.started.wait()
        client.close()
        with pytest.raises(ctxembed.ClosedClientError) as caught:
            call.result()
    assert np.count_nonzero(np.diff(caught.value.partial.offsets)) == len(journal.rows) == 4


@pytest.mark.parametrize("seconds", [0.5, 7])
def test_ctrl_c_waits_for_the_journal(server, seconds):
    code = f"""
        import time, ctxembed
        class Journal:
            def get(self, keys):
                return {{}}
            def put(self, rows, usage):
                print("put", flush=True)
                time.sleep({seconds})
                print("stored", flush=True)
        client = ctxembed.Client("key", base_url={server.base_url!r}, journal=Journal())
        try:
            client.embed([["a"], ["b"]])
        except KeyboardInterrupt as interrupt:
            print(len(interrupt.partial.vectors), flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "put\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert out == "stored\n2\n"


FILE_JOURNAL = """
    import os, sys
    from pathlib import Path
    import ctxembed, numpy as np
    from ctxembed import Client

    class FileJournal:
        def __init__(self, folder):
            self.folder = Path(folder)
        def get(self, keys):
            paths = {key: self.folder / f"{key.hex()}.npy" for key in keys}
            return {key: np.load(path) for key, path in paths.items() if path.exists()}
        def put(self, rows, usage):
            for key, matrix in rows.items():
                part = self.folder / "part"
                with part.open("wb") as file:
                    np.save(file, matrix)
                part.rename(self.folder / f"{key.hex()}.npy")
            print("put", flush=True)

    def documents():
        for number in range(200):
            yield [f"document {number}", "second chunk"]
"""


@pytest.mark.parametrize("method", ["embed", "stream"])
def test_a_run_after_a_killed_one_asks_for_nothing_that_was_stored(fresh_server, control_of, tmp_path, method):
    server = fresh_server(latency=0.02)
    control = control_of(server)
    code = textwrap.dedent(FILE_JOURNAL) + textwrap.dedent(f"""
        client = Client("key", base_url={server.base_url!r}, limits=ctxembed.Limits(documents=2),
                        max_concurrency=2, journal=FileJournal({str(tmp_path)!r}))
        found = client.{method}(documents())
        print(sum(len(part) for part in found) if {method!r} == "stream" else len(found), flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(10):
            assert process.stdout.readline() == "put\n"
        process.kill()
    stored = len(list(tmp_path.glob("*.npy")))
    assert 20 <= stored < 200
    control.reset()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "200"
    assert control.stats()["documents"] == 200 - stored
    assert len(list(tmp_path.glob("*.npy"))) == 200


def test_a_journal_works_where_no_thread_can_be_started(server_options, monkeypatch):
    journal, documents = MemoryJournal(), make_documents(9)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def main():
        async with AsyncClient(KEY, **server_options, journal=journal) as client:
            return await client.embed(documents)

    with Client(KEY, **server_options, journal=journal) as client, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert len(client.embed(documents[:5])) == 5
        assert len(list(client.stream(documents[5:]))) > 0
    assert journal.rows.keys() == set(keys_of(documents))
    journal.rows.clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert len(anyio.run(main)) == 9
    assert journal.rows.keys() == set(keys_of(documents))


def test_documents_held_by_a_slow_source_are_sent_in_time_with_a_journal(server_options):
    sent = anyio.Event()

    async def source():
        yield ["a"]
        yield ["a"]
        await sent.wait()
        yield ["b"]

    async def main():
        async with AsyncClient(KEY, **server_options, journal=MemoryJournal()) as client:
            count = 0
            async for part in client.stream(source(), flush_after=0.05):
                count += len(part)
                sent.set()
        return count

    assert anyio.run(main) == 3


def test_more_equal_documents_than_a_stream_holds(driver, server_options, control):
    documents = [["same"]] * 500
    parts = driver.stream(documents, _client={**server_options, "max_concurrency": 1, "journal": MemoryJournal()})
    assert sum(len(part) for part in parts) == 500
    assert control.stats()["documents"] == 1


def test_a_retried_request_is_stored_with_the_usage_of_all_attempts(driver, server_options, control, clock):
    control.faults("corrupt-chunk")
    journal = MemoryJournal()
    found = driver.embed([["a"]], _client={**server_options, "journal": journal}, _clock=clock)
    assert journal.usages == [found.usage]
    assert found.usage.requests == 2
    assert found.usage.cost_usd > Decimal(0)
