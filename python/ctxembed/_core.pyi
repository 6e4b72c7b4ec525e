"""The Rust core, by room. ``ctxembed`` exports the public names; the others are internal.

This module imports nothing of ``ctxembed``. Where a result is an ``Embeddings``, the type here is ``object``, and
``ctxembed._codec`` declares the real one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, NoReturn, Protocol, SupportsIndex, TypeAlias, TypeVar, final, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

__version__: str

_Metric: TypeAlias = Literal["cosine", "dot", "hamming", "asymmetric"]
_EncodingFormat: TypeAlias = Literal["base64_int8", "base64_binary"]
_Class = TypeVar("_Class", bound=type)
_SpaceOf = TypeVar("_SpaceOf", bound=Callable[[str, int], str | None])
_Ids: TypeAlias = NDArray[np.int64] | list[int] | list[np.int64] | tuple[SupportsIndex, ...]

def isa_names() -> list[str]: ...
def isa_paths() -> list[tuple[str, str]]: ...
def register_class(cls: _Class) -> _Class: ...
def register_space_of(function: _SpaceOf) -> _SpaceOf: ...

# --- codec ---

def decode_response(
    body: bytes | bytearray | memoryview,
    *,
    shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    dimensions: int | None = None,
    encoding_format: _EncodingFormat = "base64_int8",
    out: NDArray[np.int8] | NDArray[np.uint8] | None = None,
) -> object: ...

@final
class ResponseDecoder:
    def __new__(
        cls,
        *,
        shape: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        dimensions: int | None = None,
        encoding_format: _EncodingFormat = "base64_int8",
    ) -> ResponseDecoder: ...
    def feed(self, chunk: bytes | bytearray | memoryview) -> None: ...
    def finish(self) -> object: ...

def decode_base64(
    strings: str | Sequence[str],
    *,
    dimensions: int | None = None,
    encoding_format: _EncodingFormat = "base64_int8",
    out: NDArray[np.int8] | NDArray[np.uint8] | None = None,
) -> NDArray[Any]: ...
def encode_base64(vectors: NDArray[np.int8] | NDArray[np.uint8]) -> list[str] | str: ...
def pack_bits(int8_vectors: NDArray[np.int8]) -> NDArray[np.uint8]: ...
def unpack_bits(
    bits: NDArray[np.uint8], dimensions: int | None = None, dtype: DTypeLike | None = None
) -> NDArray[Any]: ...
def reverse_bit_order(bits: NDArray[np.uint8]) -> NDArray[np.uint8]: ...
@overload
def truncate(vectors: NDArray[np.int8], dims: int) -> NDArray[np.int8]: ...
@overload
def truncate(vectors: NDArray[np.uint8], dims: int) -> NDArray[np.uint8]: ...
def normalize(int8_vectors: NDArray[np.int8]) -> NDArray[np.float32]: ...

# --- similarity and search ---

def space_of_prefix(space: str, before: int, after: int) -> str: ...
def hamming(queries: NDArray[np.uint8], database: NDArray[np.uint8]) -> NDArray[np.int32]: ...
def dot(queries: NDArray[np.int8], database: NDArray[np.int8]) -> NDArray[np.int32]: ...
def cosine(queries: NDArray[np.int8], database: NDArray[np.int8]) -> NDArray[np.float32]: ...
def top_k(
    queries: NDArray[np.int8] | NDArray[np.uint8],
    database: NDArray[np.int8] | NDArray[np.uint8],
    k: SupportsIndex,
    *,
    metric: Literal["hamming", "cosine", "dot", "asymmetric"] | None = None,
    mask: NDArray[np.bool_] | _Ids | None = None,
    threads: SupportsIndex | None = None,
) -> Matches: ...
def merge_top_k(matches: Iterable[Matches], k: SupportsIndex) -> Matches: ...
def merge_ranges(parts: Iterable[RangeMatches], limit: SupportsIndex | None = None) -> RangeMatches: ...

@final
class Matches:
    def __new__(
        cls,
        ids: NDArray[np.int64],
        scores: NDArray[np.int32] | NDArray[np.float32],
        exact: bool = True,
        metric: _Metric | None = None,
        keys: NDArray[Any] | None = None,
        complete: bool = False,
    ) -> Matches: ...
    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def scores(self) -> NDArray[np.int32] | NDArray[np.float32]: ...
    @property
    def exact(self) -> bool: ...
    @property
    def complete(self) -> bool: ...
    @property
    def metric(self) -> _Metric | None: ...
    @property
    def keys(self) -> NDArray[Any] | None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[NDArray[Any]]: ...
    def __reduce__(self) -> tuple[type[Matches], tuple[Any, ...]]: ...

@final
class RangeMatches:
    def __new__(
        cls,
        offsets: NDArray[np.int64],
        ids: NDArray[np.int64],
        scores: NDArray[np.int32] | NDArray[np.float32],
        metric: _Metric | None = None,
        keys: NDArray[Any] | None = None,
    ) -> RangeMatches: ...
    @property
    def offsets(self) -> NDArray[np.int64]: ...
    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def scores(self) -> NDArray[np.int32] | NDArray[np.float32]: ...
    @property
    def metric(self) -> _Metric | None: ...
    @property
    def keys(self) -> NDArray[Any] | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, query: int, /) -> tuple[NDArray[np.int64], NDArray[Any]]: ...
    def __reduce__(self) -> tuple[type[RangeMatches], tuple[Any, ...]]: ...

@final
class Pairs:
    def __new__(cls, ids: NDArray[np.int64], scores: NDArray[np.int32] | NDArray[np.float32]) -> Pairs: ...
    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def scores(self) -> NDArray[np.int32] | NDArray[np.float32]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[NDArray[Any]]: ...
    def __reduce__(self) -> tuple[type[Pairs], tuple[NDArray[np.int64], NDArray[Any]]]: ...

@final
class Calibration:
    @property
    def oversample(self) -> int: ...
    @property
    def recall(self) -> float: ...
    @property
    def target(self) -> float: ...
    @property
    def k(self) -> int: ...
    @property
    def queries(self) -> int: ...
    @property
    def oversamples(self) -> NDArray[np.int64]: ...
    @property
    def recalls(self) -> NDArray[np.float64]: ...

class _Embeddings(Protocol):
    """``ctxembed.Embeddings``."""

    @property
    def vectors(self) -> NDArray[Any]: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def space(self) -> str | None: ...
    @property
    def input_type(self) -> str | None: ...

@final
class Index:
    def __new__(cls, dims: SupportsIndex, *, space: str | None = None) -> Index: ...
    @property
    def space(self) -> str | None: ...
    @property
    def dims(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def oversample(self) -> int: ...
    def add(self, vectors: NDArray[np.int8] | _Embeddings, ids: _Ids | None = None) -> NDArray[np.int64]: ...
    def remove(self, ids: _Ids) -> None: ...
    def vectors(self, ids: _Ids) -> NDArray[np.int8]: ...
    def search(
        self,
        queries: NDArray[np.int8] | _Embeddings,
        k: SupportsIndex,
        *,
        metric: Literal["cosine", "dot", "hamming", "asymmetric"] = "cosine",
        stage: Literal["exact", "two-stage", "binary"] = "exact",
        oversample: SupportsIndex | None = None,
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> Matches: ...
    def search_range(
        self,
        queries: NDArray[np.int8] | _Embeddings,
        radius: float,
        *,
        metric: Literal["cosine", "dot", "hamming", "asymmetric"] = "cosine",
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> RangeMatches: ...
    def count(
        self,
        queries: NDArray[np.int8] | _Embeddings,
        radius: float,
        *,
        metric: Literal["cosine", "dot", "hamming", "asymmetric"] = "cosine",
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[np.int64] | int: ...
    def near_duplicates(
        self,
        threshold: float,
        *,
        metric: Literal["cosine", "dot", "hamming"] = "cosine",
        limit: SupportsIndex | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> Pairs: ...
    def calibrate(
        self,
        queries: NDArray[np.int8] | _Embeddings,
        k: SupportsIndex,
        recall: float = 0.99,
        *,
        mask: NDArray[np.bool_] | _Ids | None = None,
        threads: SupportsIndex | None = None,
    ) -> Calibration: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @staticmethod
    def open(path: str | PathLike[str], mmap: bool = True, verify: bool | None = None) -> Index: ...
    # The four below are private to collections.
    @staticmethod
    def _open_segments(
        dims: SupportsIndex,
        files: Iterable[tuple[str | PathLike[str], bytes | None]],
        *,
        space: str | None = None,
        calibration: tuple[int, int, float] | None = None,
    ) -> Index: ...
    @staticmethod
    def _seal(
        rows_path: str | PathLike[str],
        rows: SupportsIndex,
        target: str | PathLike[str],
        dims: SupportsIndex,
        *,
        space: str | None = None,
    ) -> bytes: ...
    def _checksums(self, ranges: list[tuple[int, int]]) -> list[int]: ...
    @property
    def _calibration(self) -> tuple[int, int, float] | None: ...
    def __len__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...

@final
class BinaryIndex:
    def __new__(cls, dims: SupportsIndex, *, space: str | None = None) -> BinaryIndex: ...
    @property
    def space(self) -> str | None: ...
    @property
    def dims(self) -> int: ...
    @property
    def dimensions(self) -> int: ...
    @property
    def oversample(self) -> int: ...
    def add(self, vectors: NDArray[np.uint8] | _Embeddings, ids: _Ids | None = None) -> NDArray[np.int64]: ...
    def remove(self, ids: _Ids) -> None: ...
    def vectors(self, ids: _Ids) -> NDArray[np.uint8]: ...
    def search(
        self,
        queries: NDArray[np.uint8] | NDArray[np.int8] | _Embeddings,
        k: SupportsIndex,
        *,
        metric: Literal["hamming", "asymmetric"] | None = None,
        stage: Literal["exact", "two-stage", "binary"] = "exact",
        oversample: SupportsIndex | None = None,
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> Matches: ...
    def search_range(
        self,
        queries: NDArray[np.uint8] | NDArray[np.int8] | _Embeddings,
        radius: SupportsIndex,
        *,
        metric: Literal["hamming", "asymmetric"] | None = None,
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> RangeMatches: ...
    def count(
        self,
        queries: NDArray[np.uint8] | NDArray[np.int8] | _Embeddings,
        radius: SupportsIndex,
        *,
        metric: Literal["hamming", "asymmetric"] | None = None,
        mask: NDArray[np.bool_] | _Ids | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[np.int64] | int: ...
    def near_duplicates(
        self,
        threshold: SupportsIndex,
        *,
        limit: SupportsIndex | None = None,
        dimensions: SupportsIndex | None = None,
        threads: SupportsIndex | None = None,
    ) -> Pairs: ...
    def calibrate(
        self,
        queries: NDArray[np.uint8] | NDArray[np.int8] | _Embeddings,
        k: SupportsIndex,
        recall: float = 0.99,
        *,
        mask: NDArray[np.bool_] | _Ids | None = None,
        threads: SupportsIndex | None = None,
    ) -> Calibration: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @staticmethod
    def open(path: str | PathLike[str], mmap: bool = True, verify: bool | None = None) -> BinaryIndex: ...
    # The four below are private to collections.
    @staticmethod
    def _open_segments(
        dims: SupportsIndex,
        files: Iterable[tuple[str | PathLike[str], bytes | None]],
        *,
        space: str | None = None,
        calibration: tuple[int, int, float] | None = None,
    ) -> BinaryIndex: ...
    @staticmethod
    def _seal(
        rows_path: str | PathLike[str],
        rows: SupportsIndex,
        target: str | PathLike[str],
        dims: SupportsIndex,
        *,
        space: str | None = None,
    ) -> bytes: ...
    def _checksums(self, ranges: list[tuple[int, int]]) -> list[int]: ...
    @property
    def _calibration(self) -> tuple[int, int, float] | None: ...
    def __len__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...

# The three below are private to sharded indexes.
def ids_of_rows(index: Index | BinaryIndex) -> NDArray[np.int64]: ...
def first_stage(
    index: Index | BinaryIndex,
    queries: NDArray[np.int8] | _Embeddings,
    candidates: SupportsIndex,
    *,
    mask: NDArray[np.bool_] | _Ids | None = None,
    dimensions: SupportsIndex | None = None,
    threads: SupportsIndex | None = None,
) -> tuple[Matches, int]: ...
def second_stage(
    index: Index | BinaryIndex,
    queries: NDArray[np.int8] | _Embeddings,
    k: SupportsIndex,
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    metric: Literal["cosine", "dot", "asymmetric"],
    dimensions: SupportsIndex | None = None,
    threads: SupportsIndex | None = None,
) -> RangeMatches: ...

# --- rows of a catalogue ---

def row_checksum(values: tuple[str | bytes | int | float | None, ...]) -> int: ...
def document_rows(
    documents: list[Any], vectors: NDArray[np.uint8], first: int
) -> tuple[list[tuple[int, list[tuple[int | str | bytearray, ...]]]], list[int]]: ...
def chunk_rows(
    documents: list[Any], row: int, *, keep_text: bool
) -> tuple[list[tuple[int, list[tuple[int | str, ...]]]], list[int]]: ...
def hits_json(
    found: list[tuple[str | bytes | int | float | None, ...]], searches: Sequence[tuple[list[int], list[float]]]
) -> list[bytes]: ...
def rows_checksum(rows: NDArray[np.uint8]) -> int: ...

@final
class DocumentHasher:
    def __new__(cls, start: bytes) -> DocumentHasher: ...
    def key(self, texts: list[str]) -> bytes: ...

@final
class RecordReader:
    def __new__(cls, id_field: str, chunks_field: str, text_field: str) -> RecordReader: ...
    def read(self, line: bytes) -> tuple[str, list[str], dict[str, Any] | None, str | None] | None: ...

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
def encode_request(documents: list[list[str]], rest: bytes, *, flat: bool = False) -> bytes: ...
def prepare_request(
    documents: list[list[str]], rest: bytes, separator: str | None
) -> tuple[bytes, list[int], list[int]] | None: ...
def check_chunks(chunks: list[str], separator: str | None) -> tuple[NDArray[np.int64], list[tuple[int, str, int]]]: ...
def inspect_chunks(
    chunks: list[str], separator: str | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, str, int]]]: ...

@final
class NativeCounter:
    def __new__(cls, path: str | PathLike[str]) -> NativeCounter: ...
    @property
    def entries(self) -> int: ...
    @property
    def checksum(self) -> int: ...
    def forget(self) -> None: ...
    def count(self, text: str) -> int: ...
    def count_batch(self, texts: list[str], threads: SupportsIndex | None = None) -> NDArray[np.int64]: ...
