"""Python classes that the Rust core instantiates, and the types that Python declares for the core."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import ctxembed
import numpy as np
import pytest
from ctxembed import _codec, _core

PACKAGE = Path(ctxembed.__file__).parent
BODY = (
    b'{"data": [{"index": 0, "data": [{"index": 0, "embedding": "AQID"}]}], "model": "m",'
    b' "usage": {"prompt_tokens": 3, "total_tokens": 4, "cost": {"total_cost": 0.5, "currency": "USD"}}}'
)


def streamed() -> ctxembed.Embeddings:
    decoder = ctxembed.ResponseDecoder()
    decoder.feed(BODY)
    return decoder.finish()


def values(instance: object) -> dict[str, object]:
    """The attributes that are set, by name."""
    assert not hasattr(instance, "__dict__")
    return {name: getattr(instance, name) for name in type(instance).__slots__ if hasattr(instance, name)}


@pytest.mark.parametrize("make", [lambda: ctxembed.decode_response(BODY), streamed])
def test_a_decoded_response_equals_a_constructed_one(make):
    decoded = make()
    usage = ctxembed.Usage(3, 4, Decimal("0.5"), requests=1)
    built = ctxembed.Embeddings(np.array([[1, 2, 3]], np.int8), np.array([0, 1]), "m", 3, "base64_int8", usage)

    assert type(decoded) is ctxembed.Embeddings
    assert type(decoded.usage) is ctxembed.Usage
    for instance in (decoded, decoded.usage):
        assert list(values(instance)) == [field.name for field in dataclasses.fields(instance)]
    assert values(decoded.usage) == values(built.usage)
    expected = values(built)
    for name, value in values(decoded).items():
        assert type(value) is type(expected[name]), name
        np.testing.assert_array_equal(value, expected[name])
        assert getattr(value, "dtype", None) == getattr(expected[name], "dtype", None)


def test_a_class_is_checked_when_it_is_registered():
    @dataclasses.dataclass(frozen=True, slots=True)
    class Usage:
        prompt_tokens: int

    @dataclasses.dataclass(frozen=True, slots=True)
    class Other:
        requests: int

    class DecodeError:
        pass

    with pytest.raises(ValueError, match=r'Usage must be a dataclass of .*"unreported".*, got \["prompt_tokens"\]'):
        _core.register_class(Usage)
    with pytest.raises(ValueError, match='no class named "Other"'):
        _core.register_class(Other)
    with pytest.raises(TypeError, match="DecodeError must be an exception class"):
        _core.register_class(DecodeError)
    with pytest.raises(TypeError, match="cls must be a class, got 7"):
        _core.register_class(7)
    assert type(ctxembed.decode_response(BODY).usage) is ctxembed.Usage


def test_a_class_of_the_same_name_replaces_the_registered_one():
    class IndexFileError(ctxembed.IndexFileError):
        pass

    try:
        assert _core.register_class(IndexFileError) is IndexFileError
        with pytest.raises(IndexFileError):
            ctxembed.Index.open(__file__)
    finally:
        _core.register_class(ctxembed.IndexFileError)
    with pytest.raises(ctxembed.IndexFileError) as caught:
        ctxembed.Index.open(__file__)
    assert type(caught.value) is ctxembed.IndexFileError


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "panicked" not in done.stderr
    return done.stdout.strip()


def test_reloaded_modules_register_their_new_classes():
    code = f"""
import importlib, ctxembed
from ctxembed import _errors, _results
importlib.reload(_errors)
importlib.reload(_results)
decoded = ctxembed.decode_response({BODY!r})
print(type(decoded) is _results.Embeddings, type(decoded.usage) is _results.Usage)
try:
    ctxembed.decode_response(b"")
except _errors.DecodeError as error:
    print(error.kind)
"""
    assert run(code) == "True True\ntruncated"


def test_an_unregistered_class_is_an_error_that_names_it():
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("_core", {_core.__file__!r})
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
for call in (lambda: core.decode_response({BODY!r}), lambda: core.decode_response(b"")):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""
    assert run(code) == (
        "class Usage is not registered: call register_class first\n"
        "class DecodeError is not registered: call register_class first"
    )


def test_the_typed_codec_is_that_of_the_core():
    assert importlib.reload(_codec).decode_response is _core.decode_response
    assert ctxembed.decode_response is _core.decode_response
    assert ctxembed.ResponseDecoder is _codec.ResponseDecoder is _core.ResponseDecoder


def declared(file: str) -> dict[str, ast.FunctionDef]:
    """The functions and methods that a module declares, by qualified name."""
    found = {}
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}": each for each in node.body if isinstance(each, ast.FunctionDef)}
        found |= {each.name: each for each in getattr(node, "body", []) if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("name", ["decode_response", *(f"ResponseDecoder.{m}" for m in ("__new__", "feed", "finish"))])
def test_the_typed_codec_declares_the_arguments_of_the_stub(name):
    typed, stub = declared("_codec.py")[name], declared("_core.pyi")[name]
    assert ast.unparse(typed.args) == ast.unparse(stub.args).replace("_EncodingFormat", "EncodingFormat")
    result = {"decode_response": "Embeddings", "ResponseDecoder.finish": "Embeddings"}
    assert ast.unparse(typed.returns) == result.get(name, ast.unparse(stub.returns))


def test_the_stub_imports_nothing_of_the_package():
    tree = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported
    assert not [name for name in imported if name is None or name.startswith("ctxembed")]


FROM_CORE = [
    name for name in ctxembed.__all__ if callable(value := vars(_core).get(name)) and value is getattr(ctxembed, name)
]


@pytest.mark.parametrize("name", FROM_CORE)
def test_public_names_of_the_core_belong_to_the_package(name):
    value = getattr(ctxembed, name)
    assert value is getattr(_core, name)
    assert value.__module__ == "ctxembed"
    assert pickle.loads(pickle.dumps(value)) is value


def test_every_other_name_of_the_core_is_internal():
    others = {name for name, value in vars(_core).items() if callable(value)} - set(FROM_CORE)
    assert all(getattr(_core, name).__module__ == "ctxembed._core" for name in others)
    assert inspect.isclass(_core.NativeCounter)


ROWS = np.array([[6, 8], [-4, 3], [4, 3]], dtype=np.int8)


def index() -> ctxembed.Index:
    index = ctxembed.Index(2)
    index.add(ROWS)
    return index


RESULTS = {
    "Matches": lambda: ctxembed.top_k(ROWS, ROWS, 2),
    "RangeMatches": lambda: index().search_range(ROWS, 0.5),
    "Pairs": lambda: index().near_duplicates(0.5),
}


@pytest.mark.parametrize("name", RESULTS)
def test_search_results_pickle_under_either_module_name(name):
    result = RESULTS[name]()
    data = pickle.dumps(result, protocol=0)
    assert f"cctxembed\n{name}\n".encode() in data
    for pickled in (data, data.replace(b"cctxembed\n", b"cctxembed._core\n")):
        again = pickle.loads(pickled)
        assert type(again) is type(result)
        np.testing.assert_array_equal(again.ids, result.ids)
        np.testing.assert_array_equal(again.scores, result.scores)
