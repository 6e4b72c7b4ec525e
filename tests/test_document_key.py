"""The key of a document: equal for equal input, different for any other, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import ctxembed
import pytest
from ctxembed import document_key

VECTORS = Path(__file__).parent / "data" / "document_keys.json"
V1, V2 = "pplx-embed-context-v1-0.6b", "pplx-embed-v2-context-9b"


def sized(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def documented(chunks, name, digest, dimensions, encoding_format, role):
    """The bytes that the documentation describes, hashed."""
    head = b"ctxembed document key 1\n" + b"".join(map(sized, (name, digest, encoding_format, role)))
    body = struct.pack("<QQ", dimensions, len(chunks)) + b"".join(map(sized, chunks))
    return hashlib.sha256(head + body).digest()


def test_it_is_the_hash_of_the_documented_bytes():
    chunks = ["First chunk.", "", "Zweites Stück 🦜"]
    for binary in (False, True):
        encoding = "base64_binary" if binary else "base64_int8"
        assert document_key(chunks, model=V1, encoding_format=encoding) == documented(
            chunks, V1, "", 1024, encoding, ""
        )
        key = document_key(chunks, model=V2, dimensions=1024, encoding_format=encoding, input_type="query")
        assert key == documented(chunks, V2, "", 1024, encoding, "query")


def test_the_test_vectors_hold():
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert len(vectors) >= 10
    for vector in vectors:
        assert document_key(**vector["arguments"]).hex() == vector["key"], vector["arguments"]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_computes_the_same(seed):
    code = "import ctxembed, sys; print(ctxembed.document_key(['a', 'b'], model=sys.argv[1]).hex())"
    command = [sys.executable, "-c", code, V1]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    result = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    assert result.stdout.strip() == document_key(["a", "b"], model=V1).hex()


def test_every_argument_matters():
    keys = [
        document_key(["a", "b"], model=V2),
        document_key(["ab"], model=V2),
        document_key(["a", "b", ""], model=V2),
        document_key(["b", "a"], model=V2),
        document_key([], model=V2),
        document_key([""], model=V2),
        document_key(["a", "b"], model=V2, dimensions=1024),
        document_key(["a", "b"], model=V2, encoding_format="base64_binary"),
        document_key(["a", "b"], model=V2, input_type="query"),
        document_key(["a", "b"], model=V1),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_a_digest_of_weights_matters():
    keys = set()
    for digest in (None, "5f3a", "5f3b"):
        ctxembed.register_model(ctxembed.Model("mine-with-a-digest", 256, None, digest=digest))
        keys.add(document_key(["a"], model="mine-with-a-digest"))
    assert len(keys) == 3


def test_defaults_are_the_models():
    assert document_key(["a"], model=V2) == document_key(["a"], model=V2, dimensions=2048, input_type="document")


def test_a_model_without_roles_has_one_key_for_both():
    assert document_key(["a"], model=V1) == document_key(["a"], model=V1, input_type="query")


def test_different_documents_have_different_keys():
    choice = random.Random(14)
    alphabet = ["a", "b", "ab", "", "\0", "é", "🦜", " ", "\n", "1", "12"]

    def document():
        return tuple("".join(choice.choices(alphabet, k=choice.randrange(4))) for _ in range(choice.randrange(5)))

    seen = {}
    pairs = 0
    while pairs < 100_000:
        chunks, dimensions = document(), choice.choice([None, 128, 1024])
        content = (chunks, dimensions or 1024)
        key = document_key(list(chunks), model=V1, dimensions=dimensions)
        assert seen.setdefault(key, content) == content
        assert key == document_key(iter(chunks), model=V1, dimensions=dimensions)
        pairs += 1
    assert len(set(seen.values())) == len(seen) > 10_000


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"chunks": "one text", "model": V1}, TypeError, "iterable of str"),
        ({"chunks": None, "model": V1}, TypeError, "iterable of str"),
        ({"chunks": ["a", 5], "model": V1}, TypeError, r"chunks\[1\] must be a str, got int"),
        ({"chunks": ["a", b"b"], "model": V1}, TypeError, r"chunks\[1\] must be a str, got bytes"),
        ({"chunks": ["a", "b\ud83d"], "model": V1}, ValueError, r"chunks\[1\] holds a lone surrogate \(character 1\)"),
        ({"chunks": ["a"], "model": "unknown"}, ValueError, "not known"),
        ({"chunks": ["a"], "model": V2, "dimensions": 512}, ValueError, "1024 or 2048"),
        ({"chunks": ["a"], "model": V2, "input_type": "passage"}, ValueError, "'document' or 'query'"),
        ({"chunks": ["a"], "model": V1, "input_type": "passage"}, ValueError, "'document' or 'query'"),
        ({"chunks": ["a"], "model": V1, "encoding_format": "float"}, ValueError, "encoding_format"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        document_key(**arguments)
