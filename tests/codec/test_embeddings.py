"""Embeddings: views of documents, conversions, and responses that another client has parsed."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from decimal import Decimal
from types import SimpleNamespace

import ctxembed
import numpy as np
import pytest
from ctxembed import Embeddings

from .conftest import response, to_json


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
def emb(parsed):
    return ctxembed.decode_response(to_json(parsed))


def test_indexing_returns_a_view_of_the_rows_of_a_document(emb, vectors):
    assert len(emb) == 3
    np.testing.assert_array_equal(emb[0], vectors[:3])
    np.testing.assert_array_equal(emb[-1], vectors[4:])
    np.testing.assert_array_equal(emb[np.int64(1)], vectors[3:4])
    assert np.shares_memory(emb[0], emb.vectors)
    assert [len(document) for document in emb] == [3, 1, 2]


@pytest.mark.parametrize("position", [3, -4, 10**9])
def test_a_position_out_of_range_raises_index_error(emb, position):
    with pytest.raises(IndexError, match=str(position)):
        emb[position]


@pytest.mark.parametrize("position", [1.0, "0", None, slice(0, 1)])
def test_a_position_that_is_not_an_int_raises_type_error(emb, position):
    with pytest.raises(TypeError) as caught:
        emb[position]
    assert str(caught.value) == f"the position of one document must be an int, got {position!r}"


def test_embeddings_are_frozen(emb):
    with pytest.raises(FrozenInstanceError):
        emb.model = "other"


def test_embeddings_can_be_pickled_and_copied(emb):
    for other in (pickle.loads(pickle.dumps(emb)), copy.deepcopy(emb)):
        np.testing.assert_array_equal(other.vectors, emb.vectors)
        assert (other.model, other.usage, other.dimensions) == (emb.model, emb.usage, emb.dimensions)


def test_repr_shows_sizes_without_values(emb):
    assert repr(emb) == (
        "Embeddings(3 documents, 6 chunks, 1024 dimensions, base64_int8, model='pplx-embed-context-v1-0.6b')"
    )


def test_conversions_match_the_codec_functions(emb, vectors):
    small = emb.truncate(256)
    assert (small.dimensions, small.vectors.shape, small.usage) == (256, (6, 256), emb.usage)
    bits = emb.to_binary()
    np.testing.assert_array_equal(bits.vectors, ctxembed.pack_bits(vectors))
    assert (bits.encoding_format, bits.dimensions) == ("base64_binary", 1024)
    assert bits.to_binary() is bits
    np.testing.assert_array_equal(bits.truncate(256).vectors, small.to_binary().vectors)
    np.testing.assert_allclose(np.linalg.norm(emb.normalized(), axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(bits.normalized(), ctxembed.unpack_bits(bits.vectors) / 32, rtol=1e-6)


@pytest.mark.parametrize("dims", [0, 1025, -1, 12.5])
def test_truncate_rejects_impossible_dimensions(emb, dims):
    with pytest.raises((TypeError, ValueError), match="dims"):
        emb.truncate(dims)


def test_to_arrow_has_one_row_for_each_chunk(emb, vectors):
    table = emb.to_arrow()
    assert table.column_names == ["document", "chunk", "vector"]
    assert table["document"].to_pylist() == [0, 0, 0, 1, 2, 2]
    assert table["chunk"].to_pylist() == [0, 1, 2, 0, 0, 1]
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.int8), vectors)
    assert str(emb.to_binary().to_arrow()["vector"].type) == "fixed_size_list<item: uint8>[128]"


def as_objects(value):
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_objects(v) for key, v in value.items()})
    return [as_objects(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", [lambda r: r, as_objects])
def test_from_response_accepts_dicts_and_objects(parsed, vectors, form):
    parsed["data"].reverse()
    parsed["data"][0]["data"].reverse()
    emb = Embeddings.from_response(form(parsed))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.offsets.tolist() == [0, 3, 4, 6]
    assert emb.usage == ctxembed.Usage(10, 12, Decimal("8E-8"), 1)
    assert emb.model == parsed["model"]


def test_from_response_accepts_flat_lists_and_binary_rows(vectors):
    flat = response([6], vectors)["data"][0]
    emb = Embeddings.from_response(flat, encoding_format="base64_binary")
    assert (len(emb), emb.dimensions, emb.vectors.dtype) == (6, 8192, np.uint8)


def test_from_response_names_the_document_and_chunk_of_an_error(parsed):
    parsed["data"][2]["data"][1]["embedding"] = "A*"
    with pytest.raises(ctxembed.DecodeError) as caught:
        Embeddings.from_response(parsed)
    assert (caught.value.document, caught.value.chunk, caught.value.offset) == (2, 1, 1)
    parsed["data"][2]["index"] = 1
    with pytest.raises(ctxembed.DecodeError, match="document indexes"):
        Embeddings.from_response(parsed)


@pytest.mark.parametrize("embedding", [None, [1, 2], b"AQID"])
def test_from_response_rejects_an_embedding_that_is_not_a_str(parsed, embedding):
    parsed["data"][2]["data"][1]["embedding"] = embedding
    with pytest.raises(ctxembed.DecodeError, match=f"base64 string, got {type(embedding).__name__}") as caught:
        Embeddings.from_response(parsed)
    assert (caught.value.kind, caught.value.document, caught.value.chunk) == ("structure", 2, 1)


@pytest.mark.parametrize("index", ["0", 1.0, [0]])
def test_from_response_rejects_an_index_that_is_not_an_int(parsed, index):
    parsed["data"][1]["index"] = index
    parsed["data"].reverse()
    with pytest.raises(ctxembed.DecodeError, match="document indexes must be each of 0 to 2 once"):
        Embeddings.from_response(parsed)


def test_from_response_rejects_a_cost_that_is_not_a_number(parsed):
    parsed["usage"]["cost"]["total_cost"] = "free"
    with pytest.raises(ctxembed.DecodeError, match="total_cost must be a number, got 'free'"):
        Embeddings.from_response(parsed)


@pytest.mark.parametrize("thing", [{}, None, "text", SimpleNamespace(data=None), {"data": 5}])
def test_from_response_rejects_anything_but_a_response(thing):
    with pytest.raises(TypeError, match="response"):
        Embeddings.from_response(thing)


def test_usage_sums_exactly_and_keeps_unknown_values_none():
    ten_tokens = ctxembed.Usage(10, 10, Decimal("0.00000008"), 1)
    total = sum([ten_tokens] * 1000, ctxembed.Usage())
    assert total == ctxembed.Usage(10_000, 10_000, Decimal("0.00008"), 1000)
    assert (ctxembed.Usage(requests=1) + ctxembed.Usage(requests=1)).cost_usd is None


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ({"message": "quota exceeded", "code": 429}, "an error: quota exceeded"),
        ("quota exceeded", "an error: 'quota exceeded'"),
        ({"code": 429}, r"an error: \{'code': 429\}"),
        ({"message": "x" * 100_000}, "an error: xxx"),
        (nested(5_000), "an error: a list"),
    ],
    ids=["message", "text", "code", "long", "nested"],
)
def test_the_error_of_a_response_without_data_is_shown(error, shown):
    with pytest.raises(TypeError, match=f"expected a response with data, got {shown}") as caught:
        ctxembed.Embeddings.from_response({"error": error})
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("index", [nested(20_000), 10**5000, "x" * 100_000], ids=["nested", "many digits", "long"])
def test_odd_indexes_of_a_parsed_response_are_a_decode_error(index):
    data = [{"index": index, "data": [{"embedding": "AQID"}]}]
    with pytest.raises(ctxembed.DecodeError, match="indexes must be") as caught:
        ctxembed.Embeddings.from_response({"data": data})
    assert len(str(caught.value)) < 700
