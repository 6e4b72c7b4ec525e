"""Token counts without a vocabulary: bounds that hold for every text, and an estimate that is close for real ones."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from ctxembed import _core
from ctxembed._planning.plan import token_upper_bound
from hypothesis import given
from hypothesis import strategies as st

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = ("pep_en", "rustbook_en", "rustbook_zh", "react_ko")
# Of the estimates in sum, to exact counts: the margin is nine percent.
LEAST, MOST = 1.06, 1.11
# Of a single document, a sixteenth (what planning adds where one document alone could be too large) and the margin off.
LEAST_OF_ONE = 16 / 17

anything = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers package is the oracle of these tests")
    path = DATA / "tokenizer" / "tokenizer.json"
    if not path.exists():
        pytest.skip(f"the Qwen3 vocabulary is not at {path}")
    return tokenizers.Tokenizer.from_file(str(path))


def exact(tokenizer, texts):
    return np.array([len(entry) for entry in tokenizer.encode_batch(texts, add_special_tokens=False)])


def documents(name):
    if name == "cranfield":
        lines = (DATA / "ir" / "cranfield" / "corpus.jsonl").read_text().splitlines()
        texts = [f"{entry['title']}\n{entry['text']}" for entry in map(json.loads, lines)]
    else:
        texts = [path.read_text() for path in sorted((DATA / "corpus" / name).iterdir())]
    return [text for text in texts if text.strip()]


@given(st.lists(anything))
def test_the_upper_bound_is_the_bytes_of_the_normalised_text(texts):
    expected = [len(unicodedata.normalize("NFC", text).encode()) for text in texts]
    # The tokenizer normalises by Unicode 9, Python by a later one: compared where every character is older than both.
    known = [all(unicodedata.ucd_3_2_0.category(c) != "Cn" for c in text) for text in texts]
    found = token_upper_bound(texts)
    assert found.dtype == np.int64
    assert [a for a, k in zip(found.tolist(), known, strict=True) if k] == [
        b for b, k in zip(expected, known, strict=True) if k
    ]


@pytest.mark.parametrize("text", ["e\u0301", "\u1112\u1161\u11ab", "\u212b", "\u0958", "\uac00\u11a8", "a\u0323\u0307"])
def test_text_that_is_not_normalised_is_counted_normalised(text):
    assert token_upper_bound([text]).tolist() == [len(unicodedata.normalize("NFC", text).encode())]


def test_no_texts_have_no_counts():
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
def test_what_is_no_list_of_str_is_refused(texts, error, message):
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
def test_the_bounds_hold_for_the_real_tokenizer(tokenizer, text):
    (lower,), (_,), (upper,) = _core.token_estimate([text])
    (count,) = exact(tokenizer, [text])
    assert lower <= count <= upper


def test_no_token_is_longer_than_the_lower_bound_assumes(tokenizer):
    # One character of a byte-level token stands for one byte.
    assert max(map(len, tokenizer.get_vocab(with_added_tokens=False))) == 128
    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    for special in specials:
        assert special.startswith(("<|", "<t", "</t"))
        words = len(re.findall("[A-Za-z]+", special))
        assert words <= (3 if special.startswith("<|") else 2)
        assert not re.search("[0-9]", special)


@pytest.mark.parametrize("name", [*FOLDERS, "cranfield"])
def test_no_kind_of_text_is_underestimated_and_no_document_by_much(tokenizer, name):
    texts = documents(name)
    lower, estimate, upper = _core.token_estimate(texts)
    counts = exact(tokenizer, texts)
    assert (lower <= counts).all()
    assert (counts <= upper).all()
    assert LEAST <= estimate.sum() / counts.sum() <= MOST
    # An abstract is too short for a limit of its own.
    assert (estimate >= (0.9 if name == "cranfield" else LEAST_OF_ONE) * counts).all()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_document_is_estimated_alike_in_chunks(tokenizer, name):
    sums = []
    for text in documents(name):
        chunks = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
        _, estimate, _ = _core.token_estimate(chunks)
        sums.append((estimate.sum(), exact(tokenizer, chunks).sum()))
    estimates, counts = np.array(sums).T
    assert LEAST <= estimates.sum() / counts.sum() <= MOST
    assert (estimates >= LEAST_OF_ONE * counts).all()


@pytest.mark.parametrize(
    "text",
    ["a" * 5000, "\n" * 5000, "-" * 5000, "q" * 5000, "aB" * 5000, "e" * 99 + " " * 5000, "\u3002" * 5000, ") " * 5000],
)
def test_strange_texts_are_estimated_within_the_bounds(text):
    (lower,), (estimate,), (upper,) = _core.token_estimate([text])
    assert lower <= estimate <= upper


def test_faults_are_named_by_position_and_character():
    chunks = ["fine", "", "\u4e2d<|endoftext|>", "a\udfff", "<|endoftext"]
    lower, estimate, upper, faults = _core.inspect_chunks(chunks)
    assert faults == [(1, "empty", 0), (2, "separator", 1), (3, "surrogate", 1)]
    assert lower.tolist()[1] == estimate.tolist()[3] == upper.tolist()[3] == 0
