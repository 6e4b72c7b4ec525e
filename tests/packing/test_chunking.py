"""chunk: a text is cut at its structure into chunks that fit, and each span is where its chunk stands."""

from __future__ import annotations

import sys
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import _core
from ctxembed._planning import chunking
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples import SHARED

KINDS = ["text", "markdown"]
CORPUS = SHARED / "corpus"


def words(texts):
    return [len(text.split()) for text in texts]


def characters(texts):
    return [len(text) for text in texts]


def estimates(texts):
    return _core.token_estimate(texts)[1]


def check(text, chunks, max_tokens, count):
    assert chunks.spans.dtype == np.int64
    assert chunks.spans.shape == (len(chunks.texts), 2)
    assert [text[start:end] for start, end in chunks.spans.tolist()] == chunks.texts
    assert all(chunk.strip() for chunk in chunks.texts)
    counts = zip(chunks.texts, count(chunks.texts), strict=True)
    assert all(tokens <= max_tokens or len(chunk) == 1 for chunk, tokens in counts)
    # Nothing but whitespace stands outside the chunks.
    covered = np.zeros(len(text), dtype=bool)
    for start, end in chunks.spans.tolist():
        covered[start:end] = True
    assert not "".join(text[i] for i in np.flatnonzero(~covered)).strip()
    assert np.all(np.diff(chunks.spans[:, 0]) > 0)
    assert np.all(np.diff(chunks.spans[:, 1]) > 0)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("overlap", [0, 40])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["pep_en", "rustbook_en", "rustbook_zh", "react_ko"])
def test_chunks_of_the_corpus_fit_and_their_spans_hold(language, kind, overlap):
    paths = sorted((CORPUS / language).iterdir())[::4]
    assert paths
    for path in paths:
        text = path.read_bytes().decode()
        check(text, ctxembed.chunk(text, overlap=overlap, kind=kind), 256, estimates)


PIECES = [
    *("a", "word", " ", "  ", "\n", "\n\n", "\r\n", "\r", ". ", "é", "e\u0301", "👩\u200d👧", "🙂", "\0", "\x1c"),
    *("\u3000", "中文。", "# ", "- ", "```\n", "|a|b|\n|-|-|\n", "> ", "<b>", "\ufeff", "\u2028"),
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 12), st.integers(0, 11), st.sampled_from(KINDS), st.sampled_from([8, 1 << 13]))
def test_spans_hold_for_any_text(text, max_tokens, overlap, kind, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "_LEAST_WINDOW", dict.fromkeys(KINDS, window))
        patch.setattr(chunking, "_WINDOW", 1)
        chunks = ctxembed.chunk(
            text, max_tokens=max_tokens, overlap=min(overlap, max_tokens - 1), token_counter=characters, kind=kind
        )
    check(text, chunks, max_tokens, characters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", " ", "\n\n\r\n\t", "\u3000" * 9, "\x1c\x1d", " " * 300_000])
def test_a_text_of_whitespace_has_no_chunks(text, kind):
    chunks = ctxembed.chunk(text, kind=kind)
    assert (chunks.texts, chunks.spans.shape, len(chunks)) == ([], (0, 2), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_text_is_one_chunk_without_the_whitespace_around_it(kind):
    chunks = ctxembed.chunk("\n\n one paragraph \r\n", kind=kind)
    assert (chunks.texts, chunks.spans.tolist()) == (["one paragraph"], [[3, 16]])


def test_paragraphs_are_kept_whole_where_they_fit():
    text = "One two three. Four.\n\nFive six.\n\nSeven eight nine ten."
    assert ctxembed.chunk(text, max_tokens=6, token_counter=words).texts == [
        "One two three. Four.\n\nFive six.",
        "Seven eight nine ten.",
    ]


def test_markdown_is_cut_at_headings():
    text = "# One\n\na b c\n\nd e\n\n# Two\n\nf g"
    assert ctxembed.chunk(text, max_tokens=8, token_counter=words, kind="markdown").texts == [
        "# One\n\na b c\n\nd e",
        "# Two\n\nf g",
    ]


def test_chunks_repeat_up_to_the_overlap():
    text = " ".join(f"w{i}" for i in range(40))
    chunks = ctxembed.chunk(text, max_tokens=10, overlap=3, token_counter=words)
    for (_, end), (start, _) in zip(chunks.spans[:-1], chunks.spans[1:], strict=True):
        assert len(text[start:end].split()) == 3
    check(text, chunks, 10, words)


@pytest.mark.parametrize("overlap", [0, 3])
def test_a_text_of_many_windows_is_cut_as_one(overlap, monkeypatch):
    text = "\n\n".join(f"Paragraph {i} has a few words. It has a second sentence too." for i in range(400))
    chunks = ctxembed.chunk(text, max_tokens=30, overlap=overlap, token_counter=words)
    monkeypatch.setitem(chunking._LEAST_WINDOW, "text", len(text))
    assert chunks.texts == ctxembed.chunk(text, max_tokens=30, overlap=overlap, token_counter=words).texts


def test_one_word_of_a_megabyte_is_cut():
    text = "a" * 1_000_000
    check(text, ctxembed.chunk(text), 256, estimates)


def test_few_tokens_may_fill_more_than_a_window():
    text = "x" * 50_000 + " y"
    assert ctxembed.chunk(text, max_tokens=2, token_counter=words).texts == [text]


def test_a_token_counter_counts():
    path = Path(__file__).parents[1] / "data" / "tokenizer" / "tokenizer.json"
    counter = ctxembed.TokenCounter.from_file(path)
    text = "Herons wait in shallow water, and kingfishers dive. " * 50
    check(text, ctxembed.chunk(text, max_tokens=20, token_counter=counter), 20, counter)


def test_a_counter_with_count_batch_counts():
    class Counter:
        count_batch = staticmethod(words)

    assert ctxembed.chunk("a b c", max_tokens=2, token_counter=Counter()).texts == ["a b", "c"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_counter_is_raised(error, kind):
    def fails(texts):
        raise error

    with pytest.raises(type(error)) as raised:
        ctxembed.chunk("a b. " * 1000, max_tokens=3, token_counter=fails, kind=kind)
    assert raised.value is error


@pytest.mark.parametrize(
    ("counter", "error", "words"),
    [
        (lambda texts: [], ValueError, "0 counts for 1 text"),
        (lambda texts: [-1], ValueError, "returned -1 for 'text'"),
        (lambda texts: ["one"], TypeError, "must be an int, got 'one'"),
        (lambda texts: 3, TypeError, "must be a sequence of ints"),
        (3, TypeError, "count_batch, or be callable with a list of str, got int"),
    ],
)
def test_a_wrong_counter_is_refused(counter, error, words):
    with pytest.raises(error, match=words):
        ctxembed.chunk("text", token_counter=counter)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1"),
        ({"max_tokens": 2**40}, ValueError, "max_tokens must be at least 1"),
        ({"max_tokens": 2.5}, TypeError, "max_tokens must be an int, got 2.5"),
        ({"max_tokens": True}, TypeError, "max_tokens must be an int"),
        ({"overlap": -1}, ValueError, "overlap must be at least 0"),
        ({"overlap": 256}, ValueError, "overlap must be less than max_tokens = 256, got 256"),
        ({"overlap": "3"}, TypeError, "overlap must be an int"),
        ({"kind": "html"}, ValueError, "kind must be 'text' or 'markdown', got 'html'"),
    ],
)
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        ctxembed.chunk("text", **options)


def test_a_text_must_be_a_str():
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        ctxembed.chunk(b"text")


def test_a_lone_surrogate_is_refused_with_its_position():
    with pytest.raises(ValueError, match="lone surrogate, U\\+D800, at character 5"):
        ctxembed.chunk("text \ud800")


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    with pytest.raises(ImportError, match=r"ctxembed.chunk needs semantic_text_splitter: .*'ctxembed\[chunk\]'"):
        ctxembed.chunk("text")


def test_the_spans_are_read_only():
    assert not ctxembed.chunk("text").spans.flags.writeable


def test_markdown_that_the_library_cannot_cut_is_cut_as_text():
    """A version of the library panics on it."""
    text = "   \u3000🙂\r\n. "
    check(text, ctxembed.chunk(text, max_tokens=6, overlap=3, token_counter=characters, kind="markdown"), 6, characters)
