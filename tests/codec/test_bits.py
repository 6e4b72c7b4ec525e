"""pack_bits, unpack_bits, reverse_bit_order, truncate and normalize, compared with numpy."""

from __future__ import annotations

import ctxembed
import numpy as np
import pytest

RNG = np.random.default_rng(0)


def int8(*shape: int) -> np.ndarray:
    return RNG.integers(-128, 128, shape, dtype=np.int8)


@pytest.mark.parametrize("dims", [8, 64, 128, 136, 384, 1000, 1024, 2560])
def test_pack_bits_matches_numpy_packbits_with_little_bit_order(dims):
    vectors = int8(7, dims)
    vectors[0] = -128
    vectors[1] = 0
    np.testing.assert_array_equal(ctxembed.pack_bits(vectors), np.packbits(vectors >= 0, axis=1, bitorder="little"))
    np.testing.assert_array_equal(ctxembed.pack_bits(vectors[3]), ctxembed.pack_bits(vectors)[3])


@pytest.mark.parametrize("dtype", [np.int8, np.float32, bool, "int8"])
def test_unpack_bits_returns_signs_or_booleans(dtype):
    bits = RNG.integers(0, 256, (5, 128), dtype=np.uint8)
    truth = np.unpackbits(bits, axis=1, bitorder="little").astype(bool)
    expected = truth if dtype is bool else np.where(truth, 1, -1).astype(dtype)
    unpacked = ctxembed.unpack_bits(bits, dtype=dtype)
    assert unpacked.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(unpacked, expected)
    np.testing.assert_array_equal(ctxembed.unpack_bits(bits, dimensions=251, dtype=dtype), expected[:, :251])


def test_unpack_bits_inverts_pack_bits():
    signs = ctxembed.unpack_bits(RNG.integers(0, 256, (9, 16), dtype=np.uint8))
    np.testing.assert_array_equal(ctxembed.unpack_bits(ctxembed.pack_bits(signs)), signs)


def test_reverse_bit_order_converts_between_the_two_bit_orders():
    signs = ctxembed.unpack_bits(RNG.integers(0, 256, (4, 32), dtype=np.uint8))
    msb = np.packbits(signs > 0, axis=1)
    np.testing.assert_array_equal(ctxembed.reverse_bit_order(msb), ctxembed.pack_bits(signs))
    np.testing.assert_array_equal(ctxembed.reverse_bit_order(ctxembed.reverse_bit_order(msb)), msb)


def test_truncating_bits_equals_packing_truncated_vectors():
    vectors = int8(6, 1024)
    np.testing.assert_array_equal(
        ctxembed.truncate(ctxembed.pack_bits(vectors), 256), ctxembed.pack_bits(ctxembed.truncate(vectors, 256))
    )
    np.testing.assert_array_equal(ctxembed.truncate(vectors, 256), vectors[:, :256])
    assert ctxembed.truncate(vectors, 256).flags.c_contiguous
    assert not np.shares_memory(ctxembed.truncate(vectors, 1024), vectors)


def test_normalize_returns_unit_rows_and_keeps_zero_rows():
    vectors = int8(50, 1024)
    vectors[3] = 0
    vectors[4] = -128
    unit = ctxembed.normalize(vectors)
    assert unit.dtype == np.float32
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, np.divide(exact, lengths, where=lengths > 0, out=np.zeros_like(exact)), rtol=2e-7)
    assert not unit[3].any()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ctxembed.pack_bits(np.zeros((2, 12), np.int8)), ValueError, "12"),
        (lambda: ctxembed.pack_bits(np.zeros((2, 16), np.uint8)), TypeError, "uint8"),
        (lambda: ctxembed.pack_bits(np.full((2, 16), np.nan)), TypeError, "float64"),
        (lambda: ctxembed.pack_bits([[1, 2]]), TypeError, "list"),
        (lambda: ctxembed.pack_bits(np.zeros((2, 16), np.int8).T), ValueError, "contiguous"),
        (lambda: ctxembed.unpack_bits(np.zeros(2, np.uint8), dimensions=17), ValueError, "17"),
        (lambda: ctxembed.unpack_bits(np.zeros(2, np.uint8), dtype=np.uint16), TypeError, "uint16"),
        (lambda: ctxembed.unpack_bits(np.zeros(2, np.int8)), TypeError, "int8"),
        (lambda: ctxembed.reverse_bit_order(np.zeros((1, 1, 1), np.uint8)), ValueError, "3"),
        (lambda: ctxembed.truncate(np.zeros((2, 16), np.int8), 17), ValueError, "17"),
        (lambda: ctxembed.truncate(np.zeros((2, 16), np.int8), 0), ValueError, "0"),
        (lambda: ctxembed.truncate(np.zeros((2, 16), np.uint8), 12), ValueError, "12"),
        (lambda: ctxembed.truncate(np.zeros((2, 16), np.float32), 8), TypeError, "int8 or uint8, got float32"),
        (lambda: ctxembed.normalize(np.zeros((2, 16), np.float32)), TypeError, "float32"),
        (lambda: ctxembed.normalize(np.ma.zeros((2, 16), np.int8)), TypeError, "without a mask, got a MaskedArray"),
        (lambda: ctxembed.decode_base64("AQ==", encoding_format=1), TypeError, "'base64_binary', got 1"),
        (lambda: ctxembed.ResponseDecoder(encoding_format=None), TypeError, "'base64_binary', got None"),
    ],
)
def test_unsuitable_arguments_are_rejected_with_their_value(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("function", [ctxembed.pack_bits, ctxembed.normalize, ctxembed.encode_base64])
def test_inputs_are_not_modified(function):
    vectors = int8(4, 64)
    before = vectors.copy()
    vectors.flags.writeable = False
    function(vectors)
    np.testing.assert_array_equal(vectors, before)


def test_empty_matrices_give_empty_matrices():
    empty = np.empty((0, 64), np.int8)
    assert ctxembed.pack_bits(empty).shape == (0, 8)
    assert ctxembed.normalize(empty).shape == (0, 64)
    assert ctxembed.truncate(empty, 32).shape == (0, 32)
