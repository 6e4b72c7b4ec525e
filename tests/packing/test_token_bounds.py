"""Bounds of token counts that hold for every text, and an estimate that is close for natural text and code."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest
from ctxembed import _core
from ctxembed._planning.plan import token_upper_bound
from hypothesis import given
from hypothesis import strategies as st

from tests.samples import (
    FOLDERS,
    LARGEST_VOCABULARY,
    VOCABULARIES,
    corpus,
    cranfield,
    paragraphs,
    sample_texts,
    sample_token_counts,
)

# Limits of the estimated sum over the exact sum. The estimate adds a margin of nine percent.
LEAST, MOST = 1.06, 1.11
# The least estimate of one document over its exact count. Planning adds a sixteenth where one document alone could
# exceed a limit.
LEAST_OF_ONE = 16 / 17
# Sample texts whose scripts have one language, or several with similar tokens: the estimate is close, not only safe.
CLOSE = ("chinese", "english", "german", "korean", "technical")

anything = st.text(st.characters(exclude_categories=["Cs"]))
needs_corpora = pytest.mark.skipif(not FOLDERS, reason="the corpora are not in ../shared/data")
needs_full_vocabulary = pytest.mark.skipif(len(VOCABULARIES) < 2, reason="the vocabulary is not in ../shared/data")


@pytest.fixture(scope="session")
def tokenizer(vocabulary):
    tokenizers = pytest.importorskip("tokenizers", reason="needs the tokenizers package to compare with")
    return tokenizers.Tokenizer.from_file(str(vocabulary))


def exact(tokenizer, texts):
    return np.array([len(entry) for entry in tokenizer.encode_batch(texts, add_special_tokens=False)])


def documents(name):
    if name == "cranfield":
        texts = [f"{entry['title']}\n{entry['text']}" for entry in cranfield("corpus")]
    else:
        texts = corpus(name)
    return [text for text in texts if text.strip()]


@given(st.lists(anything))
def test_the_upper_bound_is_the_number_of_bytes_after_normalization(texts):
    expected = [len(unicodedata.normalize("NFC", text).encode()) for text in texts]
    # The tokenizer normalizes by Unicode 9 and Python by a later version. They are compared on older characters.
    known = [all(unicodedata.ucd_3_2_0.category(c) != "Cn" for c in text) for text in texts]
    found = token_upper_bound(texts)
    assert found.dtype == np.int64
    assert [a for a, k in zip(found.tolist(), known, strict=True) if k] == [
        b for b, k in zip(expected, known, strict=True) if k
    ]


@pytest.mark.parametrize("text", ["e\u0301", "\u1112\u1161\u11ab", "\u212b", "\u0958", "\uac00\u11a8", "a\u0323\u0307"])
def test_the_upper_bound_normalizes_text_first(text):
    assert token_upper_bound([text]).tolist() == [len(unicodedata.normalize("NFC", text).encode())]


def test_an_empty_list_gives_an_empty_array():
    assert token_upper_bound([]).shape == (0,)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("text", TypeError, r"texts must be a list of str, got one str: pass \[text\]"),
        (b"text", TypeError, "texts must be a list of str, got bytes"),
        (["a", 3], TypeError, r"texts\[1\] must be a str, got int"),
        ([None], TypeError, r"texts\[0\] must be a str, got NoneType"),
        (7, TypeError, "texts must be an iterable of str, got int"),
        (["ok", "a\ud800"], ValueError, r"texts\[1\] has a lone surrogate at character 1"),
    ],
)
def test_token_upper_bound_rejects_anything_but_a_list_of_str(texts, error, message):
    with pytest.raises(error, match=message):
        token_upper_bound(texts)


@given(st.lists(anything))
def test_the_estimate_lies_between_the_bounds(texts):
    lower, estimate, upper = _core.token_estimate(texts)
    assert ((lower >= 1) == [bool(text) for text in texts]).all()
    assert (lower <= estimate).all()
    assert (estimate <= upper).all()


SPECIAL = (
    "<|endoftext|>",
    "<|object_ref_start|>",
    "<tool_call>",
    "</think>",
    "<t",
    "<|",
    "'s",
    "'LL",
    "e\u0301",
    "\u212a",
)
PLAIN = (
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "K",
    "Word",
    "camelCase",
    "1",
    "42",
    "\u0662",
    "-",
    "----",
    "\u4e2d",
    "\ud55c",
)
PIECES = st.sampled_from(SPECIAL + PLAIN)


@given(st.lists(st.one_of(PIECES, anything), max_size=40).map("".join))
def test_exact_counts_lie_within_the_bounds(tokenizer, text):
    (lower,), (_,), (upper,) = _core.token_estimate([text])
    (count,) = exact(tokenizer, [text])
    assert lower <= count <= upper


def test_the_vocabulary_meets_the_assumptions_of_the_lower_bound(tokenizer):
    # One character of a byte-level token stands for one byte.
    assert max(map(len, tokenizer.get_vocab(with_added_tokens=False))) == 128
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for special in specials:
        assert special.startswith(("<|", "<t", "</t"))
        words = len(re.findall("[A-Za-z]+", special))
        assert words <= (3 if special.startswith("<|") else 2)
        assert not re.search("[0-9]", special)


@pytest.mark.parametrize("name", sample_texts())
def test_sample_texts_are_not_underestimated(name):
    texts = [sample_texts()[name], *paragraphs(sample_texts()[name])]
    lower, estimate, upper = _core.token_estimate(texts)
    counts = np.array([sample_token_counts()[text] for text in texts])
    assert (lower <= counts).all()
    assert (counts <= upper).all()
    assert estimate[0] >= LEAST_OF_ONE * counts[0]
    assert estimate[1:].sum() >= LEAST_OF_ONE * counts[1:].sum()
    if name in CLOSE:
        assert estimate[0] <= MOST * counts[0]
        assert estimate[1:].sum() <= MOST * counts[1:].sum()


@needs_full_vocabulary
@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_the_stored_counts_of_the_sample_texts_are_exact(tokenizer):
    stored = sample_token_counts()
    assert exact(tokenizer, [*stored]).tolist() == [*stored.values()]


@needs_corpora
@pytest.mark.parametrize("name", [*FOLDERS, "cranfield"])
@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_estimates_of_a_corpus_are_close_and_safe(tokenizer, name):
    texts = documents(name)
    lower, estimate, upper = _core.token_estimate(texts)
    counts = exact(tokenizer, texts)
    assert (lower <= counts).all()
    assert (counts <= upper).all()
    assert LEAST <= estimate.sum() / counts.sum() <= MOST
    # An abstract of Cranfield is too short to exceed a limit alone.
    assert (estimate >= (0.9 if name == "cranfield" else LEAST_OF_ONE) * counts).all()


@needs_corpora
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_estimates_stay_close_when_documents_are_split_into_chunks(tokenizer, name):
    sums = []
    for text in documents(name):
        chunks = paragraphs(text)
        _, estimate, _ = _core.token_estimate(chunks)
        sums.append((estimate.sum(), exact(tokenizer, chunks).sum()))
    estimates, counts = np.array(sums).T
    assert LEAST <= estimates.sum() / counts.sum() <= MOST
    assert (estimates >= LEAST_OF_ONE * counts).all()


@pytest.mark.parametrize(
    "text",
    ["a" * 5000, "\n" * 5000, "-" * 5000, "q" * 5000, "aB" * 5000, "e" * 99 + " " * 5000, "\u3002" * 5000, ") " * 5000],
)
def test_estimates_of_repetitive_text_lie_within_the_bounds(text):
    (lower,), (estimate,), (upper,) = _core.token_estimate([text])
    assert lower <= estimate <= upper


def test_inspect_chunks_reports_problems_by_chunk_and_character():
    chunks = ["fine", "", "\u4e2d<|endoftext|>", "a\udfff", "<|endoftext"]
    lower, estimate, upper, faults = _core.inspect_chunks(chunks, "<|endoftext|>")
    assert faults == [(1, "empty", 0), (2, "separator", 1), (3, "surrogate", 1)]
    assert lower.tolist()[1] == estimate.tolist()[3] == upper.tolist()[3] == 0
