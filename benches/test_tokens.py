"""Texts to exact token counts, and a vocabulary file to a token counter."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from benches.cases.tokens import CORPORA, DATA, FILE, CountCase, LoadCase, LongCase, OneCase
from benches.peers import tokens as peers

if TYPE_CHECKING:
    from benches.harness import Case, Scale

PEERS = {CountCase: peers.COUNT, LongCase: peers.COUNT, OneCase: peers.ONE, LoadCase: peers.LOAD}


@cache
def paragraphs(corpus: str) -> list[str]:
    files = sorted((DATA / "corpus" / corpus).iterdir())
    parts = [part for path in files for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))]
    return [part for part in parts if part.strip()]


def long_after_short(corpus: str, step: int) -> LongCase:
    """Return every other paragraph, then the rest as one text."""
    parts = paragraphs(corpus)[::step]
    return LongCase(corpus, [*parts[::2], "\n\n".join(parts[1::2])])


def cases(scale: Scale) -> list[Case]:
    if not FILE.exists():
        return []
    step = {"smoke": 200, "quick": 8, "full": 1}[scale]
    return [
        *(CountCase(corpus, paragraphs(corpus)[::step]) for corpus in CORPORA),
        *(LongCase(corpus, ["\n\n".join(paragraphs(corpus)[::step])]) for corpus in ("pep_en", "rustbook_zh")),
        *(long_after_short(corpus, step) for corpus in ("pep_en", "rustbook_zh")),
        *(OneCase(corpus, paragraphs(corpus)[100:101]) for corpus in ("rustbook_en", "rustbook_zh")),
        LoadCase(),
    ]


def test_tokens(run, measure):
    measure(run)
