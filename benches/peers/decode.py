"""From the body of a response, or base64 strings, to one matrix; and the functions on bits and vectors.

A peer that parses JSON trusts the order of the body. ctxembed also checks that every (document, chunk) occurs once.
"""

from __future__ import annotations

import base64
import mmap
from typing import TYPE_CHECKING, Any

import ctxembed
import msgspec
import numpy as np
import orjson
import pybase64

from benches.cases.decode import official_raw_response
from benches.harness import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benches.cases.decode import BitsCase, BodyCase, ParsedCase, TextsCase, VectorsCase

    Call = Callable[[], Any]


def _matrix(case: BodyCase | TextsCase, rows: Iterable[bytes]) -> np.ndarray:
    """Join decoded rows in one copy, which is faster than numpy.stack over many small arrays."""
    return np.frombuffer(b"".join(rows), dtype=case.dtype).reshape(-1, case.width)


def _b64(text: str) -> bytes:
    # The documentation of pybase64 recommends validate=True: it enables the fast path.
    return pybase64.b64decode(text, validate=True)


# --- bodies ---


def ours(case: BodyCase, _threads: int) -> Call:
    body, shape, encoding = case.body, case.shape, case.encoding
    return lambda: ctxembed.decode_response(body, shape=shape, encoding_format=encoding).vectors


def ours_out(case: BodyCase, _threads: int) -> Call:
    """Decode into the same array at each call, so that the system provides no new pages."""
    body, shape, encoding = case.body, case.shape, case.encoding
    out = np.zeros_like(case.expected)
    return lambda: ctxembed.decode_response(body, shape=shape, encoding_format=encoding, out=out).vectors


def ours_mapped(case: BodyCase, _threads: int) -> Call:
    """Decode into a new anonymous mapping instead of memory from numpy's allocator."""
    body, shape, encoding, expected = case.body, case.shape, case.encoding, case.expected

    def call() -> np.ndarray:
        out = np.frombuffer(mmap.mmap(-1, expected.nbytes), expected.dtype).reshape(expected.shape)
        return ctxembed.decode_response(body, shape=shape, encoding_format=encoding, out=out).vectors

    return call


def official(case: BodyCase, _threads: int) -> Call:
    """Parse with the package's own response model, then decode base64 as its guide shows."""
    raw = official_raw_response(case.body)

    def call() -> np.ndarray:
        # parse() would return the cached result of the call before.
        response = raw._parse()  # noqa: SLF001
        return _matrix(case, (base64.b64decode(c.embedding) for document in response.data for c in document.data))

    return call


def orjson_pybase64(case: BodyCase, _threads: int) -> Call:
    body = case.body

    def call() -> np.ndarray:
        data = orjson.loads(body)["data"]
        return _matrix(case, [_b64(chunk["embedding"]) for document in data for chunk in document["data"]])

    return call


class _Chunk(msgspec.Struct, gc=False):
    index: int
    embedding: bytes  # msgspec decodes base64 for a field of bytes


class _Document(msgspec.Struct, gc=False):
    index: int
    data: list[_Chunk]


class _Response(msgspec.Struct, gc=False):
    data: list[_Document]


def msgspec_bytes(case: BodyCase, _threads: int) -> Call:
    body, decoder = case.body, msgspec.json.Decoder(_Response)

    def call() -> np.ndarray:
        return _matrix(case, [chunk.embedding for document in decoder.decode(body).data for chunk in document.data])

    return call


def pybase64_blob(case: BodyCase, _threads: int) -> Call:
    """Decode all rows from one base64 text without JSON: less work than any response allows."""
    blob = base64.b64encode(case.expected.tobytes())
    return lambda: _matrix(case, [_b64(blob)])


BODY = (
    Peer("ctxembed", ours, "ours"),
    Peer("ctxembed, out=", ours_out, "ours"),
    Peer("msgspec", msgspec_bytes),
    Peer("orjson + pybase64", orjson_pybase64),
    Peer("perplexityai + base64", official),
    Peer("pybase64, one blob, no JSON", pybase64_blob, "reference"),
    Peer("ctxembed, a fresh mapping", ours_mapped, "reference"),
)

# --- strings ---


def ours_texts(case: TextsCase, _threads: int) -> Call:
    texts = case.texts
    return lambda: ctxembed.decode_base64(texts)


def pybase64_texts(case: TextsCase, _threads: int) -> Call:
    texts = case.texts
    return lambda: _matrix(case, [_b64(text) for text in texts])


def stdlib_texts(case: TextsCase, _threads: int) -> Call:
    texts = case.texts
    return lambda: _matrix(case, [base64.b64decode(text) for text in texts])


TEXTS = (
    Peer("ctxembed", ours_texts, "ours"),
    Peer("pybase64", pybase64_texts),
    Peer("base64", stdlib_texts),
)

# --- bits ---


def ours_bits(case: BitsCase, _threads: int) -> Call:
    function = ctxembed.pack_bits if case.packs else ctxembed.unpack_bits
    given = case.given
    return lambda: function(given)


def numpy_bits(case: BitsCase, _threads: int) -> Call:
    given = case.given
    if case.packs:
        return lambda: np.packbits(given >= 0, axis=1, bitorder="little")

    def unpack() -> np.ndarray:
        signs = np.unpackbits(given, axis=1, bitorder="little").view(np.int8)
        signs *= 2  # in place: a second array would double the cost
        signs -= 1
        return signs

    return unpack


def numpy_bits_plain(case: BitsCase, _threads: int) -> Call:
    """The usual code, with one new array per step."""
    given = case.given
    if case.packs:
        return lambda: np.packbits(np.where(given >= 0, 1, 0).astype(np.uint8), axis=1, bitorder="little")
    return lambda: np.unpackbits(given, axis=1, bitorder="little").astype(np.int8) * 2 - 1


def fill(case: BitsCase, _threads: int) -> Call:
    """Write an array of the result's size: the cost of the memory alone."""
    size = case.size["rows"] * case.size["dimensions"]
    return lambda: np.full(size // 8 if case.packs else size, 1, dtype=np.int8)


BITS = (
    Peer("ctxembed", ours_bits, "ours"),
    Peer("numpy, in place", numpy_bits),
    Peer("numpy, a step an array", numpy_bits_plain),
    Peer("fill of the result", fill, "reference"),
)

# --- vectors ---


def ours_vectors(case: VectorsCase, _threads: int) -> Call:
    function, given = getattr(ctxembed, case.function), case.given
    return lambda: function(given)


def numpy_vectors(case: VectorsCase, _threads: int) -> Call:
    given = case.given
    if case.function == "reverse_bit_order":
        return lambda: np.packbits(np.unpackbits(given, axis=1), axis=1, bitorder="little")

    def normalize() -> np.ndarray:
        rows = given.astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    return normalize


def copy(case: VectorsCase, _threads: int) -> Call:
    """Read the vectors and write an array of the result's type: the cost of the memory alone."""
    given = case.given
    return lambda: given.astype(np.float32) if case.function == "normalize" else given.copy()


VECTORS = (
    Peer("ctxembed", ours_vectors, "ours"),
    Peer("numpy", numpy_vectors),
    Peer("copy to the result's type", copy, "reference"),
)

# --- parsed responses ---


def ours_parsed(case: ParsedCase, _threads: int) -> Call:
    parsed = case.parsed
    return lambda: ctxembed.Embeddings.from_response(parsed).vectors


def loop(case: ParsedCase, _threads: int) -> Call:
    """Decode chunk by chunk and stack the rows, as in the vendor's guide."""
    parsed = case.parsed
    if case.official:
        return lambda: np.stack(
            [np.frombuffer(base64.b64decode(c.embedding), np.int8) for document in parsed.data for c in document.data]
        )
    return lambda: np.stack(
        [
            np.frombuffer(base64.b64decode(chunk["embedding"]), np.int8)
            for document in parsed["data"]
            for chunk in document["data"]
        ]
    )


PARSED = (Peer("ctxembed", ours_parsed, "ours"), Peer("base64 + numpy.stack", loop))
