"""A small judged collection of texts: birds, bread and a language."""

from __future__ import annotations

import random

import ctxembed
from ctxembed._backends.token_estimate import estimate_tokens

from tests.samples import sample_texts

KEY = "pplx-key-for-tests-of-evaluation"
DIMENSIONS = 256


def documents(count=60, seed=11):
    """Return documents of words of real texts, each of one to five chunks."""
    rng = random.Random(seed)
    words = sorted({word for text in sample_texts().values() for word in text.split() if word.isalpha()})[:400]
    return [
        ctxembed.Document(f"doc-{number:03}", [" ".join(rng.choices(words, k=12)) for _ in range(1 + number % 5)])
        for number in range(count)
    ]


def judged(found, count=12, seed=5, *, by_chunk=False):
    """Return queries of some words of a chunk each, and judgements: that chunk, and some that are not relevant."""
    rng = random.Random(seed)
    queries, judgements = {}, {}
    for number in range(count):
        document = rng.choice(found)
        chunk = rng.randrange(len(document.chunks))
        name = f"q{number}"
        queries[name] = f"{number} " + " ".join(rng.sample(document.chunks[chunk].split(), 2))
        judgements[name] = {(document.id, chunk) if by_chunk else document.id: 2}
        for other in rng.sample(found, 3):
            judgements[name].setdefault((other.id, 0) if by_chunk else other.id, rng.randrange(2))
    return queries, judgements


def count_tokens(texts):
    """Count as the local server does."""
    return [estimate_tokens(text) for text in texts]


def client_of(server, **options):
    return ctxembed.Client(KEY, base_url=server.base_url, token_counter=count_tokens, **options)


def collection_of(path, found, client, **options):
    """Return an open collection of documents."""
    made = ctxembed.Collection.create(path, dimensions=DIMENSIONS, **options)
    report = made.ingest(found, client)
    assert (report.added, report.failed) == (len(found), 0)
    return made
