"""Texts to token counts: each call takes a list of str and returns one count for each.

``tokenizers`` and ``tiktoken`` are encoders without an interface that only counts: they return the tokens, and the
caller counts them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import ctxembed
import tiktoken
import tokenizers

from benches.cases.tokens import reference
from benches.harness import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benches.cases.tokens import CountCase, LoadCase

    Call = Callable[[], Any]


@cache
def counter(file: Path) -> ctxembed.TokenCounter:
    return ctxembed.TokenCounter.from_file(file)


@cache
def encoding(file: Path) -> tiktoken.Encoding:
    """Build tiktoken's encoding from the same vocabulary and pattern."""
    contents = json.loads(file.read_text(encoding="utf-8"))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    split = contents["pre_tokenizer"]["pretokenizers"][0]
    return tiktoken.Encoding(
        "qwen3",
        pat_str=split["pattern"]["Regex"],
        mergeable_ranks={bytes(map(spelled.get, token)): i for token, i in contents["model"]["vocab"].items()},
        special_tokens={token["content"]: token["id"] for token in contents["added_tokens"]},
    )


def ours(case: CountCase, threads: int) -> Call:
    native, texts = counter(case.file), case.texts
    return lambda: native.count_batch(texts, threads=threads)


def ours_single(case: CountCase, _threads: int) -> Call:
    native, (text,) = counter(case.file), case.texts
    return lambda: [native.count(text)]


def ours_cold(case: CountCase, threads: int) -> Call:
    """Count with an empty word cache at each call."""
    native, texts = counter(case.file), case.texts

    def call() -> Any:
        native._native.forget()  # noqa: SLF001 - only a bench needs this
        return native.count_batch(texts, threads=threads)

    return call


def tokenizers_batch(case: CountCase, threads: int) -> Call:
    tokenizer, texts = reference(case.file), case.texts

    def call() -> list[int]:
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        return [len(found) for found in tokenizer.encode_batch_fast(texts)]

    return call


def tokenizers_single(case: CountCase, _threads: int) -> Call:
    tokenizer, texts = reference(case.file), case.texts
    return lambda: [len(tokenizer.encode(text)) for text in texts]


def tiktoken_encode(case: CountCase, threads: int) -> Call:
    peer, texts = encoding(case.file), case.texts
    if threads == 1:
        return lambda: [len(peer.encode(text, allowed_special="all")) for text in texts]
    return lambda: [len(found) for found in peer.encode_batch(texts, num_threads=threads, allowed_special="all")]


def tiktoken_ordinary(case: CountCase, threads: int) -> Call:
    """Encode without a search for special tokens, which these texts do not contain."""
    peer, texts = encoding(case.file), case.texts
    if threads == 1:
        return lambda: [len(peer.encode_ordinary(text)) for text in texts]
    return lambda: [len(found) for found in peer.encode_ordinary_batch(texts, num_threads=threads)]


def load_ours(case: LoadCase, _threads: int) -> Call:
    return lambda: ctxembed.TokenCounter.from_file(case.file).count


def load_tokenizers(case: LoadCase, _threads: int) -> Call:
    def call() -> Callable[[str], int]:
        tokenizer = tokenizers.Tokenizer.from_file(str(case.file))
        return lambda text: len(tokenizer.encode(text).ids)

    return call


def load_tiktoken(case: LoadCase, _threads: int) -> Call:
    def call() -> Callable[[str], int]:
        peer = encoding.__wrapped__(case.file)
        return lambda text: len(peer.encode(text, allowed_special="all"))

    return call


COUNT = (
    Peer("ctxembed.TokenCounter", ours, "ours", threaded=True),
    Peer("ctxembed.TokenCounter, no word known", ours_cold, "ours", threaded=True),
    Peer("tokenizers encode_batch_fast", tokenizers_batch, threaded=True),
    Peer("tokenizers encode", tokenizers_single),
    Peer("tiktoken encode", tiktoken_encode, threaded=True),
    Peer("tiktoken encode_ordinary", tiktoken_ordinary, threaded=True),
)

ONE = (
    Peer("ctxembed.TokenCounter", ours_single, "ours"),
    Peer("tokenizers encode", tokenizers_single),
    Peer("tiktoken encode", tiktoken_encode),
    Peer("tiktoken encode_ordinary", tiktoken_ordinary),
)

LOAD = (
    Peer("ctxembed.TokenCounter", load_ours, "ours"),
    Peer("tokenizers", load_tokenizers),
    Peer("tiktoken", load_tiktoken),
)
