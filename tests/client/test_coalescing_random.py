"""Random calls that share requests of a server which fails at random: rows, failures and usage are exact."""

from __future__ import annotations

import json
import random

import anyio
import ctxembed
import numpy as np
import pytest
from ctxembed import AsyncClient
from ctxembed._client.endpoint import read_usage
from ctxembed._results import NO_USAGE

from .coalescing import WindowClock, flat_body
from .conftest import KEY, response_body, vector_of
from .test_journal import MemoryJournal


class FailingServer:
    """The script of a server that refuses documents with the word "poison", and fails at random.

    ``usage`` and ``discarded`` are what it has reported, ``discarded`` for responses that lack a row.
    """

    def __init__(self, choice):
        self._choice = choice
        self.usage = self.discarded = NO_USAGE

    def __call__(self, request):
        entries = request["input"]
        chance = self._choice.random()
        if chance < 0.1:
            return 500, {}, b""
        if chance < 0.15:
            return 429, {"retry-after": "1"}, b""
        refused = [place for place, entry in enumerate(entries) if "poison" in str(entry)]
        lacks_row = chance < 0.25
        if refused and not lacks_row:
            detail = [{"loc": ["body", "input", refused[0]], "msg": "no", "type": "value_error"}]
            return 422, {}, json.dumps({"detail": detail if self._choice.random() < 0.5 else "no"}).encode()
        body_of = flat_body if request["path"] == "/v1/embeddings" else response_body
        body = body_of(entries[:-1] if lacks_row else entries, request["model"])
        found = read_usage(body.decode())
        self.usage += found
        if lacks_row:
            self.discarded += found
        return 200, {}, body


def random_call(choice, poison, number):
    """Return the method of a call, its argument, and its documents."""

    def text(place):
        return f"{'poison' if choice.random() < poison else 'text'} {number} {place}"

    method = choice.choice(["embed", "embed_queries", "embed_texts"])
    texts = [text(place) for place in range(choice.choice([1, 1, 1, 2, 3, 4]))]
    if method != "embed":
        return method, texts, [[text] for text in texts]
    documents = [[text, *(f"chunk {number} {chunk}" for chunk in range(choice.randrange(3)))] for text in texts]
    return method, documents, documents


@pytest.mark.parametrize("seed", range(8))
def test_random_calls_and_failures(scripted_server, seed):
    choice = random.Random(seed)
    scripted_server.script = server = FailingServer(choice)
    poison = choice.choice([0, 0.02, 0.3, 1])
    usages = []
    options = {
        "base_url": scripted_server.base_url,
        "coalesce": choice.choice([0.001, 0.02]),
        "limits": ctxembed.Limits(documents=choice.choice([3, 10, 50]), chunks=60),
        "max_concurrency": choice.choice([1, 2, 8]),
        "max_retries": 20,
        "retry_budget": 1.0,
        "journal": choice.choice([None, MemoryJournal()]),
        "clock": WindowClock(),
    }

    async def call(client, number):
        await anyio.sleep(choice.uniform(0, 0.1))
        method, argument, documents = random_call(choice, poison, number)
        try:
            emb = await getattr(client, method)(argument)
        except ctxembed.EmbedError as error:
            emb = error.partial
        usages.append(emb.usage)
        failed = [place for place, document in enumerate(documents) if "poison" in document[0]]
        assert [failure.document for failure in emb.failures] == failed
        for place, document in enumerate(documents):
            if place not in failed:
                np.testing.assert_array_equal(emb[place], np.stack([vector_of(chunk) for chunk in document]))

    async def main():
        async with AsyncClient(f"{KEY}-{seed}", **options) as client:
            async with anyio.create_task_group() as group:
                for number in range(60):
                    group.start_soon(call, client, number)
            assert client._state.pacing.concurrency._in_flight == 0
            assert not client._coalescer._open
            assert not client._coalescer._unsent

    anyio.run(main, backend=choice.choice(["asyncio", "trio"]))
    total = sum(usages, NO_USAGE)
    discarded = total.discarded or NO_USAGE
    for found, expected in ((total, server.usage), (discarded, server.discarded)):
        assert (found.total_tokens, found.cost_usd, found.requests) == (
            expected.total_tokens,
            expected.cost_usd,
            expected.requests,
        )
