"""Texts to exact token counts, and the vocabulary's file to something that counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benches.harness import Case, Peer, Verdict
from benches.peers import tokens as peers

if TYPE_CHECKING:
    from benches.harness import Scale

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILE = DATA / "tokenizer" / "tokenizer.json"
GROUP = "tokens"

#: The corpora, and what they are to a tokenizer: words repeat in English, hardly in Chinese, which has no spaces.
CORPORA = {
    "rustbook_en": "English prose",
    "pep_en": "English, technical",
    "react_ko": "Korean",
    "rustbook_zh": "Chinese",
}


@dataclass(frozen=True, eq=False)
class CountCase(Case):
    """The paragraphs of a corpus, one count each."""

    group: ClassVar = GROUP
    table: ClassVar = "paragraphs to counts"
    peers: ClassVar = peers.COUNT
    corpus: str
    texts: list[str]
    file: ClassVar[Path] = FILE

    @property
    def label(self) -> str:
        return f"{CORPORA[self.corpus]}, {len(self.texts):,} paragraphs"

    @cached_property
    def bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)

    @property
    def size(self) -> dict[str, int]:
        return {"texts": len(self.texts), "bytes": self.bytes}

    @cached_property
    def expected(self) -> np.ndarray:
        """By the ``tokenizers`` package, text by text."""
        tokenizer = peers.reference(self.file)
        return np.array([len(tokenizer.encode(text).ids) for text in self.texts])

    def judge(self, _peer: Peer, answer: Any) -> Verdict:
        return Verdict(np.array_equal(np.asarray(answer), self.expected))


class OneCase(CountCase):
    """A single paragraph: what a call costs."""

    table: ClassVar = "one paragraph to a count"
    peers: ClassVar = peers.ONE

    @property
    def label(self) -> str:
        return f"{CORPORA[self.corpus]}, {self.bytes:,} bytes"


@dataclass(frozen=True, eq=False)
class LoadCase(Case):
    """The file, read and made ready."""

    group: ClassVar = GROUP
    table: ClassVar = "loading"
    peers: ClassVar = peers.LOAD
    file: ClassVar[Path] = FILE
    sample: ClassVar = "The heron stood in the reeds.\n\ud55c\uad6d\uc5b4 \u4e2d\u6587 1234 <|endoftext|>"

    @property
    def label(self) -> str:
        return "tokenizer.json of Qwen3, 6.0 MB"

    @property
    def size(self) -> dict[str, int]:
        return {"bytes": self.file.stat().st_size}

    def judge(self, _peer: Peer, answer: Any) -> Verdict:
        return Verdict(answer(self.sample) == len(peers.reference(self.file).encode(self.sample).ids))


@cache
def paragraphs(corpus: str) -> list[str]:
    files = sorted((DATA / "corpus" / corpus).iterdir())
    parts = [part for path in files for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))]
    return [part for part in parts if part.strip()]


def cases(scale: Scale) -> list[Case]:
    if not FILE.exists():
        return []
    step = {"smoke": 200, "quick": 8, "full": 1}[scale]
    return [
        *(CountCase(corpus, paragraphs(corpus)[::step]) for corpus in CORPORA),
        *(OneCase(corpus, paragraphs(corpus)[100:101]) for corpus in ("rustbook_en", "rustbook_zh")),
        LoadCase(),
    ]


def test_tokens(run, measure):
    measure(run)
