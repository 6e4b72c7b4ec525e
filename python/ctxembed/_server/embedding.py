"""Embeds one request and writes the body of its response."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from ctxembed._server import contract
from ctxembed._server.faults.rows import apply_row_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctxembed._backends.embedder import Embedder
    from ctxembed._server.contract import EmbeddingRequest
    from ctxembed._server.faults import Fault

__all__ = ["response_body"]


def response_body(
    request: EmbeddingRequest, embedder: Embedder, fault: Fault, check: Callable[[], object] | None = None
) -> bytes:
    """Embed a request and return the JSON body of the response. Runs in a worker thread.

    Parameters
    ----------
    request : EmbeddingRequest
        A valid request.
    embedder : Embedder
        Computes the vectors.
    fault : Fault
        What to change in the rows of the response.
    check : callable or None
        Called before each pass of the embedder; what it raises is raised.
    """
    vectors = embedder.embed(
        request.spans(),
        model=request.model.name,
        dimensions=request.dimensions,
        encoding_format=request.encoding_format,
        input_type=request.input_type,
        check=check,
    ).vectors
    data, width = vectors.tobytes(), vectors.shape[1]
    raw_rows = iter([data[start : start + width] for start in range(0, len(data), width)])
    if fault.dimensions is not None:
        size = -(-fault.dimensions // 8) if request.encoding_format == "base64_binary" else fault.dimensions
        raw_rows = iter([row[:size].ljust(size, b"\0") for row in raw_rows])
    rows = [
        (document, [(chunk, base64.b64encode(next(raw_rows)).decode("ascii")) for chunk in range(len(chunks))])
        for document, chunks in enumerate(request.documents)
    ]
    if fault.alters_rows:
        apply_row_faults(rows, fault)
    return contract.render_response(request, rows, model=fault.model, omit=fault.omit)
