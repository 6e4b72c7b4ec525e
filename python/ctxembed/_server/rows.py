"""The rows of an answer: embedded, written as base64, and spoilt where a fault asks for it."""

from __future__ import annotations

import base64
import random
from typing import TYPE_CHECKING, Any

from ctxembed._server import contract
from ctxembed._server.embedder import embed_documents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctxembed._server.contract import EmbeddingRequest
    from ctxembed._server.faults import Fault

__all__ = ["respond"]

_Chunks = list[tuple[int, str]]


def respond(request: EmbeddingRequest, fault: Fault) -> bytes:
    """Embed a request and write the answer: runs in a worker thread.

    Parameters
    ----------
    request : EmbeddingRequest
        What was asked for.
    fault : Fault
        What is wrong with the answer.
    """
    vectors = embed_documents(
        request.spans(),
        model=request.model.name,
        full_dimensions=request.model.dimensions,
        dimensions=request.dimensions,
        binary=request.binary,
    )
    data, width = vectors.tobytes(), vectors.shape[1]
    texts = iter([data[i : i + width] for i in range(0, len(data), width)])
    if fault.dimensions is not None:
        size = -(-fault.dimensions // 8) if request.binary else fault.dimensions
        texts = iter([text[:size].ljust(size, b"\0") for text in texts])
    rows = [
        (document, [(chunk, base64.b64encode(next(texts)).decode("ascii")) for chunk in range(len(chunks))])
        for document, chunks in enumerate(request.documents)
    ]
    if fault.alters_rows:
        _alter(rows, fault)
    return contract.render_response(request, rows, model=fault.model, omit=fault.omit)


def _alter(rows: list[tuple[int, _Chunks]], fault: Fault) -> None:
    def at(document: int) -> int:
        return min(document, len(rows) - 1)

    def find(position: tuple[int, int]) -> tuple[_Chunks, int]:
        chunks = rows[at(position[0])][1]
        return chunks, min(position[1], len(chunks) - 1)

    if fault.corrupt_chunk is not None:
        chunks, place = find(fault.corrupt_chunk)
        number, text = chunks[place]
        chunks[place] = number, text[: len(text) // 2] + "*" + text[len(text) // 2 + 1 :]
    if fault.duplicate_chunk is not None:
        chunks, place = find(fault.duplicate_chunk)
        chunks.insert(place + 1, chunks[place])
    if fault.extra_chunk is not None:
        chunks, place = find((fault.extra_chunk, 2**31))
        number, text = chunks[place]
        chunks.append((number + 1, text))
    if fault.missing_chunk is not None:
        chunks, place = find(fault.missing_chunk)
        del chunks[place]
    if fault.duplicate_document is not None:
        rows.insert(at(fault.duplicate_document) + 1, rows[at(fault.duplicate_document)])
    if fault.missing_document is not None:
        del rows[at(fault.missing_document)]
    if fault.shuffle is not None:
        dice = random.Random(fault.shuffle)  # noqa: S311  # repeatable on purpose
        for _, chunks in rows:
            _reorder(chunks, dice)
        _reorder(rows, dice)


def _reorder(items: list[Any], dice: random.Random) -> None:
    """Shuffle; two or more items never keep their order."""
    before: Sequence[Any] = list(items)
    dice.shuffle(items)
    if items == before:
        items.reverse()
