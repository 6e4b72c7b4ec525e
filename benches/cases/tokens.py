"""Texts and a vocabulary, with the exact token counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tokenizers

from benches.harness import Case, Peer, Verdict

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILE = DATA / "tokenizer" / "tokenizer.json"
GROUP = "tokens"

#: The corpora and their labels. Words repeat in English, and hardly ever in Chinese, which has no spaces.
CORPORA = {
    "rustbook_en": "English prose",
    "pep_en": "English, technical",
    "react_ko": "Korean",
    "rustbook_zh": "Chinese",
}


@cache
def reference(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer whose counts are expected."""
    return tokenizers.Tokenizer.from_file(str(file))


@dataclass(frozen=True, eq=False)
class CountCase(Case):
    """The paragraphs of a corpus, with one count each."""

    group: ClassVar = GROUP
    table: ClassVar = "paragraphs to counts"
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
        """The counts by the ``tokenizers`` package, text by text."""
        tokenizer = reference(self.file)
        return np.array([len(tokenizer.encode(text).ids) for text in self.texts])

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        return Verdict(np.array_equal(np.asarray(result), self.expected))


class LongCase(CountCase):
    """One long text, alone or after many short ones."""

    table: ClassVar = "a long text to a count, alone or after short ones"

    @property
    def label(self) -> str:
        long = max(len(text.encode()) for text in self.texts)
        return f"{CORPORA[self.corpus]}, {long:,} bytes" + (
            f" after {len(self.texts) - 1:,} paragraphs" if len(self.texts) > 1 else ""
        )


class OneCase(CountCase):
    """A single paragraph, which shows the cost of a call."""

    table: ClassVar = "one paragraph to a count"

    @property
    def label(self) -> str:
        return f"{CORPORA[self.corpus]}, {self.bytes:,} bytes"


@dataclass(frozen=True, eq=False)
class LoadCase(Case):
    """Loading the vocabulary file."""

    group: ClassVar = GROUP
    table: ClassVar = "loading"
    file: ClassVar[Path] = FILE
    sample: ClassVar = "The heron stood in the reeds.\n\ud55c\uad6d\uc5b4 \u4e2d\u6587 1234 <|endoftext|>"

    @property
    def label(self) -> str:
        return "tokenizer.json of Qwen3, 6.0 MB"

    @property
    def size(self) -> dict[str, int]:
        return {"bytes": self.file.stat().st_size}

    def judge(self, _peer: Peer, result: Any) -> Verdict:
        return Verdict(result(self.sample) == len(reference(self.file).encode(self.sample).ids))
