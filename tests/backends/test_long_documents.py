"""Documents that are longer than a pass."""

from __future__ import annotations

import logging
from itertools import chain

import ctxembed
import numpy as np
import pytest
from ctxembed import backends
from ctxembed._backends.onnx.passes import PassPlanner, batches
from hypothesis import given
from hypothesis import strategies as st

SENTENCES = [f"Sentence {i} of a document that is much too long." for i in range(60)]


@pytest.fixture(scope="module")
def narrow(tiny_folder):
    return backends.load(tiny_folder, threads=1, max_document_tokens=256)


def test_a_long_document_is_embedded_in_windows_that_fit(narrow, caplog):
    caplog.set_level(logging.INFO, "ctxembed")
    windows = int(narrow.count_windows([SENTENCES])[0])
    found = narrow.embed([SENTENCES, ["short"]])
    assert windows > 2
    assert len(found[0]) == len(SENTENCES)
    (record,) = caplog.records
    assert f"2 documents went through the model in {windows + 1} windows of at most 256 tokens" in record.getMessage()
    assert found.usage.total_tokens == narrow.count_tokens([SENTENCES, ["short"]]).sum()


def test_each_window_has_the_values_of_a_document_of_its_chunks(narrow):
    split = ctxembed.split_long(
        [SENTENCES],
        lambda texts: [int(narrow.count_tokens([[text]])[0]) for text in texts],
        limits=ctxembed.Limits(tokens_per_document=256),
    )
    assert len(split.windows) == narrow.count_windows([SENTENCES])[0]
    assert (split.join(narrow.embed(split.documents)).vectors == narrow.embed([SENTENCES]).vectors).all()


def test_overlap_is_context_alone_and_is_counted(tiny_folder, narrow):
    overlapping = backends.load(tiny_folder, threads=1, max_document_tokens=256, overlap_chunks=2)
    found, plain = overlapping.embed([SENTENCES]), narrow.embed([SENTENCES])
    assert found.vectors.shape == plain.vectors.shape
    assert (found.vectors != plain.vectors).any()
    assert found.usage.total_tokens > plain.usage.total_tokens
    assert found.usage.total_tokens == overlapping.count_tokens([SENTENCES])[0]


def test_long_documents_are_refused_if_told(tiny_folder):
    strict = backends.load(tiny_folder, threads=1, max_document_tokens=256, long_documents="refuse")
    tokens = int(strict.count_tokens([SENTENCES])[0])
    with pytest.raises(ctxembed.InvalidDocumentsError, match=f"has {tokens} tokens, more than the 256"):
        strict.embed([["short"], SENTENCES])
    found = strict.embed([["short"], SENTENCES], on_error="return")
    assert [len(rows) for rows in found] == [1, 0]
    assert [failure.document for failure in found.failures] == [1]


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_chunk_longer_than_a_pass_is_refused_and_never_cut(narrow, on_error):
    long = "word " * 400
    tokens = int(narrow.count_tokens([[long]])[0])
    message = f"document 1, chunk 1: has {tokens} tokens, more than the 256 that fit a pass of 256"
    if on_error == "raise":
        with pytest.raises(ValueError, match=message) as caught:
            narrow.embed([["a"], ["b", long]])
        assert caught.value.problems[0].chunk == 1
        assert len(caught.value.partial.vectors) == 0
        return
    found = narrow.embed([["a"], ["b", long], ["c"]], on_error=on_error)
    assert [len(rows) for rows in found] == [1, 0, 1]
    assert isinstance(found.failures[0].error, ctxembed.DocumentError)
    assert message in str(found.failures[0].error)
    assert (found[2] == narrow.embed([["c"]]).vectors).all()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "document 0: has no chunks"),
        (["a", ""], "document 0, chunk 1: is empty"),
        (["a\ud800"], "document 0, chunk 0: holds a lone surrogate"),
    ],
)
def test_what_is_no_document_is_refused_by_its_place(minilm, document, reason):
    with pytest.raises(ctxembed.InvalidDocumentsError, match=reason):
        minilm.embed([document])
    (failure,) = minilm.embed([document, ["sound"]], on_error="return").failures
    assert reason in str(failure.error)


def test_a_chunk_that_the_tokenizer_drops_is_refused(minilm):
    with pytest.raises(ctxembed.InvalidDocumentsError, match="document 0, chunk 1: has no tokens"):
        minilm.embed([["a", " \t\n", "b"]])


def test_a_pass_is_capped_on_a_cpu(tiny, minilm):
    assert (tiny.context_tokens, minilm.context_tokens) == (2048, 512)
    assert (tiny.device, tiny.count_windows([["a"] * 1024, ["a"] * 1025]).tolist()) == ("cpu", [1, 2])


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    overlap=st.integers(0, 3),
    edges=st.sampled_from([([], []), ([101], [102]), ([1, 2], [3])]),
    pools=st.booleans(),
)
def test_windows_hold_each_chunk_once_and_fit(counts, overlap, edges, pools):
    before, after = edges
    planner = PassPlanner(before, after, 0, pools, 20, overlap, cuts=True)
    chunks = [[1000 * (i + 1)] * count for i, count in enumerate(counts)]
    kept = []
    for each in planner.plan(7, chunks):
        assert each.document == 7
        assert len(each.ids) <= 20
        for start, stop in each.spans:
            content = [token for token in each.ids[start:stop] if token >= 1000]
            assert len(set(content)) == 1
            special = [token for token in each.ids[start:stop] if token < 1000]
            assert special == [] or pools
            assert 0 not in special  # a separator belongs to no chunk
            kept.append(content)
    assert kept == chunks


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), most=st.integers(1, 200))
def test_batches_hold_each_pass_once_within_the_budget(lengths, most):
    found = list(batches(lengths, most))
    assert sorted(chain.from_iterable(found)) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= most
    assert list(batches(lengths, None)) == [[i] for i in range(len(lengths))]


def test_check_is_called_before_each_pass_and_ends_the_call(tiny):
    calls = []
    tiny.embed([["a"], ["b"], ["c"]], check=lambda: calls.append(1))
    assert len(calls) == 3

    def stop():
        calls.append(1)
        if len(calls) == 5:
            raise TimeoutError("gone")

    with pytest.raises(TimeoutError, match="gone"):
        tiny.embed([["a"], ["b"], ["c"]], check=stop)
    assert len(calls) == 5


def test_threads_share_an_embedder(tiny):
    from concurrent.futures import ThreadPoolExecutor

    documents = [[[f"document {i}", f"its second chunk {i}"]] for i in range(24)]
    expected = [tiny.embed(each).vectors for each in documents]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda each: tiny.embed(each).vectors, documents), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
