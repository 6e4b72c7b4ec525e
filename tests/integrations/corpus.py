"""Fifty documents, their chunks shuffled and interleaved, as every framework's tests get them."""

from __future__ import annotations

import random

MODEL = "pplx-embed-context-v1-0.6b"
DIMENSIONS = 128

DOCUMENTS = {
    f"doc-{number:02}.txt": [
        f"Chunk {chunk} of document {number}: {'the heron waits in the reeds. ' * (1 + (number + chunk) % 4)}".strip()
        for chunk in range(1 + number % 7)
    ]
    for number in range(50)
}
"""Chunks of one to seven documents. Texts repeat across documents, so that no text says which document it is of."""

CHUNKS = [(name, chunk, text) for name, chunks in DOCUMENTS.items() for chunk, text in enumerate(chunks)]


def starts_of(chunks: list[str]) -> list[int]:
    """Return where each chunk starts in a text that has one character between two chunks."""
    starts, position = [], 0
    for chunk in chunks:
        starts.append(position)
        position += len(chunk) + 1
    return starts


def shuffled(seed: int = 0) -> list[tuple[str, int, str]]:
    """Return (document, chunk, text) of all chunks in a random order."""
    chunks = list(CHUNKS)
    random.Random(seed).shuffle(chunks)
    return chunks


def vectors_by_chunk(client, **options) -> dict[tuple[str, int], list[float]]:
    """Return what the client itself gives each chunk."""
    found = client.embed(DOCUMENTS.values(), model=MODEL, **options)
    return {
        (name, chunk): row.tolist()
        for name, rows in zip(DOCUMENTS, found, strict=True)
        for chunk, row in enumerate(rows.astype(float))
    }
