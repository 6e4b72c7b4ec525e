"""The real vocabulary with its oracle, and small tokenizers that tests can bend."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import ctxembed
import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILE = DATA / "tokenizer" / "tokenizer.json"
FOLDERS = ("pep_en", "rustbook_en", "rustbook_zh", "react_ko")

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHER = [byte for byte in range(256) if byte not in _PRINTABLE]
SPELLED = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHER)}


def spelled(text: str) -> str:
    """Spell text as a byte-level vocabulary does."""
    return "".join(SPELLED[byte] for byte in text.encode())


def definition(*merges: tuple[str, str], added: tuple[str, ...] = ()) -> dict:
    """Return a tokenizer.json of the 256 bytes and some merges, as Python objects."""
    pairs = [[spelled(left), spelled(right)] for left, right in merges]
    tokens = [*SPELLED.values(), *("".join(pair) for pair in pairs)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(tokens) + i, "content": text, **flags} for i, text in enumerate(added)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": pairs,
        },
    }


HERON = definition(("h", "e"), ("r", "o"), ("he", "ro"), (" ", "he"), added=("<end>", "<endless>", "[x]"))


@pytest.fixture
def small():
    """A definition of its own for each test."""
    return copy.deepcopy(HERON)


@pytest.fixture
def written(tmp_path):
    """Write a definition to a file."""

    def write(contents: dict) -> Path:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(contents), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def counter():
    if not FILE.exists():
        pytest.skip(f"the Qwen3 vocabulary is not at {FILE}")
    return ctxembed.TokenCounter.from_file(FILE)


@pytest.fixture(scope="session")
def reference():
    """Count with the tokenizers package."""
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers package is the oracle of these tests")
    if not FILE.exists():
        pytest.skip(f"the Qwen3 vocabulary is not at {FILE}")
    tokenizer = tokenizers.Tokenizer.from_file(str(FILE))
    return lambda texts: np.array([len(entry) for entry in tokenizer.encode_batch_fast(texts)], dtype=np.int64)
