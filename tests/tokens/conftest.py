"""A tiny tokenizer that tests can modify, a counter for each vocabulary, and the reference to compare it with."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import ctxembed
import numpy as np
import pytest

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHER = [byte for byte in range(256) if byte not in _PRINTABLE]
# The character that stands for each byte in a byte-level vocabulary.
BYTE_CHARACTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHER)}


def as_token(text: str) -> str:
    """Write text as a byte-level vocabulary does."""
    return "".join(BYTE_CHARACTERS[byte] for byte in text.encode())


def definition(*merges: tuple[str, str], added: tuple[str, ...] = ()) -> dict:
    """Return the contents of a tokenizer.json: the 256 bytes, some merges, some added tokens."""
    pairs = [[as_token(left), as_token(right)] for left, right in merges]
    tokens = [*BYTE_CHARACTERS.values(), *("".join(pair) for pair in pairs)]
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
def tiny():
    """The contents of a tokenizer.json of four merges, for the test to modify."""
    return copy.deepcopy(HERON)


@pytest.fixture
def write_tokenizer(tmp_path):
    """Write the contents of a tokenizer.json to a file and return its path."""

    def write(contents: dict) -> Path:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(contents), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def counter(vocabulary):
    return ctxembed.TokenCounter.from_file(vocabulary)


@pytest.fixture(scope="session")
def reference(vocabulary):
    """Count with the tokenizers package."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the tokenizers package to compare with")
    tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary))
    return lambda texts: np.array([len(entry) for entry in tokenizer.encode_batch_fast(texts)], dtype=np.int64)
