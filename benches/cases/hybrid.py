"""Documents with as many words as real texts have, questions, and a collection of real texts that are judged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

import ctxembed
import numpy as np
from ctxembed import Collection, Embeddings

from benches import texts
from benches.cases.collections import Corpus, Embedder, Searched, folder
from benches.serving import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCABULARY: Final = 100_000
"""Words, whose frequencies follow Zipf's law."""

_DRAWN: Final = 1 << 22
_WORDS: Final = (40, 140)
"""Words of a chunk, at least and below."""

QUESTION: Final = 8
"""Words of a question, drawn as those of the texts: common ones and rare ones."""


@cache
def _drawn() -> np.ndarray:
    """Return numbers of words in the order of a long text."""
    rng = np.random.default_rng(16)
    shares = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    return np.searchsorted(shares, rng.random(_DRAWN) * shares[-1])


@cache
def _spelled() -> list[str]:
    """Return the words."""
    return [np.base_repr(number + 36**2, 36).lower() for number in range(VOCABULARY)]


def _words(start: int, count: int) -> str:
    drawn, spelled = _drawn(), _spelled()
    places = (start + np.arange(count)) % _DRAWN
    return " ".join([spelled[number] for number in drawn[places].tolist()])


@dataclass(frozen=True)
class WordyCorpus(Corpus):
    """Documents of some 90 words a chunk."""

    def __iter__(self) -> Iterator[ctxembed.Document]:
        low, high = _WORDS
        for i in range(self.documents):
            starts = [(i * self.chunks + j) * 2_741 % _DRAWN for j in range(self.chunks)]
            chunks = [f"{_words(start, low + start % (high - low))}." for start in starts]
            yield ctxembed.Document(f"document-{i:07}", chunks, self.metadata_of(i))


def question(number: int) -> str:
    """Return a question."""
    return _words(number * 1_000_003, QUESTION)


class Questions:
    """Embeds nothing: a question has the vector that is set."""

    def __init__(self) -> None:
        self.vector = np.zeros(0, np.int8)

    def embed_queries(self, queries: list[str], **_options: Any) -> Embeddings:
        """Return the vector."""
        assert len(queries) == 1
        return Embeddings(self.vector[None], np.array([0, 1]), MODEL, len(self.vector), "base64_int8")


@dataclass(frozen=True, eq=False)
class Asked(Searched):
    """A collection whose index of words is built."""

    @cached_property
    def opened(self) -> Collection:
        """The collection, open for reading."""
        opened = super().opened
        client = Questions()
        client.vector = self.queries[0]
        opened.search(question(0), 1, client=client, hybrid=True)
        return opened


class Judged:
    """Cranfield as a collection, a document an abstract."""

    @cached_property
    def data(self) -> texts.Collection:
        """Rows, queries and judgements."""
        return texts.cranfield()

    @cached_property
    def opened(self) -> Collection:
        """The collection."""
        documents, _ = texts.cranfield_texts()
        rows = self.data.rows
        made = Collection.create(folder() / "cranfield.ctx", model=MODEL, dimensions=rows.shape[1])
        made.ingest([(f"{row}", [text]) for row, text in enumerate(documents)], Embedder(rows))
        return made
