"""decode_response turns a response body into one matrix, or raises an error that says where the body is wrong."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
from decimal import Decimal, FloatOperation, Inexact, InvalidOperation, Overflow, Rounded, localcontext

import ctxembed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import fuzz_differential
from .conftest import chunk_vectors, response, to_json


def test_vectors_offsets_model_and_usage_come_from_the_body(shape, vectors, parsed):
    emb = ctxembed.decode_response(to_json(parsed), shape=shape, dimensions=1024)
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.vectors.dtype == np.int8
    assert emb.vectors.flags.c_contiguous
    assert emb.offsets.tolist() == [0, 3, 4, 6]
    assert emb.offsets.dtype == np.int64
    assert (emb.model, emb.dimensions, emb.encoding_format) == ("pplx-embed-context-v1-0.6b", 1024, "base64_int8")
    assert emb.usage == ctxembed.Usage(10, 12, Decimal("0.00000008"), 1)
    assert emb.failures == ()


def test_shape_and_dimensions_are_optional(vectors, parsed):
    emb = ctxembed.decode_response(to_json(parsed))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.dimensions == 1024


def test_binary_rows_have_one_byte_for_eight_dimensions(shape):
    bits = chunk_vectors(shape, 128).view(np.uint8)
    emb = ctxembed.decode_response(to_json(response(shape, bits)), dimensions=1024, encoding_format="base64_binary")
    np.testing.assert_array_equal(emb.vectors, bits)
    assert (emb.vectors.dtype, emb.dimensions) == (np.uint8, 1024)


def test_rows_are_ordered_by_document_and_chunk_index(shape, vectors, parsed):
    shuffled = copy.deepcopy(parsed)
    rng = random.Random(1)
    rng.shuffle(shuffled["data"])
    for document in shuffled["data"]:
        rng.shuffle(document["data"])
    assert shuffled != parsed
    for known in (None, shape):
        np.testing.assert_array_equal(ctxembed.decode_response(to_json(shuffled), shape=known).vectors, vectors)


def test_a_flat_list_of_the_embeddings_endpoint_has_one_chunk_for_each_document(vectors):
    flat = response([len(vectors)], vectors)["data"][0]
    emb = ctxembed.decode_response(to_json(flat), shape=[1] * len(vectors))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert len(emb) == len(vectors)


def test_missing_usage_cost_and_model_are_none(vectors):
    body = response([6], vectors)
    del body["model"]
    emb = ctxembed.decode_response(to_json(body))
    assert emb.model is None
    assert emb.usage == ctxembed.Usage(None, None, None, 1)
    body["usage"] = {"total_tokens": 3, "cost": None}
    assert ctxembed.decode_response(to_json(body)).usage == ctxembed.Usage(None, 3, None, 1)


def test_a_cost_in_another_currency_is_not_reported_as_usd(vectors):
    body = response([6], vectors, usage={"cost": {"total_cost": 1.5, "currency": "EUR"}})
    assert ctxembed.decode_response(to_json(body)).usage.cost_usd is None


def test_the_cost_keeps_all_digits_of_the_body(vectors):
    body = to_json(response([6], vectors, usage={"cost": {"total_cost": 0}}))
    body = body.replace(b'"total_cost":0', b'"total_cost":0.12345678901234567890123')
    assert ctxembed.decode_response(body).usage.cost_usd == Decimal("0.12345678901234567890123")


def cost_of(text: str) -> Decimal | None:
    """Decode a response whose cost is spelled like this, whole and in parts."""
    body = (
        b'{"data":[{"index":0,"embedding":"AQID"}],"usage":{"total_tokens":3,"cost":{"total_cost":%s}}}' % text.encode()
    )
    emb = ctxembed.decode_response(body)
    decoder = ctxembed.ResponseDecoder()
    for start in range(0, len(body), 7):
        decoder.feed(body[start : start + 7])
    assert decoder.finish().usage == emb.usage
    assert (emb.vectors.tolist(), emb.usage.total_tokens) == ([[1, 2, 3]], 3)
    return emb.usage.cost_usd


def plausible_cost(text: str) -> Decimal | None:
    """Return the number if it is finite, not negative, and has at most 40 digits before and after the point."""
    if re.fullmatch(r"[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?0{0,20}[0-9]{1,3})?", text) is None:
        return None
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    return number if -40 <= exponent <= 40 and number.adjusted() < 40 else None


DIGITS = st.one_of(
    st.sampled_from(["0", "1", "40", "41", "9" * 40, "1" + "0" * 39]), st.from_regex(r"[0-9]{1,45}", fullmatch=True)
)
WHOLE = DIGITS.map(lambda digits: digits.lstrip("0") or "0")
EXPONENT = st.builds(
    "{}{}{}{}".format,
    st.sampled_from("eE"),
    st.sampled_from(["", "+", "-"]),
    st.sampled_from(["", "0", "0" * 20, "0" * 30]),
    st.integers(0, 100).map(str) | st.sampled_from(["1000", "9" * 18, "1" + "0" * 19, "9" * 300]),
)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "-"]),
    WHOLE,
    st.just("") | DIGITS.map(lambda digits: f".{digits}") | st.integers(0, 120).map(lambda zeros: f".{'0' * zeros}1"),
    st.just("") | EXPONENT,
)


@settings(max_examples=1000, deadline=None)
@given(NUMBERS)
def test_a_number_is_a_cost_within_forty_digits_on_either_side_of_the_point(number):
    cost = cost_of(number)
    assert str(cost) == str(plausible_cost(number))


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "-0.0",
        "1e400",
        "1e1000000000000000000",
        "1e-1000000000000000000",
        "9" * 500,
        '"0.5"',
        '"NaN"',
        "true",
        "{}",
        "[1]",
        '{"a":[0.5]}',
        "null",
    ],
)
def test_what_is_no_cost_counts_as_not_reported(value):
    assert cost_of(value) is None
    body = b'{"data":[{"index":0,"embedding":"AQID"}],"usage":{"cost":%s}}' % value.encode()
    assert value == "{}" or ctxembed.decode_response(body).usage == ctxembed.Usage(None, None, None, 1)


def test_the_decimal_context_of_the_caller_does_not_matter():
    digits = "0.1234567890123456789012345678901234567890"
    with localcontext(prec=3, Emax=2, Emin=-2, traps=[Inexact, Rounded, InvalidOperation, Overflow, FloatOperation]):
        cost = cost_of(digits)
    assert str(cost) == digits


@pytest.mark.parametrize("currency", ["5", "null", '"eur"', "[]", '"%s"' % ("U" * 5000), '"USD "'])
def test_only_a_cost_in_usd_is_reported(currency):
    body = (
        b'{"data":[{"index":0,"embedding":"AQID"}],"usage":{"cost":{"total_cost":1,"currency":%s}}}' % currency.encode()
    )
    assert ctxembed.decode_response(body).usage.cost_usd == (1 if currency == "null" else None)


@pytest.mark.parametrize("count", ["-1", "1.5", "1e400", "1180591620717411303424", "true", '"3"', "9" * 400])
def test_a_token_count_that_is_none_is_a_decode_error(count):
    body = b'{"data":[{"index":0,"embedding":"AQID"}],"usage":{"total_tokens":%s}}' % count.encode()
    with pytest.raises(ctxembed.DecodeError) as raised:
        ctxembed.decode_response(body)
    assert raised.value.kind == "structure"


def test_out_is_filled_and_returned(shape, vectors, parsed):
    out = np.empty_like(vectors)
    emb = ctxembed.decode_response(to_json(parsed), shape=shape, out=out)
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
def test_an_unsuitable_out_is_rejected(shape, vectors, parsed, make, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_response(to_json(parsed), shape=shape, dimensions=1024, out=make(vectors))
    assert words in str(caught.value)


def test_an_out_with_more_rows_than_the_body_is_rejected(vectors, parsed):
    with pytest.raises(ValueError, match="7 rows"):
        ctxembed.decode_response(to_json(parsed), out=np.empty((7, 1024), np.int8))


def test_a_read_only_out_is_rejected(vectors, parsed):
    out = np.empty_like(vectors)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        ctxembed.decode_response(to_json(parsed), out=out)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_bytearray_and_memoryview_decode(vectors, parsed, kind):
    np.testing.assert_array_equal(ctxembed.decode_response(kind(to_json(parsed))).vectors, vectors)


@pytest.mark.parametrize("body", ["text", None, 3, ["a"], np.zeros(3)])
def test_a_body_that_is_not_bytes_raises_type_error(body):
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
def test_bad_arguments_raise_errors_that_name_the_value(parsed, keywords, error, words):
    with pytest.raises(error) as caught:
        ctxembed.decode_response(to_json(parsed), **keywords)
    assert words in str(caught.value)


def test_random_bytes_raise_decode_error():
    rng = np.random.default_rng(0)
    for length in [0, 1, 2, 7, 100, 10_000, 1_000_000]:
        with pytest.raises(ctxembed.DecodeError):
            ctxembed.decode_response(rng.bytes(length))
        with pytest.raises(ctxembed.DecodeError):
            ctxembed.decode_response(b"[" * length)


def test_a_cut_body_is_reported_as_truncated():
    body = to_json(response([2, 1], chunk_vectors([2, 1], 9)))
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
def test_an_invalid_response_raises_decode_error_with_kind_and_position(shape, parsed, damage, kind, document, chunk):
    damage(parsed)
    body = to_json(parsed)
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


def test_a_small_body_cannot_cause_a_large_allocation(parsed):
    with pytest.raises(ctxembed.DecodeError):
        ctxembed.decode_response(to_json(parsed), shape=[2**40, 1, 2], dimensions=1024)
    with pytest.raises(ctxembed.DecodeError):
        ctxembed.decode_response(to_json(parsed), dimensions=2**16)


def test_a_response_without_documents_gives_empty_embeddings():
    emb = ctxembed.decode_response(b'{"data": []}', dimensions=128)
    assert (len(emb), emb.vectors.shape) == (0, (0, 128))


@st.composite
def equivalent_bodies(draw):
    """Draw a shape, vectors, and a response body with them: members shuffled, whitespace, escapes, other numbers."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    vectors = chunk_vectors(shape, draw(st.integers(1, 40)), draw(st.integers(0, 99)))
    tree = response(shape, vectors)
    shuffle = random.Random(draw(st.integers(0, 2**32)))

    def rewrite(value):
        space = shuffle.choice(["", " ", "\n\t"])
        if isinstance(value, dict):
            members = [f"{space}{json.dumps(k)}{space}:{rewrite(v)}" for k, v in value.items()]
            members.append(f'"{"x" * shuffle.randrange(1, 200)}":{space}[null,{{"deep":[1.5e-3,"é\\""]}}]')
            shuffle.shuffle(members)
            return "{" + ",".join(members) + space + "}"
        if isinstance(value, list):
            shuffle.shuffle(value)
            return "[" + ",".join(space + rewrite(v) for v in value) + space + "]"
        if isinstance(value, int):
            return shuffle.choice([str(value), f"{value}.0", f"{value}e0", f"{value * 10}e-1"])
        return shuffle.choice([json.dumps(value), json.dumps(value).replace("/", "\\/").replace("A", "\\u0041")])

    return shape, vectors, rewrite(tree).encode()


@settings(max_examples=200, deadline=None)
@given(equivalent_bodies())
def test_equivalent_json_decodes_to_the_same_rows(case):
    shape, vectors, body = case
    emb = ctxembed.decode_response(body, shape=shape)
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert np.diff(emb.offsets).tolist() == shape


@pytest.mark.parametrize("seed", range(2))
def test_random_and_mutated_inputs_are_read_as_the_standard_library_reads_them(seed):
    assert fuzz_differential.run(2.0, seed) > 50
