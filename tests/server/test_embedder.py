"""The server works with any embedder, and the stand-in is one."""

from __future__ import annotations

import base64
import hashlib

import ctxembed
import numpy as np
import pytest
from ctxembed._backends.hashed import HashedEmbedder, embed_documents

DOCUMENTS = [["The heron stood in the reeds.", "It caught a silver fish."], ["向量检索 of naïve words"]]
MODELS = [model for model in ctxembed.models() if not model.input_types]
ROLE_MODELS = [model for model in ctxembed.models() if model.input_types]


class Sevens:
    """An embedder whose values and token counts are all 7."""

    def __init__(self, space="sevens:{model}@{dimensions}"):
        self.calls = []
        self._space = space

    def embed(self, documents, *, model, dimensions, encoding_format, input_type, check):
        check()
        self.calls.append((documents, model, dimensions, encoding_format, input_type))
        offsets = np.cumsum([0, *map(len, documents)])
        return ctxembed.Embeddings(
            np.full((offsets[-1], dimensions), 7, np.int8), offsets, model, dimensions, encoding_format
        )

    def space(self, model, dimensions):
        return self._space.format(model=model, dimensions=dimensions)

    def count_tokens(self, documents):
        return np.full(len(documents), 7)


def test_the_server_embeds_with_the_given_embedder(in_process):
    embedder = Sevens()
    body = {"input": DOCUMENTS, "model": MODELS[0].name, "dimensions": 128}
    (response,) = in_process(("POST", "/v1/contextualizedembeddings", {"json": body}), embedder=embedder)
    data = response.json()["data"]
    rows = [base64.b64decode(item["embedding"]) for document in data for item in document["data"]]
    assert rows == [b"\x07" * 128] * 3
    assert response.json()["usage"]["total_tokens"] == 14
    assert embedder.calls == [(DOCUMENTS, MODELS[0].name, 128, "base64_int8", None)]


@pytest.mark.parametrize("input_type", ["document", "query"])
def test_the_server_passes_the_role_to_the_embedder(in_process, input_type):
    embedder = Sevens()
    body = {"input": DOCUMENTS, "model": ROLE_MODELS[0].name, "input_type": input_type}
    in_process(("POST", "/v1/contextualizedembeddings", {"json": body}), embedder=embedder)
    assert embedder.calls == [(DOCUMENTS, ROLE_MODELS[0].name, 1024, "base64_int8", input_type)]


def test_the_server_sends_the_embedders_space(in_process):
    calls = [
        ("POST", "/v1/contextualizedembeddings", {"json": {"input": [["a"]], "model": MODELS[0].name}}),
        ("POST", "/v1/embeddings", {"json": {"input": "a", "model": MODELS[2].name, "dimensions": 256}}),
    ]
    spaces = [response.headers["x-ctxembed-space"] for response in in_process(*calls, embedder=Sevens())]
    assert spaces == [f"sevens:{MODELS[0].name}@1024", f"sevens:{MODELS[2].name}@256"]


def test_the_token_limit_uses_the_embedders_counts(in_process):
    body = {"input": DOCUMENTS, "model": MODELS[0].name}
    call = ("POST", "/v1/contextualizedembeddings", {"json": body})
    (accepted,) = in_process(call, embedder=HashedEmbedder(MODELS), limits=ctxembed.Limits(tokens_per_document=20))
    (rejected,) = in_process(call, embedder=Sevens(), limits=ctxembed.Limits(tokens_per_document=6))
    assert (accepted.status_code, rejected.status_code) == (200, 422)


@pytest.mark.parametrize("encoding_format", ["base64_int8", "base64_binary"])
def test_the_stand_in_returns_one_row_a_chunk(encoding_format):
    emb = HashedEmbedder(MODELS).embed(DOCUMENTS, dimensions=256, encoding_format=encoding_format)
    assert (emb.model, emb.dimensions, emb.encoding_format) == (MODELS[0].name, 256, encoding_format)
    assert emb.offsets.tolist() == [0, 2, 3]
    expected = embed_documents(
        DOCUMENTS,
        model=MODELS[0].name,
        full_dimensions=MODELS[0].dimensions,
        dimensions=256,
        binary=encoding_format == "base64_binary",
    )
    np.testing.assert_array_equal(emb.vectors, expected)


def test_the_stand_in_has_the_models_dimensions_by_default():
    embedder = HashedEmbedder(MODELS)
    assert [embedder.embed([["a"]], model=model.name).dimensions for model in MODELS] == [1024, 2560, 1024, 2560]


@pytest.mark.parametrize(("space", "header"), [
    ("modèle/日本#digest", "modèle/日本#digest"),
    ("two\r\nx-other: 1", "two%0D%0Ax-other: 1"),
    (" edges\t", "%20edges%09"),
    ("undecodable\udcff", "undecodable%ED%B3%BF"),
])  # fmt: skip
def test_any_space_fits_a_header(in_process, space, header):
    call = ("POST", "/v1/embeddings", {"json": {"input": "a", "model": MODELS[2].name}})
    (response,) = in_process(call, embedder=Sevens(space))
    assert (response.status_code, response.headers["x-ctxembed-space"]) == (200, header)
    assert "x-other" not in response.headers


@pytest.mark.parametrize("dimensions", [1024, 2048])
@pytest.mark.parametrize("input_type", ["document", "query"])
def test_the_stand_in_names_its_own_space(dimensions, input_type):
    embedder = HashedEmbedder(ROLE_MODELS)
    emb = embedder.embed([["a"]], model=ROLE_MODELS[1].name, dimensions=dimensions, input_type=input_type)
    assert emb.space == embedder.space(ROLE_MODELS[1].name, dimensions) == "stand-in:pplx-embed-v2-context-9b"
    assert emb.input_type == input_type


def test_the_stand_in_embeds_documents_by_default():
    embedder = HashedEmbedder(ROLE_MODELS)
    emb = embedder.embed(DOCUMENTS)
    assert emb.input_type == "document"
    np.testing.assert_array_equal(emb.vectors, embedder.embed(DOCUMENTS, input_type="document").vectors)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_stand_in_refuses_a_role_for_a_model_without_input_types(model):
    with pytest.raises(ValueError, match=f"input_type must be None for {model.name}"):
        HashedEmbedder(MODELS).embed(DOCUMENTS, model=model.name, input_type="document")


def test_the_stand_in_counts_separators():
    assert HashedEmbedder(MODELS).count_tokens([["one", "two", "three"], ["four"]]).tolist() == [5, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"model": "other"}, "'other' is unknown"), ({"dimensions": 64}, "64"), ({"encoding_format": "float"}, "'float'")],
)
def test_the_stand_in_rejects_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        HashedEmbedder(MODELS).embed(DOCUMENTS, **options)


def test_the_stand_ins_vectors_of_models_with_roles_never_change():
    digest = hashlib.sha256()
    for model in ROLE_MODELS:
        for input_type in ("document", "query"):
            emb = HashedEmbedder(ROLE_MODELS).embed(DOCUMENTS, model=model.name, input_type=input_type)
            digest.update(emb.vectors.tobytes())
    assert digest.hexdigest() == "2bbd6c700c20b5df4d6f77aa4f1f950823405a594a99996e500b31944720fa34"


def test_the_stand_ins_vectors_never_change():
    digest = hashlib.sha256()
    for model in MODELS:
        for encoding_format in ("base64_int8", "base64_binary"):
            emb = HashedEmbedder(MODELS).embed(DOCUMENTS, model=model.name, encoding_format=encoding_format)
            digest.update(emb.vectors.tobytes())
    assert digest.hexdigest() == "4e7d191ccfab03bfb7e4a436dd36744863b5e57d71b5bac78ef6e0cb1bfc3a3a"
