"""The response decoders of ``_core``, typed.

The stub of ``_core`` cannot name :class:`Embeddings`, which is defined above it. The types here do; at run time these
are the objects of ``_core``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, final

    import numpy as np
    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat
    from ctxembed._results import Embeddings

    def decode_response(
        body: bytes | bytearray | memoryview,
        *,
        shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        out: NDArray[np.int8] | NDArray[np.uint8] | None = None,
    ) -> Embeddings: ...

    @final
    class ResponseDecoder:
        def __new__(
            cls,
            *,
            shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
            dimensions: int | None = None,
            encoding_format: EncodingFormat = "base64_int8",
        ) -> ResponseDecoder: ...
        def feed(self, chunk: bytes | bytearray | memoryview) -> None: ...
        def finish(self) -> Embeddings: ...
else:
    from ctxembed._core import ResponseDecoder, decode_response

__all__ = ["ResponseDecoder", "decode_response"]
