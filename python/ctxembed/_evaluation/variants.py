"""The variants of a grid: what is stored of a vector, and how it is searched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctxembed._core import BinaryIndex, pack_bits
from ctxembed._evaluation.corpus import StoredCorpus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ctxembed._evaluation.corpus import Corpus

__all__ = ["Variant", "chosen_variants"]

_NAME: Final = re.compile(r"(int8|bits|asymmetric|two-stage|hybrid)(?:@([1-9][0-9]{0,5}))?(?::([1-9][0-9]{0,5}))?")
_FORMS: Final = (
    '"int8", "bits", "asymmetric", "two-stage" or "hybrid"; "@256" behind it for a prefix of 256 dimensions, and '
    '":4" behind "two-stage" for four candidates a hit'
)
_OVERSAMPLES: Final = (1, 4, 16)
_LEAST_PREFIX: Final = 64


@dataclass(frozen=True)
class Variant:
    """A way to store and search vectors.

    Parameters
    ----------
    name : str
        As in a table.
    method : {"int8", "bits", "asymmetric", "two-stage", "hybrid"}
        The search.
    dimensions : int or None
        Of a prefix; None for all.
    oversample : int or None
        Candidates a hit, in two stages.
    """

    name: str
    method: str
    dimensions: int | None = None
    oversample: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the first hits depend on how many are asked for."""
        return self.method in ("two-stage", "hybrid")

    def bytes(self, corpus: Corpus) -> int:
        """Return the bytes of a vector that are kept for this search."""
        width = self.dimensions or corpus.dimensions
        bits = (width + 7) // 8
        if corpus.is_binary or self.method in ("bits", "asymmetric"):
            return bits
        return width + bits if self.method == "two-stage" else width

    def search(self, index: Any, queries: NDArray[Any], k: int, mask: NDArray[Any] | None = None) -> Any:
        """Return the matches of queries by their vectors alone."""
        options: dict[str, Any] = {"mask": mask, "dimensions": self.dimensions}
        if self.method == "bits":
            queries = pack_bits(queries) if isinstance(index, BinaryIndex) and queries.dtype == np.int8 else queries
            options["metric"] = "hamming"
        elif self.method == "asymmetric":
            options["metric"] = "asymmetric"
        elif self.method == "two-stage":
            options |= {"stage": "two-stage", "oversample": self.oversample}
        return index.search(queries, k, **options)

    @property
    def rest(self) -> Variant:
        """The search that ranks what one in two stages or by words leaves out; "int8" of bits is asymmetric."""
        return Variant("", "bits" if self.method == "two-stage" else "int8", self.dimensions)


def chosen_variants(names: Iterable[str] | None, corpus: Corpus, queries: str) -> list[Variant]:
    """Return the variants of some names, or the whole grid.

    Parameters
    ----------
    names : iterable of str or None
        The names; None for all that the corpus and the queries allow.
    corpus : Corpus
        What is searched.
    queries : {"text", "int8", "bits"}
        What the queries are.

    Raises
    ------
    TypeError, ValueError
        A name is unknown or stands twice, or the corpus or the queries do not allow it.
    """
    if names is None:
        return [_parsed(name, corpus, queries) for name in _grid(corpus, queries)]
    if isinstance(names, str):
        raise TypeError(f"variants must be an iterable of names, got one str: pass [{names!r}]")
    found: dict[str, Variant] = {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"variants: a name must be a str, got {name!r:.100}")
        if name in found:
            raise ValueError(f"variants: {name!r} stands twice")
        found[name] = _parsed(name, corpus, queries)
    if not found:
        raise ValueError("variants must not be empty")
    return list(found.values())


def _grid(corpus: Corpus, queries: str) -> list[str]:
    if queries == "bits":
        return ["bits"]
    prefixes = [corpus.dimensions >> halvings for halvings in (1, 2, 3)]
    prefixes = [width for width in prefixes if width >= _LEAST_PREFIX and width % 8 == 0]
    found = ["asymmetric", "bits", *(f"bits@{width}" for width in prefixes[:1])]
    if not corpus.is_binary:
        two_stage = [f"two-stage:{oversample}" for oversample in _OVERSAMPLES]
        found = ["int8", *(f"int8@{width}" for width in prefixes), *two_stage, *found]
    has_words = isinstance(corpus, StoredCorpus) and corpus.view.store_text and find_spec("tantivy") is not None
    return [*found, "hybrid"] if has_words and queries == "text" else found


def _parsed(name: str, corpus: Corpus, queries: str) -> Variant:
    parts = _NAME.fullmatch(name)
    if parts is None or (parts[3] and parts[1] != "two-stage"):
        raise ValueError(f"variants: {name!r:.100} is unknown: expected {_FORMS}")
    method, dimensions = parts[1], int(parts[2]) if parts[2] else None
    if dimensions is not None and dimensions > corpus.dimensions:
        raise ValueError(f"variants: {name!r} has more dimensions than the vectors, which have {corpus.dimensions}")
    if dimensions is not None and corpus.is_binary and dimensions % 8:
        raise ValueError(f"variants: {name!r}: a prefix of packed bits must be a multiple of 8")
    if corpus.is_binary and method in ("int8", "two-stage"):
        raise ValueError(f"variants: {name!r} needs int8 vectors, and these are bits: expected asymmetric or bits")
    if queries == "bits" and method != "bits":
        raise ValueError(f"variants: {name!r} needs int8 queries, and these are bits")
    if method == "hybrid" and not (isinstance(corpus, StoredCorpus) and queries == "text"):
        raise ValueError(f"variants: {name!r} needs a collection, and queries that are texts: their words are searched")
    oversample = None
    if method == "two-stage":
        oversample = int(parts[3]) if parts[3] else corpus.oversample
    return Variant(name, method, dimensions, oversample)
