"""A stand-in for the embedding model: lexical, deterministic, and fast; it understands nothing.

A vector says which words and pieces of words a chunk holds, so that text which shares words is near. It has the
shape of the real thing and obeys the rules the API documents: values are ``clamp(round(127 * tanh(x)))`` and not
normalised, bits are ``x >= 0``, a chunk's vector depends on its document, never on the request's other documents,
and the first ``d`` values of a full vector are the vector of a request for ``d`` dimensions.

Algorithm
---------
1. A chunk is a bag of features: its words, their letter trigrams, and pairs of neighbouring words. Stop words
   weigh little, the shortest words less than others, repeats by the square root of their count.
2. A count sketch (Charikar, Chen and Farach-Colton, 2002) adds each feature's integer weight into two signed
   buckets of 2,048 that its BLAKE2b hash names. The row is scaled to length 2,048 and rounded to integers.
3. A fixed matrix of integers from -127 to 127, drawn from SHAKE-256 of the model's name, projects the sketch onto
   the dimensions.
4. The sum of the document's rows is added to each of its rows at a quarter of its length.
5. The result is scaled to ``x``, a multiple of 1/512. The scale varies from chunk to chunk by 1 to 1.5, as lengths
   of real vectors do: who ranks by inner product gets wrong rankings here too.

Every sum is a sum of integers that its float type holds exactly, so that the order of summation, hence the number
of threads and the other documents of the request, cannot change a bit. Past the sums all is element by element.
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
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["embed_documents"]

_BUCKETS: Final = 2048
_BITS: Final = 11  # 2 ** 11 buckets; two times (11 bits of bucket, 1 of sign) come out of one 64-bit hash
_HASHES: Final = 2
_ROW_LENGTH: Final = 2048
# Bounds: an integer row of length about 2**11 in 2**11 buckets has an L1 norm below 2**16.6, so float32, exact to
# 2**24, holds its products with factors below 2**7; the squares and sums of 16,000 such rows stay below 2**53.
_FACTOR: Final = 127
_SPREAD: Final = math.sqrt(_FACTOR * (_FACTOR + 1) / 3)  # standard deviation of the integers -127 to 127
_CONTEXT: Final = 0.25
_GRID: Final = 512
_LAST: Final = 4 * _GRID  # 127 * tanh(4) rounds to 127
_BLOCK: Final = 1024  # chunks at a time, whole documents: bounds memory

# Tried on the Cranfield collection: weights by length of word, heavier pairs and no trigrams rank worse.
_WORD_WEIGHT: Final = 16
_TRIGRAM_WEIGHT: Final = 4
_PAIR_WEIGHT: Final = 4
_STOP_WEIGHT: Final = 1
_LONGEST: Final = 32

# Scripts that write no blanks: each character is a word, and pairs of neighbours carry the rest.
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
    stream = hashlib.shake_256(f"ctxembed stand-in {model}".encode()).digest(_BUCKETS * dimensions)
    drawn = np.frombuffer(stream, dtype=np.uint8) % (2 * _FACTOR + 1)
    return (drawn.astype(np.float32) - _FACTOR).reshape(_BUCKETS, dimensions)


def _hash(kind: str, feature: str) -> int:
    data = feature.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=kind.encode()).digest(), "little")


@lru_cache(maxsize=65_536)
def _trigram(feature: str) -> int:
    return _hash("trigram", feature)


@lru_cache(maxsize=65_536)
def _word(word: str) -> tuple[int, tuple[int, ...], tuple[float, ...]]:
    """Return a word's own hash, then the hashes and the weights of all its features."""
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
    if not words:  # nothing but punctuation or blanks: the text itself is the one feature
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
        # 0x9E37... is 2**64 over the golden ratio: an odd multiplier that makes the pair's order count.
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
    # Features that cancel to nothing are next to impossible, yet they must not divide by zero.
    rows[length == 0, 0] = 1
    length[length == 0] = 1
    scaled: NDArray[np.float64] = rows * (_ROW_LENGTH / length)[:, np.newaxis]
    return np.rint(scaled).astype(np.float32)


def _scale(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return the length that each text's vector has a dimension: 0.28 to 0.42."""
    sums = [zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts]
    return 0.28 + 0.14 / 2**32 * np.array(sums, dtype=np.float64)


def _embed_block(texts: list[str], starts: NDArray[np.int64], matrix: NDArray[np.float32]) -> NDArray[np.int16]:
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
    whole_length[whole_length == 0] = 1  # rows that cancel: no context
    cosine = np.einsum("ij,ij->i", exact, whole[document]) / (row_length * whole_length[document])
    factor = _GRID / _SPREAD * _scale(texts) / np.sqrt(1 + _CONTEXT**2 + 2 * _CONTEXT * cosine)

    unit_context = (context / whole_length[:, np.newaxis]).astype(np.float32)
    x: NDArray[np.float32] = projected * (factor / row_length).astype(np.float32)[:, np.newaxis]
    x += unit_context[document] * (_CONTEXT * factor).astype(np.float32)[:, np.newaxis]
    return np.clip(np.rint(x, out=x), -_LAST, _LAST, out=x).astype(np.int16)


def embed_documents(
    documents: Sequence[Sequence[str]], *, model: str, full_dimensions: int, dimensions: int, binary: bool
) -> NDArray[Any]:
    """Embed chunks in the context of their documents.

    Parameters
    ----------
    documents : sequence of sequence of str
        At least one document, each with at least one chunk.
    model : str
        Name of the model; the vectors of two models have nothing to do with each other.
    full_dimensions, dimensions : int
        Dimensions of the model and, at most as many, of the result.
    binary : bool
        Packed bits rather than int8.

    Returns
    -------
    ndarray
        One row a chunk in the order of the input: ``(n, dimensions)`` int8, or ``(n, ceil(dimensions / 8))`` uint8
        with the least significant bit first.

    Notes
    -----
    Thread-safe. numpy releases the GIL in the projection, which is about half of the time.

    Examples
    --------
    >>> a, b = embed_documents([["red apple", "blue sky"]], model="m", full_dimensions=256, dimensions=128,
    ...                        binary=False)
    >>> a.shape, a.dtype
    ((128,), dtype('int8'))
    """
    matrix = _matrix(model, full_dimensions)[:, :dimensions]
    table = _table()
    results: list[NDArray[Any]] = []
    texts: list[str] = []
    starts: list[int] = []
    for position, chunks in enumerate(documents):
        starts.append(len(texts))
        texts += chunks
        if len(texts) >= _BLOCK or position == len(documents) - 1:
            x = _embed_block(texts, np.array(starts, dtype=np.int64), matrix)
            results.append(np.packbits(x >= 0, axis=1, bitorder="little") if binary else table[x + _LAST])
            texts, starts = [], []
    return np.concatenate(results)
