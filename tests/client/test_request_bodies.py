"""Request bodies: the JSON that is sent for documents."""

from __future__ import annotations

import json

import ctxembed
import numpy as np
import pytest
from ctxembed import _core
from ctxembed._client.endpoint import RequestTemplate
from ctxembed._planning.prepare import prepare, prepare_one
from hypothesis import given
from hypothesis import strategies as st

from .conftest import make_documents

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text(
    st.sampled_from('"\\\n\r\t\b\x00\x1d\x1e\x1f/a é😀'), min_size=1
)


def body_of(documents, dimensions=None):
    return RequestTemplate.create(
        "/v1/contextualizedembeddings", "pplx-embed-context-v1-0.6b", dimensions, "base64_int8"
    ).body(documents)


def expected_body(documents):
    options = {"model": "pplx-embed-context-v1-0.6b", "encoding_format": "base64_int8"}
    return json.dumps({"input": documents, **options}, ensure_ascii=False, separators=(",", ":")).encode()


@given(st.lists(st.lists(TEXT, min_size=1), min_size=1))
def test_a_body_is_compact_json_in_utf_8(documents):
    assert body_of(documents) == expected_body(documents)


def test_every_character_is_encoded():
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]
    documents = [["".join(characters)], ["x" * i + character for i, character in enumerate(characters[:300])]]
    assert body_of(documents) == expected_body(documents)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200])
def test_escapes_are_written_at_every_offset(length):
    documents = [
        ["a" * at + escape + "b" * (length - at) for at in range(length + 1)] for escape in '"\\\n\x00\x1f\x7f'
    ]
    assert body_of(documents) == expected_body(documents)


@pytest.mark.parametrize("documents", [[["a"], "b"], [("a",)], [["a", 3]], (["a"],), None])
def test_documents_of_another_type_are_refused(documents):
    with pytest.raises(TypeError):
        _core.encode_request(documents, b"}")


@given(st.lists(TEXT, min_size=1), st.integers(128, 1024) | st.none())
def test_a_body_holds_texts_and_options(texts, dimensions):
    flat = RequestTemplate.create("/v1/embeddings", "pplx-embed-v1-0.6b", dimensions, "base64_int8")
    expected = {"input": texts, "model": "pplx-embed-v1-0.6b", "encoding_format": "base64_int8"}
    if dimensions is not None:
        expected["dimensions"] = dimensions
    assert json.loads(flat.body([[text] for text in texts])) == expected


def test_a_lone_surrogate_cannot_be_encoded():
    with pytest.raises(UnicodeEncodeError):
        body_of([["fine", "\ud800"]])


def test_prepare_one_agrees_with_prepare():
    documents = make_documents(30)
    one = prepare_one(documents, ctxembed.Limits(), b"}")
    prepared = prepare(documents)
    assert one.documents == prepared.documents
    assert one.chunk_counts == prepared.chunk_counts.tolist()
    assert one.tokens_upper == prepared.tokens_upper.tolist()
    assert one.body == _core.encode_request(documents, b"}")


@pytest.mark.parametrize(
    "documents", [[["a", ""]], [["a"], []], [["<|endoftext|>"]], [["\ud800"]], [["word " * 10_000]], [["a"] * 16_001]]
)
def test_prepare_one_returns_none_where_a_full_check_is_needed(documents):
    assert prepare_one(documents, ctxembed.Limits(), b"}") is None


def test_documents_changed_by_a_hook_are_sent_unchanged(driver, server):
    documents, changed = make_documents(5), []

    def change(event):
        documents[0].append("another")
        documents.append(["another"])
        changed.append(event)

    emb = driver.create(documents, _client={"base_url": server.base_url, "on_request": change})
    assert changed
    assert np.diff(emb.offsets).tolist() == [len(document) for document in make_documents(5)]


@pytest.mark.parametrize("documents", [[["a"], "b"], [["a"], 3], [["a"], ["b", 3]]])
def test_positions_in_messages_count_from_the_first_document(documents):
    with pytest.raises(TypeError, match="document 101"):
        prepare(documents, first_document=100)
