"""The Rust core, by room. Public names are re-exported by ``ctxembed``; the rest is internal."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctxembed._models import EncodingFormat

__version__: str

def isa_paths() -> list[tuple[str, str]]: ...

# --- codec ---

def decode_response(
    body: bytes | bytearray | memoryview,
    shape: Sequence[int] | NDArray[np.integer[Any]] | None,
    dimensions: int | None,
    encoding_format: EncodingFormat,
    out: NDArray[np.int8] | NDArray[np.uint8] | None,
) -> tuple[
    NDArray[np.int8] | NDArray[np.uint8],
    NDArray[np.int64],
    str | None,
    int,
    tuple[int | None, int | None, str | None] | None,
]: ...
def decode_base64(
    strings: str | Sequence[str], *, dimensions: int | None = None, encoding_format: EncodingFormat = "base64_int8"
) -> NDArray[np.int8] | NDArray[np.uint8]: ...
def encode_base64(vectors: NDArray[np.int8] | NDArray[np.uint8]) -> list[str] | str: ...
def pack_bits(int8_vectors: NDArray[np.int8]) -> NDArray[np.uint8]: ...
def unpack_bits(bits: NDArray[np.uint8], dimensions: int | None = None, dtype: DTypeLike = ...) -> NDArray[Any]: ...
def reverse_bit_order(bits: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
@overload
def truncate(vectors: NDArray[np.int8], dims: int) -> NDArray[np.int8]: ...
@overload
def truncate(vectors: NDArray[np.uint8], dims: int) -> NDArray[np.uint8]: ...
def normalize(int8_vectors: NDArray[np.int8]) -> NDArray[np.float32]: ...
def validate_json(body: bytes | bytearray | memoryview) -> None: ...

# --- similarity and search ---

# --- packing and tokens ---

WINDOW_REQUESTS: int

def pack(
    token_counts: NDArray[np.int64],
    chunk_counts: NDArray[np.int64] | None,
    limits: tuple[int, int, int, int],
    order: str,
    effort: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]: ...
def token_upper_bound(texts: list[str]) -> NDArray[np.int64]: ...
def token_estimate(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
def token_classes(texts: list[str]) -> tuple[list[str], NDArray[np.int64]]: ...
def inspect_chunks(
    chunks: list[str],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, str, int]]]: ...
