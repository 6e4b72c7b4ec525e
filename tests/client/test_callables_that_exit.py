"""Callables of the caller's that raise more than an ``Exception``: the call ends, and the client goes on."""

from __future__ import annotations

import asyncio

import anyio
import ctxembed
import pytest
from ctxembed import AsyncClient, Client

from .conftest import KEY, make_documents


class Unusual(BaseException):
    pass


RAISED = [SystemExit(3), KeyboardInterrupt("mine"), Unusual("mine")]
CALLABLES = ["api_key", "on_request", "on_response"]
ids = [type(error).__name__ for error in RAISED]


class Callables:
    """Options of a client of which one callable raises, at the third request."""

    def __init__(self, name, error):
        self.calls = 0
        self.error = error
        self.options = {"api_key": self if name == "api_key" else KEY}
        if name != "api_key":
            self.options[name] = self

    def __call__(self, *_):
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return KEY


@pytest.mark.parametrize("hedge", [None, True])
@pytest.mark.parametrize("name", CALLABLES)
@pytest.mark.parametrize("error", RAISED, ids=ids)
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
def test_the_exception_reaches_the_caller_and_the_client_works_on(server, error, name, transport, hedge):
    options = Callables(name, error).options
    limits = ctxembed.Limits(documents=1)
    with Client(
        base_url=server.base_url, transport=transport, limits=limits, max_concurrency=2, hedge=hedge, **options
    ) as client:
        with pytest.raises(type(error)) as caught:
            client.embed(make_documents(9))
        assert caught.value is error
        assert len(error.partial) == 9
        assert len(client.embed(make_documents(9))) == 9
        assert sum(map(len, client.stream(make_documents(9)))) == 9


@pytest.mark.parametrize("error", RAISED, ids=ids)
def test_a_stream_raises_it_and_the_next_one_works(server, error):
    options = Callables("api_key", error).options
    with Client(base_url=server.base_url, limits=ctxembed.Limits(documents=1), **options) as client:
        with pytest.raises(type(error)):
            list(client.stream(make_documents(9)))
        assert sum(map(len, client.stream(make_documents(9)))) == 9
        assert len(client.create([["a"]])) == 1


@pytest.mark.parametrize("call", ["create", "embed_queries", "embed_texts"])
@pytest.mark.parametrize("error", RAISED, ids=ids)
def test_single_requests_raise_it(server, error, call):
    options = Callables("api_key", error)
    options.calls = 2
    with Client(base_url=server.base_url, **options.options) as client:
        arguments = [["a"]] if call == "create" else ["a"]
        with pytest.raises(type(error)):
            getattr(client, call)(arguments)
        assert len(getattr(client, call)(arguments)) == 1


def test_a_callable_that_raises_a_cancellation_loses_no_document(server):
    options = Callables("api_key", asyncio.CancelledError()).options
    limits = ctxembed.Limits(documents=1)
    with Client(base_url=server.base_url, limits=limits, **options) as client:
        with pytest.raises(ctxembed.EmbedError) as caught:
            client.embed([["a"], ["b"], ["c"], ["d"], ["e"]])
        partial = caught.value.partial
        assert {type(failure.error) for failure in partial.failures} == {RuntimeError}
        assert len(partial) == 5
        assert len(partial.vectors) + len(partial.failures) == 5
        assert len(client.embed([["a"], ["b"], ["c"], ["d"], ["e"]])) == 5


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("error", RAISED, ids=ids)
@pytest.mark.parametrize("name", CALLABLES)
def test_the_async_client_raises_it_in_the_callers_task(server, backend, error, name):
    options = Callables(name, error).options

    async def main():
        limits = ctxembed.Limits(documents=1)
        async with AsyncClient(base_url=server.base_url, limits=limits, max_concurrency=2, **options) as client:
            with pytest.raises(type(error)) as caught:
                await client.embed(make_documents(9))
            assert caught.value is error
            assert len(await client.embed(make_documents(9))) == 9
            return sum([len(part) async for part in client.stream(make_documents(9))])

    assert anyio.run(main, backend=backend) == 9


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("error", RAISED, ids=ids)
def test_the_source_of_an_async_stream_may_raise_it(server, backend, error):
    def source():
        yield ["a"]
        raise error

    async def main():
        async with AsyncClient(KEY, base_url=server.base_url) as client:
            with pytest.raises(type(error)) as caught:
                await anext(client.stream(source()))
            assert caught.value is error
            return len(await client.embed(make_documents(2)))

    assert anyio.run(main, backend=backend) == 2
