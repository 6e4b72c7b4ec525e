"""split_long: long documents are split at chunk boundaries into windows that fit, and joined again."""

from __future__ import annotations

from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from ctxembed import DocumentError, Embeddings, Failure, Limits, Usage, Window, split_long
from hypothesis import given, settings
from hypothesis import strategies as st


def words(texts):
    """Count each word as a token."""
    return [len(text.split()) for text in texts]


def text(tokens: int) -> str:
    return " ".join(["w"] * tokens)


def embedded(split, failures=()):
    """Return embeddings of the windows whose rows are (document, chunk) of the original."""
    failed = {failure.document for failure in failures}
    rows, offsets = [], [0]
    for position, window in enumerate(split.windows):
        if position not in failed:
            rows += [[window.document, chunk] for chunk in range(window.chunks.start, window.chunks.stop)]
        offsets.append(len(rows))
    return Embeddings(
        vectors=np.array(rows, dtype=np.int8).reshape(-1, 2),
        offsets=np.array(offsets),
        model="m",
        dimensions=2,
        encoding_format="base64_int8",
        usage=Usage(10, 10, Decimal("0.1"), 2),
        failures=tuple(failures),
    )


documents = st.lists(st.lists(st.integers(1, 12), max_size=30), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(documents, st.integers(12, 40), st.integers(1, 12), st.integers(0, 4))
def test_windows_fit_the_limits_cover_each_chunk_once_and_join(counts, tokens, chunks, overlap):
    limits = Limits(tokens_per_document=tokens, chunks=chunks)
    given_documents = [[text(count) for count in document] for document in counts]
    split = split_long(given_documents, words, overlap_chunks=overlap, limits=limits)
    covered = [[] for _ in counts]
    for part, window in zip(split.documents, split.windows, strict=True):
        assert part == given_documents[window.document][window.chunks]
        assert not part or sum(words(part)) + len(part) - 1 <= tokens
        assert len(part) <= chunks
        assert 0 <= window.before <= overlap
        assert 0 <= window.after <= overlap
        covered[window.document] += range(window.start, window.stop)
    assert covered == [list(range(len(document))) for document in counts]
    joined = split.join(embedded(split))
    assert joined.vectors.tolist() == [[d, c] for d, document in enumerate(counts) for c in range(len(document))]
    assert np.diff(joined.offsets).tolist() == [len(document) for document in counts]
    whole = [sum(document) + len(document) - 1 <= tokens and len(document) <= chunks for document in counts]
    assert split.split.tolist() == [d for d, fits in enumerate(whole) if not fits]


def test_windows_of_a_document_have_similar_sizes():
    split = split_long([[text(9)] * 11], words, limits=Limits(tokens_per_document=100))
    assert [(window.start, window.stop) for window in split.windows] == [(0, 6), (6, 11)]


def test_overlap_is_added_on_both_sides_while_it_fits():
    split = split_long([[text(9)] * 12], words, overlap_chunks=2, limits=Limits(tokens_per_document=60))
    assert split.windows == (
        Window(0, 0, 4, 0, 2),
        Window(0, 4, 6, 2, 2),
        Window(0, 6, 8, 2, 2),
        Window(0, 8, 12, 2, 0),
    )
    tight = split_long([[text(30)] * 3], words, overlap_chunks=5, limits=Limits(tokens_per_document=61))
    assert [(w.before, w.stop - w.start, w.after) for w in tight.windows] == [(0, 1, 1), (1, 1, 0), (1, 1, 0)]


def test_documents_that_fit_are_not_split_and_join_returns_its_argument():
    split = split_long([["a b"], [], ["c", "d"]], words)
    assert split.documents == [["a b"], [], ["c", "d"]]
    assert (len(split), repr(split)) == (3, "SplitDocuments(3 documents in 3 windows, 0 cut)")
    embeddings = embedded(split)
    assert split.join(embeddings) is embeddings


def test_a_failed_window_fails_its_document_alone():
    split = split_long([["a"], [text(50)] * 4, ["b"]], words, limits=Limits(tokens_per_document=101))
    assert len(split.windows) == 4
    first, second = ValueError("first"), ValueError("second")
    joined = split.join(embedded(split, [Failure(1, first, 2), Failure(2, second, 5)]))
    assert joined.offsets.tolist() == [0, 1, 1, 2]
    assert joined.vectors.tolist() == [[0, 0], [2, 0]]
    assert joined.failures == (Failure(1, first, 5),)
    one = split.join(embedded(split, [Failure(2, second, 1)]))
    assert one.failures == (Failure(1, second, 1),)
    assert one.vectors.tolist() == [[0, 0], [2, 0]]


def test_usage_includes_all_windows():
    split = split_long([[text(50)] * 4], words, overlap_chunks=1, limits=Limits(tokens_per_document=151))
    assert split.join(embedded(split)).usage == Usage(10, 10, Decimal("0.1"), 2)


def test_a_chunk_over_the_limit_is_rejected_by_name():
    with pytest.raises(DocumentError, match=r"document 1, chunk 2: has 11 tokens, more than the 10 of a document"):
        split_long([["a"], ["b", "c", text(11)]], words, limits=Limits(tokens_per_document=10))


def test_without_a_counter_windows_fit_the_estimate():
    document = ["The quick brown fox jumps over the lazy dog. " * 20] * 300
    split = split_long([document])
    assert len(split.windows) > 1
    assert ctxembed.plan(split.documents).problems == ()
    assert ctxembed.plan([document]).problems != ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overlap_chunks": -1}, ValueError, "overlap_chunks must be at least 0, got -1"),
        ({"overlap_chunks": 1.0}, TypeError, "overlap_chunks must be an int, got 1.0"),
        ({"overlap_chunks": True}, TypeError, "overlap_chunks must be an int, got True"),
        ({"limits": 7}, TypeError, "limits must be a ctxembed.Limits, got 7"),
        ({"counter": 7}, TypeError, "token_counter must have the method count_batch"),
    ],
)
def test_invalid_arguments_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        split_long([["a"]], **options)
    with pytest.raises(TypeError, match="document 0 is a str"):
        split_long(["a"])


def test_join_rejects_embeddings_of_other_documents():
    split = split_long([[text(50)] * 4], words, limits=Limits(tokens_per_document=101))
    with pytest.raises(TypeError, match="embeddings must be a ctxembed.Embeddings, got list"):
        split.join([])
    other = embedded(split_long([["a"]], words))
    with pytest.raises(ValueError, match="embeddings have 1 documents, expected one a window: 2"):
        split.join(other)
    wrong = embedded(split_long([["a"], ["b"]], words))
    with pytest.raises(ValueError, match="document 0 of the embeddings has 1 rows, its window 2 chunks"):
        split.join(wrong)


def test_split_documents_can_be_embedded_and_joined(server):
    documents = [["a short one"], [text(400)] * 5]
    limits = Limits(tokens_per_document=1000)
    split = split_long(documents, overlap_chunks=1, limits=limits)
    with ctxembed.Client("key", base_url=server.base_url, limits=limits) as client:
        joined = split.join(client.embed(split.documents))
    assert [len(document) for document in joined] == [1, 5]
