"""A stand-in for the embedding model: lexical, deterministic and fast, without any understanding of meaning.

A vector records the words and word fragments of a chunk, so texts that share words have similar vectors. Shape and
documented rules are the API's: values are ``clamp(round(127 * tanh(x)))`` and not normalised, bits are ``x >= 0``, a
chunk's vector depends on its document but not on the other documents of the request, and the first ``d`` values of a
full vector are the vector of a request for ``d`` dimensions.

Algorithm
---------
1. A chunk is a bag of features: its words, their letter trigrams, and pairs of neighbouring words. Stop words have a
   low weight, very short words a reduced one, and repeats count by the square root of their number.
2. A count sketch (Charikar, Chen and Farach-Colton, 2002) adds each feature's integer weight to two signed buckets
   of 2,048, which the feature's BLAKE2b hash selects. The row is scaled to length 2,048 and rounded to integers.
3. A fixed matrix of integers from -127 to 127, drawn from SHAKE-256 of the model's name, projects the sketch onto
   the dimensions.
4. The sum of the document's rows is added to each of its rows at a quarter of its length.
5. For a model with input types, a summary of the row is added, as the prefix of a role changes the vectors of a real
   model: the row's values on four axes, each along a direction of its own. Axes and directions are drawn from
   SHAKE-256 of the model's name and the role; the length is 0.6 of the row's for a document, 0.3 for a query. The
   summaries of a document and of a query are unrelated and hardly change the ranking. A query that is sent as a
   document is compared by summary too, which says little about its words, and ranks worse.
6. The result is scaled to ``x``, a multiple of 1/512. The scale varies from chunk to chunk by a factor of 1 to 1.5,
   as the lengths of real vectors do, so ranking by inner product gives wrong results here too.

Every sum is a sum of integers that its float type represents exactly. The order of summation, and with it the number
of threads and the other documents of the request, cannot change a bit. Everything after the sums is element-wise.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import zlib
from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ctxembed._backends.token_estimate import estimate_tokens
from ctxembed._models import check_dimensions, check_input_type
from ctxembed._planning.limits import Limits
from ctxembed._results import Embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ctxembed._models import EncodingFormat, InputType, Model

__all__ = ["NOTICE", "HashedEmbedder", "embed_documents"]

NOTICE: Final = "ctxembed: vectors come from a stand-in that knows words but no meaning; do not mix them with the API's"
"""A server with the stand-in prints this line at its start."""

_BUCKETS: Final = 2048
_BITS: Final = 11  # 2 ** 11 buckets; each 64-bit hash gives two fields of 11 bits (bucket) and 1 bit (sign)
_HASHES: Final = 2
_ROW_LENGTH: Final = 2048
# Bounds: an integer row of length about 2**11 in 2**11 buckets has an L1 norm below 2**16.6, so float32, exact to
# 2**24, holds its products with factors below 2**7; the squares and sums of 16,000 such rows stay below 2**53.
_FACTOR: Final = 127
_SPREAD: Final = math.sqrt(_FACTOR * (_FACTOR + 1) / 3)  # standard deviation of the integers -127 to 127
_CONTEXT: Final = 0.25
_AXES: Final = 4
_SHARES: Final = {"document": 0.6, "query": 0.3}
_GRID: Final = 512
_LAST: Final = 4 * _GRID  # 127 * tanh(4) rounds to 127
_BLOCK: Final = 1024  # chunks embedded at a time, rounded up to whole documents; bounds memory

# Weights by word length, heavier pairs and no trigrams all rank worse on the Cranfield collection.
_WORD_WEIGHT: Final = 16
_TRIGRAM_WEIGHT: Final = 4
_PAIR_WEIGHT: Final = 4
_STOP_WEIGHT: Final = 1
_LONGEST: Final = 32

# Scripts without spaces: each character is a word, and pairs of neighbours stand for longer words.
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS: Final = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]{{1,{_LONGEST}}}")

_STOP_WORDS: Final = """
a about all also an and any are as at be been but by can could do does each for from had has have he her his how i if
in into is it its may more most no not of on one only or other our out over she should so some such than that the their
them then there these they this to too up was we were what when where which while who why will with would you your
"""
_STOP: Final = frozenset(_STOP_WORDS.split())


@cache
def _table() -> NDArray[np.int8]:
    """Return ``clamp(round(127 * tanh(k / 512)))`` for k from -2,048 to 2,048."""
    return np.array([round(127 * math.tanh(k / _GRID)) for k in range(-_LAST, _LAST + 1)], dtype=np.int8)


@lru_cache(maxsize=8)
def _matrix(model: str, dimensions: int) -> NDArray[np.float32]:
    """Return a model's matrix of integers from -127 to 127, buckets by dimensions."""
    return _drawn(f"ctxembed stand-in {model}", _BUCKETS, dimensions)


def _drawn(seed: str, rows: int, columns: int) -> NDArray[np.float32]:
    stream = hashlib.shake_256(seed.encode()).digest(rows * columns)
    drawn = np.frombuffer(stream, dtype=np.uint8) % (2 * _FACTOR + 1)
    return (drawn.astype(np.float32) - _FACTOR).reshape(rows, columns)


class _Prefix(NamedTuple):
    """What a role adds: a summary at a share of the row's length.

    ``axes`` are buckets by axes, ``directions`` axes by dimensions.
    """

    share: float
    axes: NDArray[np.float32]
    directions: NDArray[np.float32]

    def summaries(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an integer row for each row, 127 times as long as a row of the matrix."""
        on_axes = (rows @ self.axes).astype(np.float64)  # exact in float32: a product with a row of the matrix is
        length = np.sqrt(np.einsum("ij,ij->i", on_axes, on_axes))
        length[length == 0] = 1
        whole = np.rint(on_axes * (_FACTOR / length)[:, np.newaxis]).astype(np.float32)
        summaries: NDArray[np.float32] = whole @ self.directions  # sums below 4 * 127 * 127
        return summaries


@lru_cache(maxsize=8)
def _prefix(model: str, input_type: InputType, dimensions: int) -> _Prefix:
    seed = f"ctxembed stand-in {model} {input_type}"
    return _Prefix(
        _SHARES[input_type], _drawn(f"{seed} axes", _BUCKETS, _AXES), _drawn(f"{seed} directions", _AXES, dimensions)
    )


def _hash(kind: str, feature: str) -> int:
    data = feature.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind.encode()).digest(), "little")


@lru_cache(maxsize=65_536)
def _trigram(feature: str) -> int:
    return _hash("trigram", feature)


@lru_cache(maxsize=65_536)
def _word(word: str) -> tuple[int, tuple[int, ...], tuple[float, ...]]:
    """Return the word's hash, then the hashes and the weights of all its features."""
    own = _hash("word", word)
    if word in _STOP:
        return own, (own,), (_STOP_WEIGHT,)
    weight = _WORD_WEIGHT if len(word) > 3 else _WORD_WEIGHT - 4
    if len(word) < 3:
        return own, (own,), (weight,)
    padded = f"^{word}$"
    trigrams = [_trigram(padded[i : i + 3]) for i in range(len(padded) - 2)]
    return own, (own, *trigrams), (weight, *[_TRIGRAM_WEIGHT] * len(trigrams))


def _features(text: str) -> tuple[list[int], list[float]]:
    """Return the 64-bit hashes and the weights of a chunk's features."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    words = _WORDS.findall(text.casefold())
    if not words:  # only punctuation or whitespace: the whole text is the single feature
        return [_hash("text", text)], [_WORD_WEIGHT]
    hashes: list[int] = []
    weights: list[float] = []
    own: dict[str, int] = {}
    for word, times in Counter(words).items():
        own[word], of_word, weight_of_word = _word(word)
        hashes += of_word
        weights += weight_of_word if times == 1 else [w * math.sqrt(times) for w in weight_of_word]
    pairs = Counter(pairwise(words))
    for (left, right), times in pairs.items():
        # 0x9E37... is 2**64 divided by the golden ratio: an odd multiplier, so that (a, b) differs from (b, a).
        hashes.append(((own[left] * 0x9E3779B97F4A7C15) ^ own[right]) & 0xFFFFFFFFFFFFFFFF)
        light = left in _STOP or right in _STOP
        weights.append((_STOP_WEIGHT if light else _PAIR_WEIGHT) * math.sqrt(times))
    return hashes, weights


def _sketch(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return one integer row of length about 2,048 for each text, ``(n, buckets)``."""
    hashes: list[int] = []
    weights: list[float] = []
    counts = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        of_text, weight_of_text = _features(text)
        counts[i] = len(of_text)
        hashes += of_text
        weights += weight_of_text
    keys = np.array(hashes, dtype=np.uint64)
    values = np.rint(np.array(weights))  # integers: their float64 sums are exact in any order
    first = np.repeat(np.arange(len(texts), dtype=np.int64) * _BUCKETS, counts)
    size = len(texts) * _BUCKETS
    total = np.zeros(size)
    for part in range(_HASHES):
        field = (keys >> np.uint64(part * (_BITS + 1))).astype(np.int64)
        signed = np.where(field & _BUCKETS, values, -values)
        total += np.bincount(first + (field & (_BUCKETS - 1)), weights=signed, minlength=size)
    rows = total.reshape(len(texts), _BUCKETS)
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    # Features that cancel out are next to impossible, but must not lead to a division by zero.
    rows[length == 0, 0] = 1
    length[length == 0] = 1
    scaled: NDArray[np.float64] = rows * (_ROW_LENGTH / length)[:, np.newaxis]
    return np.rint(scaled).astype(np.float32)


def _scale(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the root mean square of each text's ``x``: 0.28 to 0.42."""
    sums = [zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts]
    return 0.28 + 0.14 / 2**32 * np.array(sums, dtype=np.float64)


def _embed_block(
    texts: list[str], starts: NDArray[np.int64], matrix: NDArray[np.float32], prefix: _Prefix | None
) -> NDArray[np.int16]:
    """Embed the documents that start at ``starts``; return ``512 * x`` from -2,048 to 2,048."""
    rows = _sketch(texts)
    counts = np.diff(starts, append=len(texts))
    document = np.repeat(np.arange(len(starts)), counts)
    whole = np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
    projected = rows @ matrix
    context = np.add.reduceat(projected, starts, axis=0, dtype=np.float64)

    exact = rows.astype(np.float64)
    row_length = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    whole_length = np.sqrt(np.einsum("ij,ij->i", whole, whole))
    whole_length[whole_length == 0] = 1  # rows that cancel out: no context
    cosine = np.einsum("ij,ij->i", exact, whole[document]) / (row_length * whole_length[document])
    scale = _GRID / _SPREAD * _scale(texts)
    if prefix is not None:
        scale /= math.sqrt(1 + prefix.share**2)
    factor = scale / np.sqrt(1 + _CONTEXT**2 + 2 * _CONTEXT * cosine)

    unit_context = (context / whole_length[:, np.newaxis]).astype(np.float32)
    x: NDArray[np.float32] = projected * (factor / row_length).astype(np.float32)[:, np.newaxis]
    x += unit_context[document] * (_CONTEXT * factor).astype(np.float32)[:, np.newaxis]
    if prefix is not None:
        x += prefix.summaries(rows) * (prefix.share / _FACTOR * scale).astype(np.float32)[:, np.newaxis]
    return np.clip(np.rint(x, out=x), -_LAST, _LAST, out=x).astype(np.int16)


def embed_documents(
    documents: Sequence[Sequence[str]],
    *,
    model: str,
    full_dimensions: int,
    dimensions: int,
    binary: bool,
    input_type: InputType | None = None,
    check: Callable[[], object] | None = None,
) -> NDArray[Any]:
    """Embed chunks in the context of their documents.

    Parameters
    ----------
    documents : sequence of sequence of str
        At least one document, each with at least one chunk.
    model : str
        Name of the model. Vectors of different models are unrelated.
    full_dimensions, dimensions : int
        Dimensions of the model and of the result; the second is at most the first.
    binary : bool
        Return packed bits instead of int8.
    input_type : {"document", "query"}, optional
        Role of a model with input types.
    check : callable, optional
        Called before each block of documents; what it raises is raised.

    Returns
    -------
    ndarray
        One row a chunk in the order of the input: ``(n, dimensions)`` int8, or ``(n, ceil(dimensions / 8))`` uint8
        with the least significant bit first.

    Notes
    -----
    Thread-safe. The projection, about half of the run time, releases the GIL.

    Examples
    --------
    >>> a, b = embed_documents([["red apple", "blue sky"]], model="m", full_dimensions=256, dimensions=128,
    ...                        binary=False)
    >>> a.shape, a.dtype
    ((128,), dtype('int8'))
    """
    matrix = _matrix(model, full_dimensions)[:, :dimensions]
    prefix = None
    if input_type is not None:
        prefix = _prefix(model, input_type, full_dimensions)
        prefix = prefix._replace(directions=prefix.directions[:, :dimensions])
    table = _table()
    results: list[NDArray[Any]] = []
    texts: list[str] = []
    starts: list[int] = []
    for position, chunks in enumerate(documents):
        starts.append(len(texts))
        texts += chunks
        if len(texts) >= _BLOCK or position == len(documents) - 1:
            if check is not None:
                check()
            x = _embed_block(texts, np.array(starts, dtype=np.int64), matrix, prefix)
            results.append(np.packbits(x >= 0, axis=1, bitorder="little") if binary else table[x + _LAST])
            texts, starts = [], []
    return np.concatenate(results)


class HashedEmbedder:
    """The stand-in as an :class:`~ctxembed._backends.embedder.Embedder`.

    Parameters
    ----------
    models : sequence of Model
        The models to stand in for, at least one. The first is the default.

    Examples
    --------
    >>> from ctxembed import get_model
    >>> embedder = HashedEmbedder([get_model("pplx-embed-context-v1-0.6b")])
    >>> embedder.embed([["red apple", "blue sky"]], dimensions=128)
    Embeddings(1 documents, 2 chunks, 128 dimensions, base64_int8, model='pplx-embed-context-v1-0.6b')
    >>> embedder.count_tokens([["red apple", "blue sky"]])
    array([5])
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.name: model for model in models}
        self._default = models[0]

    @property
    def model(self) -> Model:
        """The model that is used where a call names none."""
        return self._default

    @property
    def context_tokens(self) -> int:
        """Tokens of a document at most: those that the API accepts."""
        return Limits().tokens_per_document

    def embed(
        self,
        documents: Sequence[Sequence[str]],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: EncodingFormat = "base64_int8",
        input_type: InputType | None = None,
        check: Callable[[], object] | None = None,
    ) -> Embeddings:
        """Embed chunks in the context of their documents.

        Parameters
        ----------
        documents : sequence of sequence of str
            At least one document, each with at least one chunk.
        model : str or None
            One of the embedder's models; None for the first.
        dimensions : int or None
            From 128 to the model's, or one of its choices; None for the model's.
        encoding_format : {"base64_int8", "base64_binary"}
            int8 values, or packed bits with the least significant bit first.
        input_type : {"document", "query"} or None
            Role of the input; None for ``"document"`` where the model has input types.
        check : callable or None
            Called before each block of about 1,024 chunks; what it raises ends the call and is raised.

        Returns
        -------
        Embeddings

        Raises
        ------
        ValueError
            The model is unknown, or it does not have the dimensions or the role.
        """
        chosen = self._default if model is None else self._models.get(model)
        if chosen is None:
            raise ValueError(f"model {model!r} is unknown: expected one of {', '.join(self._models)}")
        size = check_dimensions(chosen, dimensions, encoding_format)
        role = check_input_type(chosen, input_type, "document")
        vectors = embed_documents(
            documents,
            model=chosen.name,
            full_dimensions=chosen.dimensions,
            dimensions=size,
            binary=encoding_format == "base64_binary",
            input_type=role,
            check=check,
        )
        offsets = np.zeros(len(documents) + 1, np.int64)
        np.cumsum([len(chunks) for chunks in documents], out=offsets[1:])
        space = self.space(chosen.name, size)
        return Embeddings(vectors, offsets, chosen.name, size, encoding_format, space=space, input_type=role)

    def space(self, model: str, dimensions: int) -> str:  # noqa: ARG002  # one space for all dimensions
        """Return ``stand-in:`` and the model's name.

        Parameters
        ----------
        model : str
            One of the embedder's models.
        dimensions : int
            Not used: fewer dimensions are a prefix.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            The embedder has no such model.

        Notes
        -----
        Vectors of two models cannot be compared, even where the API's models share a space.
        """
        if model not in self._models:
            raise ValueError(f"model {model!r} is unknown: expected one of {', '.join(self._models)}")
        return f"stand-in:{model}"

    def count_tokens(self, documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Estimate the tokens of each document, one separator between two chunks included.

        Parameters
        ----------
        documents : sequence of sequence of str
            Chunks of each document.

        Returns
        -------
        ndarray of int64, shape (n_documents,)
        """
        counts = [sum(map(estimate_tokens, chunks)) + len(chunks) - 1 for chunks in documents]
        return np.array(counts, dtype=np.int64)
