"""The registry of models: their roles, dimensions and spaces."""

from __future__ import annotations

import json
from decimal import Decimal

import ctxembed
import pytest
from ctxembed import Model

V1 = ("pplx-embed-context-v1-0.6b", "pplx-embed-context-v1-4b", "pplx-embed-v1-0.6b", "pplx-embed-v1-4b")
SMALL, LARGE = "pplx-embed-v2-context-0.6b", "pplx-embed-v2-context-9b"


def test_the_v1_models_have_no_roles_and_a_space_each():
    for name in V1:
        model = ctxembed.get_model(name)
        assert (model.input_types, model.separator, model.dimension_choices) == (False, "<|endoftext|>", None)
        assert model.space == model.space_of(model.dimensions) == model.space_of(128) == name


def test_the_v2_models_have_roles_and_share_a_space_at_1024_dimensions():
    small, large = ctxembed.get_model(SMALL), ctxembed.get_model(LARGE)
    assert (small.dimensions, small.dimension_choices) == (1024, (1024,))
    assert (large.dimensions, large.dimension_choices) == (2048, (1024, 2048))
    for model in (small, large):
        assert (model.input_types, model.separator, model.contextualized) == (True, "<|chunk_sep|>", True)
    assert small.space_of(1024) == large.space_of(1024)
    assert large.space_of(2048) != large.space_of(1024)


def test_the_price_of_the_large_v2_model_is_registered():
    assert ctxembed.get_model(LARGE).cost(1_000_000) == Decimal("0.12")
    assert ctxembed.get_model(SMALL).cost(1_000_000) is None


def test_a_digest_makes_a_space_of_its_own():
    plain, weights = Model("mine", 256, None), Model("mine", 256, None, digest="5f3a")
    assert plain.space == weights.space == "mine"
    assert plain.space_of(256) != weights.space_of(256)
    other = Model("mine", 256, None, digest="5f3b")
    assert weights.space_of(256) != other.space_of(256)


def test_choices_are_sorted_and_checked():
    assert Model("mine", 512, None, dimension_choices=[512, 128, 512]).dimension_choices == (128, 512)
    assert hash(Model("mine", 512, None, dimension_choices=[512]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"input_types": 1}, TypeError, "input_types must be a bool"),
        ({"contextualized": "yes"}, TypeError, "contextualized must be a bool"),
        ({"separator": b"x"}, TypeError, "separator must be a str or None"),
        ({"separator": ""}, ValueError, "separator must not be empty"),
        ({"space": ""}, ValueError, "space must not be empty"),
        ({"digest": 5}, TypeError, "digest must be a str or None"),
        ({"dimension_choices": ()}, ValueError, "dimension_choices"),
        ({"dimension_choices": (64, 256)}, ValueError, "at least 128"),
        ({"dimension_choices": (128,)}, ValueError, "the largest"),
        ({"dimension_choices": (128, 512)}, ValueError, "the largest"),
        ({"dimension_choices": "256"}, TypeError, "tuple of int"),
        ({"dimension_choices": 256}, TypeError, "tuple of int"),
        ({"dimension_choices": (128.0, 256)}, TypeError, "dimension_choices"),
    ],
)
def test_a_model_checks_its_fields(options, error, words):
    with pytest.raises(error, match=words):
        Model("mine", 256, None, **options)


@pytest.mark.parametrize(("name", "refused", "offered"), [(SMALL, 512, "1024"), (LARGE, 1025, "1024 or 2048")])
def test_a_plan_refuses_dimensions_that_the_model_does_not_offer(name, refused, offered):
    with pytest.raises(ValueError, match=f"dimensions must be {offered} for {name}, got {refused}"):
        ctxembed.plan([["a"]], model=name, dimensions=refused)
    with pytest.raises(ValueError, match="multiple of 8"):
        ctxembed.plan([["a"]], model=V1[0], dimensions=129, encoding_format="base64_binary")


@pytest.mark.parametrize(
    ("name", "space"), [("pplx-embed-v2-context-0.6b", "pplx-embed-v2-context@3"), ("unknown", None)]
)
def test_a_decoded_response_is_of_the_space_of_its_model(name, space):
    row = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}]'
    body = row + b',"model":"' + name.encode() + b'"}'
    decoder = ctxembed.ResponseDecoder()
    decoder.feed(body)
    for emb in (ctxembed.decode_response(body), decoder.finish(), ctxembed.Embeddings.from_response(json.loads(body))):
        assert (emb.model, emb.space, emb.input_type) == (name, space, None)
    assert ctxembed.decode_response(row + b"}").space is None


def test_a_model_that_is_registered_again_has_its_new_space():
    body = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}],"model":"registered-twice"}'
    for digest in (None, "5f3a", "5f3b"):
        ctxembed.register_model(Model("registered-twice", 128, None, digest=digest))
        expected = "registered-twice" + (f"#{digest}" if digest else "")
        assert ctxembed.decode_response(body).space == expected


def test_the_space_of_a_response_is_that_of_its_own_model_and_dimensions():
    def space(name, dimensions):
        row = b"AAAA" * (dimensions // 3) + b"AA==" * (dimensions % 3 == 1) + b"AAA=" * (dimensions % 3 == 2)
        body = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"%b"}]}],"model":"%b"}' % (row, name.encode())
        return ctxembed.decode_response(body).space

    large = ctxembed.get_model(LARGE)
    for dimensions in (1024, 1024, 2048, 1024):
        assert space(LARGE, dimensions) == large.space_of(dimensions)
        assert space("never-registered", dimensions) is None
