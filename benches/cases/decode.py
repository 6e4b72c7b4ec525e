"""Response bodies, base64 strings, bits and vectors, with the arrays that they decode to."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

import httpx
import numpy as np
import perplexity

from benches import vectors
from benches.harness import Case, Peer, Verdict

GROUP = "decode"


@cache
def official_raw_response(body: bytes) -> Any:
    """Return the official client's raw response for ``body``, through a mock transport."""

    def respond(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": "application/json"})

    client = perplexity.Perplexity(api_key="none", http_client=httpx.Client(transport=httpx.MockTransport(respond)))
    return client.contextualized_embeddings.with_raw_response.create(
        input=[["text"]], model="pplx-embed-context-v1-0.6b"
    )


def _equal(result: np.ndarray, expected: np.ndarray) -> Verdict:
    same = result.dtype == expected.dtype and result.shape == expected.shape and np.array_equal(result, expected)
    return Verdict(bool(same), "" if same else f"{result.dtype} {result.shape}")


def _texts(rows: np.ndarray) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in rows]


@dataclass(frozen=True, eq=False)
class BodyCase(Case):
    """A response body of documents of equal size."""

    group: ClassVar = GROUP
    table: ClassVar = "response body"
    documents: int
    chunks: int
    dimensions: int = 1024
    encoding: str = "base64_int8"

    @property
    def label(self) -> str:
        chunks = self.documents * self.chunks
        kind = "int8" if self.encoding == "base64_int8" else "bits"
        return f"{chunks:,} chunk{'s' * (chunks > 1)} x {self.dimensions} {kind}"

    @property
    def size(self) -> dict[str, int]:
        chunks = self.documents * self.chunks
        return {"documents": self.documents, "chunks": chunks, "dimensions": self.dimensions, "bytes": len(self.body)}

    @cached_property
    def expected(self) -> np.ndarray:
        make = vectors.int8_vectors if self.encoding == "base64_int8" else vectors.binary_vectors
        return make(1, self.documents * self.chunks, self.dimensions)

    @cached_property
    def body(self) -> bytes:
        texts = iter(_texts(self.expected))
        documents = []
        for document in range(self.documents):
            chunks = ",".join(
                f'{{"object":"embedding","index":{chunk},"embedding":"{next(texts)}"}}' for chunk in range(self.chunks)
            )
            documents.append(f'{{"object":"list","index":{document},"data":[{chunks}]}}')
        usage = (
            '{"prompt_tokens":120000,"total_tokens":120000,'
            '"cost":{"input_cost":0.00096,"total_cost":0.00096,"currency":"USD"}}'
        )
        data = ",".join(documents)
        return f'{{"object":"list","data":[{data}],"model":"pplx-embed-context-v1-0.6b","usage":{usage}}}'.encode()

    @property
    def dtype(self) -> type:
        return np.int8 if self.encoding == "base64_int8" else np.uint8

    @property
    def width(self) -> int:
        return self.expected.shape[1]

    @cached_property
    def shape(self) -> np.ndarray:
        return np.full(self.documents, self.chunks)

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        return _equal(result, self.expected)


@dataclass(frozen=True, eq=False)
class TextsCase(Case):
    """base64 strings from another client."""

    group: ClassVar = GROUP
    table: ClassVar = "base64 strings"
    dtype: ClassVar = np.int8
    expected: np.ndarray

    @property
    def label(self) -> str:
        return f"decode_base64, {len(self.expected):,} x {self.width}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": len(self.expected), "dimensions": self.width}

    @cached_property
    def texts(self) -> list[str]:
        return _texts(self.expected)

    @property
    def width(self) -> int:
        return self.expected.shape[1]

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        return _equal(result, self.expected)


@dataclass(frozen=True, eq=False)
class ParsedCase(Case):
    """A response that another client parsed."""

    group: ClassVar = GROUP
    table: ClassVar = "parsed response"
    body: BodyCase
    official: bool

    @property
    def label(self) -> str:
        return f"{self.body.label}, {'perplexityai object' if self.official else 'dict'}"

    @property
    def size(self) -> dict[str, int]:
        return self.body.size

    @cached_property
    def parsed(self) -> Any:
        return official_raw_response(self.body.body).parse() if self.official else json.loads(self.body.body)

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        return _equal(result, self.body.expected)


@dataclass(frozen=True, eq=False)
class VectorsCase(Case):
    """A conversion of whole arrays."""

    group: ClassVar = GROUP
    table: ClassVar = "vectors"
    function: Literal["reverse_bit_order", "normalize"]
    given: np.ndarray

    @property
    def label(self) -> str:
        rows, width = self.given.shape
        return f"{self.function}, {rows:,} x {width if self.function == 'normalize' else width * 8}"

    @property
    def size(self) -> dict[str, int]:
        return {"rows": self.given.shape[0], "width": self.given.shape[1]}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        if peer.kind == "reference":
            return Verdict(result.nbytes == self.given.nbytes * (4 if self.function == "normalize" else 1))
        if self.function == "reverse_bit_order":
            spelled = [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]
            return _equal(result, np.array(spelled, dtype=np.uint8)[self.given])
        lengths = np.sqrt((self.given.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        return Verdict(result.dtype == np.float32 and bool(np.allclose(result, self.given / lengths, rtol=1e-6)))


@dataclass(frozen=True, eq=False)
class BitsCase(Case):
    """Signs to bits, or bits to signs."""

    group: ClassVar = GROUP
    table: ClassVar = "bits"
    packs: bool
    given: np.ndarray

    @property
    def label(self) -> str:
        return f"{'pack' if self.packs else 'unpack'}_bits, {self.size['rows']:,} x {self.size['dimensions']}"

    @property
    def size(self) -> dict[str, int]:
        rows, width = self.given.shape
        return {"rows": rows, "dimensions": width if self.packs else width * 8}

    def judge(self, peer: Peer, result: Any) -> Verdict:
        if peer.kind == "reference":
            return Verdict(result.size == self.size["rows"] * self.size["dimensions"] // (8 if self.packs else 1))
        bits = self.given[:100] if not self.packs else result[:100]
        values = self.given[:100] if self.packs else result[:100]
        # The first rows are checked bit by bit against the definition, all rows against numpy.
        position = np.arange(values.shape[1])
        by_definition = (bits[:, position // 8] >> (position % 8) & 1) == (values >= 0)
        expected = (
            np.packbits(self.given >= 0, axis=1, bitorder="little")
            if self.packs
            else np.where(np.unpackbits(self.given, axis=1, bitorder="little") == 1, 1, -1).astype(np.int8)
        )
        return Verdict(bool(by_definition.all()) and _equal(result, expected).correct)
