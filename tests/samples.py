"""Texts and vocabularies for tests: the samples in ``tests/data``, and the larger sets in ``../shared/data``.

The samples are part of the repository, so every test runs on them. The larger sets are used where they are present.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

_VOCABULARIES = {
    "cut vocabulary": DATA / "tokenizer" / "tokenizer.json",
    "full vocabulary": SHARED / "tokenizer" / "tokenizer.json",
}
VOCABULARIES = {name: path for name, path in _VOCABULARIES.items() if path.exists()}
LARGEST_VOCABULARY = [*VOCABULARIES][-1]

_FOLDERS = ("pep_en", "rustbook_en", "rustbook_zh", "react_ko")
FOLDERS = tuple(name for name in _FOLDERS if (SHARED / "corpus" / name).is_dir())
CRANFIELD = SHARED / "ir" / "cranfield"


def paragraphs(text: str) -> list[str]:
    """Return the parts of a text between blank lines."""
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


@cache
def sample_texts() -> dict[str, str]:
    """Return the short texts by name: ten kinds, one of them Unicode that is rare or easily mishandled."""
    texts = {path.stem: path.read_bytes().decode() for path in sorted((DATA / "texts").iterdir())}
    return texts | {"unicode": "\n\n".join(json.loads((DATA / "unicode.json").read_text(encoding="utf-8")).values())}


@cache
def sample_token_counts() -> dict[str, int]:
    """Return what the full vocabulary counts for each sample text and for each of its paragraphs."""
    stored = json.loads((DATA / "token_counts.json").read_text(encoding="utf-8"))
    counts = {}
    for name, text in sample_texts().items():
        whole, *parts = stored[name]
        counts |= {text: whole, **dict(zip(paragraphs(text), parts, strict=True))}
    return counts


@cache
def corpus(folder: str) -> list[str]:
    """Return the files of a corpus folder."""
    return [path.read_bytes().decode() for path in sorted((SHARED / "corpus" / folder).iterdir())]


def cranfield(name: str) -> list[dict[str, str]]:
    """Return the entries of a file of the Cranfield collection."""
    return [json.loads(line) for line in (CRANFIELD / f"{name}.jsonl").read_text().splitlines()]
