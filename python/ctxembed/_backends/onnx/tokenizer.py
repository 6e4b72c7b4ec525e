"""Chunks to token ids. A chunk's text never becomes a special token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed._extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ChunkTokenizer", "tokenizer_of"]


def tokenizer_of(content: bytes, separator: str, extra: str) -> ChunkTokenizer:
    """Create the tokenizer of a model from its ``tokenizer.json``.

    Parameters
    ----------
    content : bytes
        The file.
    separator : str
        The token between two chunks.
    extra : str
        The extra that installs ``tokenizers``.

    Raises
    ------
    ImportError
        ``tokenizers`` is not installed.
    ValueError
        The file is no tokenizer, or does not have the separator.
    """
    tokenizers = require("tokenizers", extra, "a local model")
    try:
        known = json.loads(content)
        for token in known.get("added_tokens") or ():
            # Only special tokens are left alone in texts, and a text must not form the separator.
            if token.get("content") == separator:
                token["special"] = True
        return ChunkTokenizer(tokenizers.Tokenizer.from_str(json.dumps(known)), separator)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"tokenizer.json is no tokenizer: {error}") from error


class ChunkTokenizer:
    """Encodes chunks, and joins them to the tokens of one pass.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        It is changed: no truncation, no padding, special tokens in texts are text.
    separator : str
        The token between two chunks.

    Attributes
    ----------
    separator : int
        Its id.
    padding : int
        The token behind the end of shorter passes of a batch.
    before, after : list of int
        The special tokens that the model has before the first chunk and after the last.

    Raises
    ------
    ValueError
        The tokenizer does not have the separator.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self, tokenizer: Any, separator: str) -> None:
        number = tokenizer.token_to_id(separator)
        if number is None:
            raise ValueError(f"the tokenizer does not have the model's separator {separator!r}")
        padding = tokenizer.padding
        self.padding = int(padding["pad_id"]) if padding else 0
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.separator = int(number)
        example = tokenizer.encode("a", add_special_tokens=True)
        content = [at for at, special in enumerate(example.special_tokens_mask) if not special]
        first, last = (content[0], content[-1] + 1) if content else (len(example.ids), len(example.ids))
        self.before: list[int] = example.ids[:first]
        self.after: list[int] = example.ids[last:]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens.

        Raises
        ------
        UnicodeEncodeError
            A text has a lone surrogate.
        """
        if len(texts) == 1:  # without the threads of a batch
            return [self._tokenizer.encode(texts[0], add_special_tokens=False).ids]
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def count(self, documents: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """Return the tokens of each document, separators and the model's special tokens included."""
        ids = self.encode([chunk for chunks in documents for chunk in chunks])
        edges = len(self.before) + len(self.after)
        counts = np.empty(len(documents), np.int64)
        at = 0
        for position, chunks in enumerate(documents):
            counts[position] = sum(map(len, ids[at : at + len(chunks)])) + max(0, len(chunks) - 1) + edges
            at += len(chunks)
        return counts
