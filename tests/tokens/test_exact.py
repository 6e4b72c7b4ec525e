"""Native counts equal those of the tokenizers package for every text."""

from __future__ import annotations

import random

import ctxembed
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.samples import (
    CRANFIELD,
    FOLDERS,
    LARGEST_VOCABULARY,
    VOCABULARIES,
    corpus,
    cranfield,
    paragraphs,
    sample_texts,
)

anything = st.text(st.characters(exclude_categories=["Cs"]))


def assert_equal_counts(counter, reference, texts):
    found, expected = counter.count_batch(texts), reference(texts)
    assert (ctxembed.token_upper_bound(texts) >= found).all()
    wrong = np.flatnonzero(found != expected)
    assert not wrong.size, [(texts[i], int(found[i]), int(expected[i])) for i in wrong[:5]]


@pytest.mark.parametrize(
    ("vocabulary", "name"),
    [*((name, "samples") for name in VOCABULARIES), *((LARGEST_VOCABULARY, folder) for folder in FOLDERS)],
    indirect=["vocabulary"],
)
def test_files_and_their_paragraphs(counter, reference, name):
    files = [*sample_texts().values()] if name == "samples" else corpus(name)
    assert_equal_counts(counter, reference, files)
    for text in files:
        assert_equal_counts(counter, reference, paragraphs(text))


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="the Cranfield collection is not in ../shared/data")
@pytest.mark.parametrize("name", ["corpus", "queries"])
@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_cranfield(counter, reference, name):
    assert_equal_counts(counter, reference, [entry["text"] for entry in cranfield(name)])


# A character at the start; between letters; after a space, an apostrophe, a digit, punctuation and a line end; before
# marks of several combining classes; between the parts of a Hangul syllable; doubled.
CONTEXTS = (
    "{0}a{0}b {0} '{0} 'r{0} 1{0}!{0}\n{0}\n\t{0}e{0}\u0334\u0301\u05b0o\u0302{0}\u0323\u1100{0}\u11a8  {0}{0}\r\n"
)


# Blocks whose characters behave alike (ideographs, syllables, private use, unassigned planes), and the step at which
# they are sampled.
UNIFORM_BLOCKS = {
    range(0x3400, 0x4DC0): 7, range(0x4E00, 0xA000): 7, range(0xAC00, 0xD7A4): 5, range(0xE000, 0xF900): 11,
    range(0x20000, 0x2F800): 13, range(0x2FA20, 0x40000): 13, range(0x40000, 0xE0000): 97, range(0xE1000, 0x110000): 97,
}  # fmt: skip


@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_every_scalar_value_is_split_and_normalized_as_in_the_reference(counter, reference):
    sampled = np.zeros(0x110000, bool)
    sampled[0xD800:0xE000] = True  # surrogates, which are not scalar values
    for block in UNIFORM_BLOCKS:
        sampled[block.start : block.stop] = True
    some = [scalar for block, step in UNIFORM_BLOCKS.items() for scalar in {*block[::step], block[0], block[-1]}]
    for scalars in np.array_split(np.array([*np.flatnonzero(~sampled).tolist(), *sorted(some)]), 8):
        assert_equal_counts(counter, reference, [CONTEXTS.format(chr(scalar)) for scalar in scalars.tolist()])


@given(st.lists(anything, min_size=1))
def test_arbitrary_text(counter, reference, texts):
    assert_equal_counts(counter, reference, texts)


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<tool_call>", "</think>", "<think>", "</tool_response>", "<|fim_pad|>"]
PIECES = [
    *SPECIAL, *(text[:cut] for text in SPECIAL for cut in (1, 2, 5, -1)),
    "'s", "'T", "'rE", "'VE", "'m", "'LL", "'d", "'\u017f", "'\u212a", "\u2019s", "'",
    "\r", "\n", "\r\n", " ", "  ", "   ", "\t", "\u00a0", "\u3000", "\u2003", "\u0085", "\u2028",
    "\u200b", "\x00", "\x1c", "a", "K", "Word", "camelCase", "HTTPServer", " the", "tokenization",
    "1", "42", "\u0662", "\u00bd", "\u216b", "-", "----",
    "\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4", " \uc548\ub155", "\u1112", "\u1161", "\u11ab", "\uac00",
    "e\u0301", "\u0301", "\u0323", "\u0307", "\u212b", "\u0958", "\u0915\u093c", "\ufb1d", "\uf900", "\U0002f800",
    "\U000105d2\u0307", "\U00011935\U00011930", "\U0001611e\U0001611e", "\u1acf", "\u0897",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd", "\u2764\ufe0f",
    "\ud7ff", "\ue000", "\ufffd", "\uffff", "\U0010ffff", "\u0378", "\U000e0001",
]  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.tuples(st.sampled_from(PIECES), st.integers(2, 90))), max_size=40)
)
def test_adjacent_special_pieces(counter, reference, pieces):
    text = "".join(piece if isinstance(piece, str) else piece[0] * piece[1] for piece in pieces)
    assert_equal_counts(counter, reference, [text])


def test_random_sequences_of_pieces(counter, reference):
    chooser = random.Random(5)
    texts = []
    for _ in range(20_000):
        pool = chooser.sample(PIECES, chooser.randint(1, 12))
        texts.append("".join(chooser.choices(pool, k=chooser.choice([2, 5, 20, 60]))))
    assert_equal_counts(counter, reference, texts)


def assert_equal_counts_on_threads(counter, reference, texts):
    expected = reference(texts)
    for threads in (1, 2, 3, 8):
        np.testing.assert_array_equal(counter.count_batch(texts, threads=threads), expected)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12), st.integers(0, 40))
def test_a_long_text_is_counted_on_threads(counter, reference, pieces, shift):
    """Texts are cut into parts of 8 KB and more, and the shift moves the cuts."""
    unit = "".join(pieces)
    text = "x" * shift + unit * (40_000 // len(unit.encode()) + 1)
    assert_equal_counts_on_threads(counter, reference, ["", text, "x"])


def test_long_random_sequences_of_pieces_are_counted_on_threads(counter, reference):
    chooser = random.Random(6)
    texts = []
    for _ in range(40):
        pool = [*chooser.sample(PIECES, chooser.randint(2, 30)), *chooser.sample(["1", "\n", " ", "a", "\u4e2d"], 2)]
        texts.append("".join(chooser.choices(pool, k=20_000)))
    assert_equal_counts_on_threads(counter, reference, texts)
    for text in texts:
        assert_equal_counts_on_threads(counter, reference, [text])
    assert counter.count("".join(texts)) == reference(["".join(texts)])[0]


@pytest.mark.parametrize("word", ["a ", "\u4e2d\u3002", "1", "<|endoftext|>", "e\u0301 ", "a\r\n"])
def test_a_text_of_one_unit_beside_words_is_counted_on_threads(counter, reference, word):
    """Nothing can be cut within most of the units, so the parts around them differ in length."""
    texts = [word * 3000 + unit * 20_000 + word * 9000 for unit in RUNS.values()]
    assert_equal_counts_on_threads(counter, reference, texts)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("vocabulary", [LARGEST_VOCABULARY], indirect=True)
def test_a_book_is_counted_on_threads(counter, reference, folder):
    book = "\n\n".join(corpus(folder))
    assert_equal_counts_on_threads(counter, reference, [book])
    assert counter.count(book) == reference([book])[0]


RUNS = {
    "a": "a",
    "spaces": " ",
    "ab": "ab",
    "line ends": "\r\n",
    "dashes": "-",
    "han": "\u4e2d",
    "marks": "e\u0301",
    "combining": "\u0301",
    "zeros": "\x00",
}


@pytest.mark.parametrize("unit", RUNS.values(), ids=RUNS)
def test_long_runs_of_one_unit(counter, reference, unit):
    assert_equal_counts(counter, reference, [unit * n for n in [*range(1, 140), 1000, 4097, 20_000]])


@pytest.mark.parametrize("letters", ["abcdefghijklmnopqrstuvwxyz", "\u4e00\u4e8c\u4e09\u56db", "aA", " \t"])
def test_long_runs_of_random_letters(counter, reference, letters):
    chooser = random.Random(3)
    assert_equal_counts(
        counter, reference, ["".join(chooser.choices(letters, k=n)) for n in [*range(1, 140), 1000, 5000, 20_000]]
    )


@pytest.mark.parametrize("name", ["a", "spaces", "ab", "random", "brackets"])
def test_a_megabyte_without_a_break_takes_linear_time(counter, name):
    chooser = random.Random(1)
    text = {
        "a": "a" * 1_000_000,
        "spaces": " " * 1_000_000,
        "ab": "ab" * 500_000,
        "random": "".join(chooser.choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "brackets": "<|" * 500_000,
    }[name]
    # Quadratic time would take hours. Cutting the text in two changes a few tokens at most.
    halves = [counter.count(text[: len(text) // 2]), counter.count(text[len(text) // 2 :])]
    assert abs(counter.count(text) - sum(halves)) <= 4
