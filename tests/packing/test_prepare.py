"""A single text is prepared without arrays, with the same result."""

from __future__ import annotations

import dataclasses

import ctxembed
import numpy as np
import pytest
from ctxembed._models import get_model
from ctxembed._planning.calibration import TokenCalibration
from ctxembed._planning.prepare import prepare, prepare_texts
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(min_size=1, max_size=60),
    st.text("ab \u00e9\u4e2d\U0001f600", max_size=200),
    st.sampled_from(["", "\ud800", "a<|endoftext|>b", "a<|chunk_sep|>b", "word " * 300]),
)
MODELS = st.sampled_from(["pplx-embed-context-v1-0.6b", "pplx-embed-v2-context-0.6b"])
COUNTS = st.lists(st.tuples(st.tuples(*[st.integers(0, 1000)] * 4), st.integers(1, 5000)), max_size=3)


@given(TEXTS, MODELS, st.integers(1, 500), st.integers(1, 500), COUNTS, st.integers(0, 9))
def test_a_text_alone_is_prepared_as_among_others(text, model, document_limit, limit, counts, first):
    limits = ctxembed.Limits(tokens_per_document=document_limit, tokens=limit)
    calibration = TokenCalibration()
    for estimates, tokens in counts:
        calibration.observe(estimates, tokens)
    options = {"limits": limits, "calibration": calibration, "model": get_model(model), "first_document": first}
    alone, among = prepare([[text]], **options), prepare([[text], ["another"]], **options)
    assert prepare_texts([text], **options).tokens.tolist() == alone.tokens.tolist()
    for field in dataclasses.fields(alone):
        found, expected = getattr(alone, field.name), getattr(among, field.name)
        if field.name == "offsets":
            expected = expected[:2]
        if field.name in ("documents", "problems", "requests", "lower_bound"):
            continue
        if isinstance(found, np.ndarray):
            expected = expected[: len(found)]
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), field.name
            np.testing.assert_array_equal(found, expected, err_msg=field.name)
        else:
            assert found == expected, field.name
    assert alone.documents == among.documents[:1]
    assert alone.problems == tuple(problem for problem in among.problems if problem.document == first)
    assert [request.tolist() for request in alone.requests] == ([[0]] if alone.sendable[0] else [])
    assert alone.lower_bound == len(alone.requests)


@pytest.mark.parametrize("name", ["sendable", "chunk_counts", "offsets", "alone"])
def test_what_single_texts_share_cannot_be_changed(name):
    prepared = prepare([["a text"]], calibration=TokenCalibration())
    with pytest.raises(ValueError, match="read-only"):
        getattr(prepared, name)[0] = 0
