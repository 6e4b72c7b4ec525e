"""Base64 strings to rows and back, against the standard library."""

from __future__ import annotations

import base64

import ctxembed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rows_round_trip(width, rows, seed):
    vectors = np.random.default_rng(seed).integers(-128, 128, (rows, width), dtype=np.int8)
    strings = ctxembed.encode_base64(vectors)
    assert strings == [base64.b64encode(row.tobytes()).decode() for row in vectors]
    np.testing.assert_array_equal(ctxembed.decode_base64(strings), vectors)
    np.testing.assert_array_equal(
        ctxembed.decode_base64(strings, encoding_format="base64_binary"), vectors.view(np.uint8)
    )


def test_one_string_is_one_vector():
    vector = np.arange(-4, 4, dtype=np.int8)
    text = ctxembed.encode_base64(vector)
    assert isinstance(text, str)
    np.testing.assert_array_equal(ctxembed.decode_base64(text), vector)


def test_no_strings_are_no_rows():
    assert ctxembed.decode_base64([], dimensions=16).shape == (0, 16)
    assert ctxembed.encode_base64(np.empty((0, 16), np.int8)) == []


@pytest.mark.parametrize(
    ("strings", "kind", "offset", "chunk"),
    [
        (["AQID", "AQ=="], "length", 4, 1),
        (["AQID", "AQIDBA=="], "length", 4, 1),
        (["AQID", ""], "length", 0, 1),
        (["AQI*"], "base64_byte", 3, 0),
        (["AQI\u00e9"], "base64_byte", 3, 0),
        (["AQ"], "base64_padding", 2, 0),
        (["AR=="], "base64_trailing_bits", 1, 0),
        (["AQID\n"], "base64_byte", 4, 0),
    ],
)
def test_a_string_that_is_not_the_canonical_spelling_is_refused_with_its_place(strings, kind, offset, chunk):
    with pytest.raises(ctxembed.DecodeError) as caught:
        ctxembed.decode_base64(strings)
    assert (caught.value.kind, caught.value.offset, caught.value.chunk) == (kind, offset, chunk)


@pytest.mark.parametrize(
    ("strings", "error", "words"),
    [
        ([b"AQID"], TypeError, "strings[0]"),
        (["AQID", None], TypeError, "strings[1]"),
        (5, TypeError, "sequence of str"),
        (["AQ\ud800D"], ValueError, "surrogate"),
    ],
)
def test_what_is_not_a_list_of_text_is_named(strings, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_base64(strings)
    assert words in str(caught.value)


def test_dimensions_are_checked_when_given():
    with pytest.raises(ctxembed.DecodeError, match="expected 4"):
        ctxembed.decode_base64(["AQID"], dimensions=4)


@pytest.mark.parametrize("vectors", [np.zeros((2, 3)), [[1, 2]], np.zeros((2, 3, 4), np.int8)])
def test_encoding_takes_int8_or_uint8_rows_only(vectors):
    with pytest.raises((TypeError, ValueError)):
        ctxembed.encode_base64(vectors)
