"""decode_base64 and encode_base64, compared with the standard library."""

from __future__ import annotations

import base64

import ctxembed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_encoding_matches_the_standard_library_and_round_trips(width, rows, seed):
    vectors = np.random.default_rng(seed).integers(-128, 128, (rows, width), dtype=np.int8)
    strings = ctxembed.encode_base64(vectors)
    assert strings == [base64.b64encode(row.tobytes()).decode() for row in vectors]
    np.testing.assert_array_equal(ctxembed.decode_base64(strings), vectors)
    np.testing.assert_array_equal(
        ctxembed.decode_base64(strings, encoding_format="base64_binary"), vectors.view(np.uint8)
    )


def test_one_string_decodes_to_one_vector():
    vector = np.arange(-4, 4, dtype=np.int8)
    text = ctxembed.encode_base64(vector)
    assert isinstance(text, str)
    np.testing.assert_array_equal(ctxembed.decode_base64(text), vector)


def test_an_empty_list_decodes_to_a_matrix_without_rows():
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
def test_non_canonical_base64_raises_decode_error_with_its_position(strings, kind, offset, chunk):
    with pytest.raises(ctxembed.DecodeError) as caught:
        ctxembed.decode_base64(strings)
    assert (caught.value.kind, caught.value.offset, caught.value.chunk) == (kind, offset, chunk)


@pytest.mark.parametrize(
    ("strings", "error", "words"),
    [
        ([b"AQID"], TypeError, "strings[0]"),
        (["AQID", None], TypeError, "strings[1]"),
        (5, TypeError, "sequence of str"),
        (b"AQID", TypeError, "sequence of str, got b'AQID'"),
        (["AQ\ud800D"], ValueError, "surrogate"),
    ],
)
def test_strings_must_be_a_sequence_of_str(strings, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_base64(strings)
    assert words in str(caught.value)


def test_dimensions_are_checked_when_given():
    with pytest.raises(ctxembed.DecodeError, match="expected 4"):
        ctxembed.decode_base64(["AQID"], dimensions=4)


@pytest.mark.parametrize("vectors", [np.zeros((2, 3)), [[1, 2]], np.zeros((2, 3, 4), np.int8)])
def test_encode_base64_rejects_other_dtypes_and_shapes(vectors):
    with pytest.raises((TypeError, ValueError)):
        ctxembed.encode_base64(vectors)


def test_encode_base64_names_the_dtype_it_got_and_those_it_accepts():
    with pytest.raises(TypeError, match="vectors must have dtype int8 or uint8, got float64"):
        ctxembed.encode_base64(np.zeros((2, 3)))


@pytest.mark.parametrize(("encoding", "dtype"), [("base64_int8", np.int8), ("base64_binary", np.uint8)])
def test_out_is_filled_and_returned(encoding, dtype):
    texts = [base64.b64encode(bytes([i, i + 1, i + 2])).decode() for i in range(5)]
    out = np.zeros((5, 3), dtype)
    assert ctxembed.decode_base64(texts, encoding_format=encoding, out=out) is out
    np.testing.assert_array_equal(out, [[i, i + 1, i + 2] for i in range(5)])


def test_out_may_be_a_vector_for_one_string():
    out = np.zeros(3, np.int8)
    assert ctxembed.decode_base64("AQID", out=out) is out
    np.testing.assert_array_equal(out, [1, 2, 3])


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.zeros((2, 4), np.int8), ctxembed.DecodeError, "4"),
        (np.zeros((3, 3), np.int8), ValueError, r"out has shape \(3, 3\), expected \(2, 3\)"),
        (np.zeros((2, 3), np.uint8), TypeError, "out"),
        (np.zeros((2, 6), np.int8)[:, ::2], ValueError, "C-contiguous"),
        (np.zeros(6, np.int8), ValueError, "matrix"),
        ([[0, 0, 0]], TypeError, "out"),
    ],
)
def test_an_unsuitable_out_is_rejected(out, error, words):
    with pytest.raises(error, match=words):
        ctxembed.decode_base64(["AQID", "BAUG"], out=out)


def test_a_read_only_out_is_rejected():
    out = np.zeros((1, 3), np.int8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="^out is read-only$"):
        ctxembed.decode_base64(["AQID"], out=out)


def test_a_strided_out_for_one_string_is_rejected():
    with pytest.raises(ValueError, match="C-contiguous"):
        ctxembed.decode_base64("AQID", out=np.zeros(6, np.int8)[::2])
