"""A response body becomes one matrix, or an error with a place."""

from __future__ import annotations

import copy
import json
import pickle
import random
from decimal import Decimal

import ctxembed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import chunk_vectors, response, spell


def test_rows_offsets_model_and_usage_are_the_bodys(shape, vectors, parsed):
    emb = ctxembed.decode_response(spell(parsed), shape=shape, dimensions=1024)
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.vectors.dtype == np.int8
    assert emb.vectors.flags.c_contiguous
    assert emb.offsets.tolist() == [0, 3, 4, 6]
    assert emb.offsets.dtype == np.int64
    assert (emb.model, emb.dimensions, emb.encoding_format) == ("pplx-embed-context-v1-0.6b", 1024, "base64_int8")
    assert emb.usage == ctxembed.Usage(10, 12, Decimal("0.00000008"), 1)
    assert emb.failures == ()


def test_nothing_needs_to_be_known_beforehand(vectors, parsed):
    emb = ctxembed.decode_response(spell(parsed))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.dimensions == 1024


def test_bits_are_rows_of_an_eighth_of_the_dimensions(shape):
    bits = chunk_vectors(shape, 128).view(np.uint8)
    emb = ctxembed.decode_response(spell(response(shape, bits)), dimensions=1024, encoding_format="base64_binary")
    np.testing.assert_array_equal(emb.vectors, bits)
    assert (emb.vectors.dtype, emb.dimensions) == (np.uint8, 1024)


def test_rows_follow_both_indexes_in_whatever_order_they_come(shape, vectors, parsed):
    shuffled = copy.deepcopy(parsed)
    rng = random.Random(1)
    rng.shuffle(shuffled["data"])
    for document in shuffled["data"]:
        rng.shuffle(document["data"])
    assert shuffled != parsed
    for known in (None, shape):
        np.testing.assert_array_equal(ctxembed.decode_response(spell(shuffled), shape=known).vectors, vectors)


def test_the_plain_endpoints_flat_list_is_one_chunk_a_document(vectors):
    flat = response([len(vectors)], vectors)["data"][0]
    emb = ctxembed.decode_response(spell(flat), shape=[1] * len(vectors))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert len(emb) == len(vectors)


def test_an_absent_usage_cost_and_model_are_none(vectors):
    body = response([6], vectors)
    del body["model"]
    emb = ctxembed.decode_response(spell(body))
    assert emb.model is None
    assert emb.usage == ctxembed.Usage(None, None, None, 1)
    body["usage"] = {"total_tokens": 3, "cost": None}
    assert ctxembed.decode_response(spell(body)).usage == ctxembed.Usage(None, 3, None, 1)


def test_a_cost_in_another_currency_is_not_called_usd(vectors):
    body = response([6], vectors, usage={"cost": {"total_cost": 1.5, "currency": "EUR"}})
    assert ctxembed.decode_response(spell(body)).usage.cost_usd is None


def test_cost_keeps_every_digit_that_was_sent(vectors):
    body = spell(response([6], vectors, usage={"cost": {"total_cost": 0}}))
    body = body.replace(b'"total_cost":0', b'"total_cost":0.12345678901234567890123')
    assert ctxembed.decode_response(body).usage.cost_usd == Decimal("0.12345678901234567890123")


def test_out_receives_the_rows_and_is_the_result(shape, vectors, parsed):
    out = np.empty_like(vectors)
    emb = ctxembed.decode_response(spell(parsed), shape=shape, out=out)
    assert emb.vectors is out
    np.testing.assert_array_equal(out, vectors)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda v: np.empty_like(v, dtype=np.uint8), TypeError, "int8"),
        (lambda v: np.empty_like(v, dtype=np.float32), TypeError, "float32"),
        (lambda v: np.empty((5, 1024), np.int8), ValueError, "(5, 1024)"),
        (lambda v: np.empty((6, 512), np.int8), ValueError, "(6, 512)"),
        (lambda v: np.empty((6, 2048), np.int8)[:, ::2], ValueError, "contiguous"),
        (lambda v: np.empty(6 * 1024, np.int8), ValueError, "matrix"),
        (lambda v: v.tolist(), TypeError, "numpy array"),
    ],
)
def test_an_out_that_does_not_fit_is_refused_with_what_it_is(shape, vectors, parsed, make, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_response(spell(parsed), shape=shape, dimensions=1024, out=make(vectors))
    assert words in str(caught.value)


def test_an_out_with_too_many_rows_for_the_body_is_refused(vectors, parsed):
    with pytest.raises(ValueError, match="7 rows"):
        ctxembed.decode_response(spell(parsed), out=np.empty((7, 1024), np.int8))


def test_a_readonly_out_is_refused(vectors, parsed):
    out = np.empty_like(vectors)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        ctxembed.decode_response(spell(parsed), out=out)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_body_decodes(vectors, parsed, kind):
    np.testing.assert_array_equal(ctxembed.decode_response(kind(spell(parsed))).vectors, vectors)


@pytest.mark.parametrize("body", ["text", None, 3, ["a"], np.zeros(3)])
def test_a_body_that_is_not_bytes_is_a_type_error(body):
    with pytest.raises(TypeError, match="body must be bytes"):
        ctxembed.decode_response(body)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"dimensions": 0}, ValueError, "dimensions must be at least 1, got 0"),
        ({"dimensions": -8}, ValueError, "-8"),
        ({"dimensions": 2.0}, TypeError, "2.0"),
        ({"dimensions": float("nan")}, TypeError, "nan"),
        ({"dimensions": True}, TypeError, "True"),
        ({"dimensions": 10**30}, ValueError, "at most 65536"),
        ({"dimensions": 12, "encoding_format": "base64_binary"}, ValueError, "12"),
        ({"encoding_format": "float"}, ValueError, "'base64_binary', got \"float\""),
        ({"encoding_format": 8}, TypeError, "encoding_format must be 'base64_int8' or 'base64_binary', got 8"),
        ({"encoding_format": None}, TypeError, "got None"),
        ({"shape": np.ma.array([1])}, TypeError, "shape must be an array without a mask"),
        ({"shape": 3}, TypeError, "shape"),
        ({"shape": [1, -1]}, ValueError, r"shape[1]"),
        ({"shape": [1.5]}, TypeError, "1.5"),
    ],
)
def test_bad_arguments_are_named_with_their_value(parsed, keywords, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_response(spell(parsed), **keywords)
    assert words in str(caught.value)


def test_garbage_of_any_length_is_a_decode_error():
    rng = np.random.default_rng(0)
    for length in [0, 1, 2, 7, 100, 10_000, 1_000_000]:
        with pytest.raises(ctxembed.DecodeError):
            ctxembed.decode_response(rng.bytes(length))
        with pytest.raises(ctxembed.DecodeError):
            ctxembed.decode_response(b"[" * length)


def test_a_body_cut_anywhere_is_truncated(parsed):
    body = spell(response([2, 1], chunk_vectors([2, 1], 9)))
    for cut in range(len(body)):
        with pytest.raises(ctxembed.DecodeError) as caught:
            ctxembed.decode_response(body[:cut], shape=[2, 1])
        assert (caught.value.kind, caught.value.offset) == ("truncated", cut)


def _drop_chunk(r):
    del r["data"][0]["data"][1]


def _repeat_chunk(r):
    r["data"][0]["data"][1]["index"] = 0


def _drop_document(r):
    del r["data"][1]


def _short_row(r):
    r["data"][2]["data"][1]["embedding"] = "AQID"


def _bad_letter(r):
    text = r["data"][2]["data"][1]["embedding"]
    r["data"][2]["data"][1]["embedding"] = text[:700] + "*" + text[701:]


def _unpadded(r):
    r["data"][0]["data"][0]["embedding"] = r["data"][0]["data"][0]["embedding"].rstrip("=")


def _huge_index(r):
    r["data"][2]["index"] = 10**18


def _some_indexes(r):
    del r["data"][0]["data"][0]["index"]


@pytest.mark.parametrize(
    ("damage", "kind", "document", "chunk"),
    [
        (_drop_chunk, "shape", 0, None),
        (_repeat_chunk, "index", 0, 0),
        (_drop_document, "shape", None, None),
        (_short_row, "length", 2, 1),
        (_bad_letter, "base64_byte", 2, 1),
        (_unpadded, "base64_padding", 0, 0),
        (_huge_index, "index", 2, None),
        (_some_indexes, "index", 0, 0),
    ],
)
def test_a_response_that_does_not_prove_itself_says_what_and_where(shape, parsed, damage, kind, document, chunk):
    damage(parsed)
    body = spell(parsed)
    with pytest.raises(ctxembed.DecodeError) as caught:
        ctxembed.decode_response(body, shape=shape, dimensions=1024)
    error = caught.value
    assert (error.kind, error.document, error.chunk) == (kind, document, chunk)
    assert 0 <= error.offset <= len(body)
    assert isinstance(error, ValueError)
    assert f"byte {error.offset}" in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert vars(copied) == vars(error)
    assert str(copied) == str(error)


def test_a_small_body_cannot_ask_for_a_large_allocation(parsed):
    with pytest.raises(ctxembed.DecodeError):
        ctxembed.decode_response(spell(parsed), shape=[2**40, 1, 2], dimensions=1024)
    with pytest.raises(ctxembed.DecodeError):
        ctxembed.decode_response(spell(parsed), dimensions=2**16)


def test_an_empty_list_of_documents_is_an_empty_result():
    emb = ctxembed.decode_response(b'{"data": []}', dimensions=128)
    assert (len(emb), emb.vectors.shape) == (0, (0, 128))


@st.composite
def spellings(draw):
    """A response, and the same in another legal spelling."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    vectors = chunk_vectors(shape, draw(st.integers(1, 40)), draw(st.integers(0, 99)))
    tree = response(shape, vectors)
    shuffle = random.Random(draw(st.integers(0, 2**32)))

    def respell(value):
        space = shuffle.choice(["", " ", "\n\t"])
        if isinstance(value, dict):
            members = [f"{space}{json.dumps(k)}{space}:{respell(v)}" for k, v in value.items()]
            members.append(f'"{"x" * shuffle.randrange(1, 200)}":{space}[null,{{"deep":[1.5e-3,"é\\""]}}]')
            shuffle.shuffle(members)
            return "{" + ",".join(members) + space + "}"
        if isinstance(value, list):
            shuffle.shuffle(value)
            return "[" + ",".join(space + respell(v) for v in value) + space + "]"
        if isinstance(value, int):
            return shuffle.choice([str(value), f"{value}.0", f"{value}e0", f"{value * 10}e-1"])
        return shuffle.choice([json.dumps(value), json.dumps(value).replace("/", "\\/").replace("A", "\\u0041")])

    return shape, vectors, respell(tree).encode()


@settings(max_examples=200, deadline=None)
@given(spellings())
def test_every_legal_spelling_decodes_to_the_same_rows(case):
    shape, vectors, body = case
    emb = ctxembed.decode_response(body, shape=shape)
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert np.diff(emb.offsets).tolist() == shape
