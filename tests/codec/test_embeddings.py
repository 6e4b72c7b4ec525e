"""The result type: views, other forms, and what another client has parsed."""

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

from .conftest import response, spell


@pytest.fixture
def emb(parsed):
    return ctxembed.decode_response(spell(parsed))


def test_a_document_is_a_view_of_its_rows(emb, vectors):
    assert len(emb) == 3
    np.testing.assert_array_equal(emb[0], vectors[:3])
    np.testing.assert_array_equal(emb[-1], vectors[4:])
    np.testing.assert_array_equal(emb[np.int64(1)], vectors[3:4])
    assert np.shares_memory(emb[0], emb.vectors)
    assert [len(document) for document in emb] == [3, 1, 2]


@pytest.mark.parametrize("position", [3, -4, 10**9])
def test_a_position_out_of_range_is_an_index_error(emb, position):
    with pytest.raises(IndexError, match=str(position)):
        emb[position]


@pytest.mark.parametrize("position", [1.0, "0", None, slice(0, 1)])
def test_a_position_that_is_no_integer_is_a_type_error(emb, position):
    with pytest.raises(TypeError) as caught:
        emb[position]
    assert str(caught.value) == f"the position of one document must be an int, got {position!r}"


def test_nothing_can_be_set(emb):
    with pytest.raises(FrozenInstanceError):
        emb.model = "other"


def test_it_pickles_and_copies(emb):
    for other in (pickle.loads(pickle.dumps(emb)), copy.deepcopy(emb)):
        np.testing.assert_array_equal(other.vectors, emb.vectors)
        assert (other.model, other.usage, other.dimensions) == (emb.model, emb.usage, emb.dimensions)


def test_repr_tells_sizes_and_no_values(emb):
    assert repr(emb) == (
        "Embeddings(3 documents, 6 chunks, 1024 dimensions, base64_int8, model='pplx-embed-context-v1-0.6b')"
    )


def test_other_forms_agree_with_the_functions(emb, vectors):
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
def test_truncating_to_impossible_dimensions_is_refused(emb, dims):
    with pytest.raises((TypeError, ValueError), match="dims"):
        emb.truncate(dims)


def test_arrow_has_a_row_a_chunk(emb, vectors):
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
def test_a_parsed_response_gives_the_same_result(parsed, vectors, form):
    parsed["data"].reverse()
    parsed["data"][0]["data"].reverse()
    emb = Embeddings.from_response(form(parsed))
    np.testing.assert_array_equal(emb.vectors, vectors)
    assert emb.offsets.tolist() == [0, 3, 4, 6]
    assert emb.usage == ctxembed.Usage(10, 12, Decimal("8E-8"), 1)
    assert emb.model == parsed["model"]


def test_a_parsed_flat_response_and_bits_work_too(vectors):
    flat = response([6], vectors)["data"][0]
    emb = Embeddings.from_response(flat, encoding_format="base64_binary")
    assert (len(emb), emb.dimensions, emb.vectors.dtype) == (6, 8192, np.uint8)


def test_a_fault_in_a_parsed_response_is_named_by_document_and_chunk(parsed):
    parsed["data"][2]["data"][1]["embedding"] = "A*"
    with pytest.raises(ctxembed.DecodeError) as caught:
        Embeddings.from_response(parsed)
    assert (caught.value.document, caught.value.chunk, caught.value.offset) == (2, 1, 1)
    parsed["data"][2]["index"] = 1
    with pytest.raises(ctxembed.DecodeError, match="document indexes"):
        Embeddings.from_response(parsed)


@pytest.mark.parametrize("embedding", [None, [1, 2], b"AQID"])
def test_a_parsed_embedding_that_is_no_text_is_named_by_document_and_chunk(parsed, embedding):
    parsed["data"][2]["data"][1]["embedding"] = embedding
    with pytest.raises(ctxembed.DecodeError, match=f"base64 string, got {type(embedding).__name__}") as caught:
        Embeddings.from_response(parsed)
    assert (caught.value.kind, caught.value.document, caught.value.chunk) == ("structure", 2, 1)


@pytest.mark.parametrize("index", ["0", 1.0, [0]])
def test_a_parsed_index_that_is_no_int_is_refused(parsed, index):
    parsed["data"][1]["index"] = index
    parsed["data"].reverse()
    with pytest.raises(ctxembed.DecodeError, match="document indexes must be each of 0 to 2 once"):
        Embeddings.from_response(parsed)


def test_a_parsed_cost_that_is_no_number_is_refused(parsed):
    parsed["usage"]["cost"]["total_cost"] = "free"
    with pytest.raises(ctxembed.DecodeError, match="total_cost must be a number, got 'free'"):
        Embeddings.from_response(parsed)


@pytest.mark.parametrize("thing", [{}, None, "text", SimpleNamespace(data=None), {"data": 5}])
def test_what_is_no_response_is_a_type_error(thing):
    with pytest.raises(TypeError, match="response"):
        Embeddings.from_response(thing)


def test_usage_sums_exactly_and_unknown_stays_unknown():
    ten_tokens = ctxembed.Usage(10, 10, Decimal("0.00000008"), 1)
    total = sum([ten_tokens] * 1000, ctxembed.Usage())
    assert total == ctxembed.Usage(10_000, 10_000, Decimal("0.00008"), 1000)
    assert (ctxembed.Usage(requests=1) + ctxembed.Usage(requests=1)).cost_usd is None
