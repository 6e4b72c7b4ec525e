"""Random and mutated inputs of the codec, compared with the standard library's json and base64.

``python -m tests.codec.fuzz_differential --minutes 10`` runs so long and fails at the first difference.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import random
import time
from typing import Any

import ctxembed
import numpy as np
from ctxembed import _core


class RefusedError(Exception):
    """The reference does not accept the input."""


def _refuse(constant: str) -> Any:
    raise RefusedError(constant)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object without its nulls; a repeated key is kept as such, since it matters only where it is known."""
    found: dict[str, Any] = {"repeated": set()}
    seen: set[str] = set()
    for key, value in pairs:
        if key in seen and key in found:
            found["repeated"].add(key)
        seen.add(key)
        if value is None:
            found.pop(key, None) if key not in found else None
        else:
            found.setdefault(key, value)
    return found


def _check(condition: object) -> None:
    if not condition:
        raise RefusedError


def _known(value: Any, keys: set[str]) -> dict[str, Any]:
    _check(isinstance(value, dict))
    _check(not value["repeated"] & keys)
    return value


def _whole(value: Any) -> int:
    _check(isinstance(value, int | float) and not isinstance(value, bool))
    _check(value == value and abs(value) < 1e18 and value == int(value) and value >= 0)
    return int(value)


def _vector(text: Any) -> bytes:
    _check(isinstance(text, str) and text)
    try:
        row = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        raise RefusedError from None
    _check(base64.b64encode(row).decode() == text)
    return row


def _ordered(items: list[Any]) -> list[int]:
    """Return the place of each item."""
    indexes = [item.get("index") for item in items]
    if all(index is None for index in indexes):
        return list(range(len(items)))
    _check(all(index is not None for index in indexes))
    places = [_whole(index) for index in indexes]
    _check(sorted(places) == list(range(len(items))))
    return places


def reference_response(body: bytes) -> tuple[list[bytes], list[int]]:
    """Return the rows and the offsets of a response, or raise RefusedError."""
    try:
        text = body.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise RefusedError from None
    top = _known(value, {"data", "model", "usage"})
    _check(isinstance(top.get("model", ""), str))
    _check(not any("\ud800" <= letter <= "\udfff" for letter in top.get("model", "")))
    if "usage" in top:
        usage = _known(top["usage"], {"prompt_tokens", "total_tokens", "cost"})
        for name in ("prompt_tokens", "total_tokens"):
            if name in usage:
                _whole(usage[name])
        if isinstance(usage.get("cost"), dict):
            _known(usage["cost"], {"total_cost", "currency"})
    _check(isinstance(top.get("data"), list))
    documents = [_known(item, {"data", "index", "embedding"}) for item in top["data"]]
    flat = {"embedding" in document for document in documents}
    _check(len(flat) < 2 and all(("embedding" in item) != ("data" in item) for item in documents))
    rows: dict[int, list[bytes]] = {}
    for place, document in zip(_ordered(documents), documents, strict=True):
        if "embedding" in document:
            rows[place] = [_vector(document["embedding"])]
            continue
        _check(isinstance(document["data"], list))
        chunks = [_known(item, {"index", "embedding"}) for item in document["data"]]
        found = [b""] * len(chunks)
        for chunk_place, chunk in zip(_ordered(chunks), chunks, strict=True):
            found[chunk_place] = _vector(chunk.get("embedding"))
        rows[place] = found
    ordered = [row for place in range(len(documents)) for row in rows[place]]
    _check(len({len(row) for row in ordered}) < 2)
    offsets = [0]
    for place in range(len(documents)):
        offsets.append(offsets[-1] + len(rows[place]))
    return ordered, offsets


def random_response(rng: random.Random) -> bytes:
    """Return a response with varied structure, order and spelling."""
    width = rng.choice([1, 2, 3, 5, 16, 64, 300])
    orders = rng.random() < 0.4

    def objects(count: int, make: Any) -> list[Any]:
        indexed = rng.random() < 0.9
        found = [({"index": i} if indexed else {}) | make() for i in range(count)]
        if orders:
            rng.shuffle(found)
        return [dict(rng.sample(list(item.items()), len(item))) if rng.random() < 0.2 else item for item in found]

    def vector() -> dict[str, Any]:
        return {"embedding": base64.b64encode(rng.randbytes(width)).decode()}

    if rng.random() < 0.3:
        data = objects(rng.randrange(5), vector)
    else:
        data = objects(rng.randrange(4), lambda: {"data": objects(rng.randrange(5), vector)})
    usage: Any = {
        "prompt_tokens": rng.randrange(9),
        "total_tokens": rng.choice([1, 2.0, 7]),
        "cost": {"total_cost": 8e-8},
    }
    body = {
        "data": data,
        "model": rng.choice(["m", "\u00e9", None]),
        "usage": rng.choice([usage, None]),
        "x": [1, {"y": "\\"}],
    }
    separators = rng.choice([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
    return json.dumps(body, separators=separators, ensure_ascii=rng.random() < 0.5).encode()


PIECES = [
    b"null",
    b"-1",
    b"1e0",
    b"0.0",
    b"[]",
    b"{}",
    b'""',
    b"true",
    b'"index":0,',
    b'"AA=="',
    b",",
    b"}",
    b"]",
    b"=",
    b"\\u0041",
    b"\\/",
    b"\xff",
    b"\x00",
    b" ",
    b"1" * 30,
    b'{"a":' * 70,
    b'"data":',
    b'"embedding":',
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change up to three parts of ``data``."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice([0, 0, 1, 1, 2, 8]))
        match rng.randrange(4):
            case 0:
                data = data[:at] + rng.choice(PIECES) + data[end:]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:at] + rng.randbytes(end - at) + data[end:]
            case _:
                other = rng.randrange(len(data) + 1)
                data = data[:at] + data[other : other + rng.randrange(40)] + data[at:]
    return data


def compare_response(rng: random.Random) -> None:
    """Compare decode_response and ResponseDecoder with the reference."""
    body = mutated(random_response(rng), rng)
    try:
        expected = reference_response(body)
    except RefusedError:
        expected = None
    decoder = ctxembed.ResponseDecoder()
    message = ""
    try:
        emb = ctxembed.decode_response(body)
        found = ([row.tobytes() for row in emb.vectors], emb.offsets.tolist())
    except ctxembed.DecodeError as error:
        found = None
        message = str(error)
    assert found == expected, (body, found, expected, message)
    step = rng.randrange(1, 60)
    try:
        for start in range(0, len(body), step):
            decoder.feed(body[start : start + step])
        parts = decoder.finish()
    except ctxembed.DecodeError as error:
        fed = str(error)
    else:
        fed = ""
        assert ([row.tobytes() for row in parts.vectors], parts.offsets.tolist()) == found, body
    assert fed == message, body


def compare_base64(rng: random.Random) -> None:
    """Compare decode_base64 and encode_base64 with the standard library."""
    row = rng.randbytes(rng.randrange(1, 400))
    text = base64.b64encode(row)
    assert ctxembed.encode_base64(np.frombuffer(row, np.uint8)) == text.decode()
    text = mutated(text, rng)
    try:
        spelled = text.decode()
    except UnicodeDecodeError:
        return
    try:
        expected = _vector(spelled)
    except RefusedError:
        expected = None
    try:
        found = ctxembed.decode_base64(spelled).tobytes()
    except ctxembed.DecodeError:
        found = None
    assert found == expected, spelled


def compare_bits(rng: random.Random) -> None:
    """Compare bits with numpy's."""
    rows = np.frombuffer(rng.randbytes(8 * rng.randrange(1, 70) * 3), np.int8).reshape(3, -1)
    bits = ctxembed.pack_bits(rows)
    np.testing.assert_array_equal(bits, np.packbits(rows >= 0, axis=1, bitorder="little"))
    np.testing.assert_array_equal(ctxembed.unpack_bits(bits, dtype=bool), rows >= 0)
    np.testing.assert_array_equal(ctxembed.reverse_bit_order(bits), np.packbits(rows >= 0, axis=1))


LETTERS = [
    "a",
    '"',
    "\\",
    "\n",
    "\x00",
    "\x1f",
    "\x7f",
    "\u00e9",
    "\u2028",
    "\u4e2d",
    "\U0001f600",
    "plain text of many letters ",
]


def compare_request(rng: random.Random) -> None:
    """Compare the encoded documents with the standard library's JSON."""
    documents = [
        ["".join(rng.choices(LETTERS, k=rng.randrange(90))) for _ in range(rng.randrange(4))]
        for _ in range(rng.randrange(5))
    ]
    body = _core.encode_request(documents, b'"model":"m"}')
    assert json.loads(body) == {"input": documents, "model": "m"}


COMPARISONS = (compare_response, compare_response, compare_response, compare_base64, compare_bits, compare_request)


def run(seconds: float, seed: int) -> int:
    """Compare for so many seconds; return the number of cases."""
    end = time.monotonic() + seconds
    case = 0
    while time.monotonic() < end:
        rng = random.Random(f"{seed} {case}")
        try:
            COMPARISONS[case % len(COMPARISONS)](rng)
        except BaseException as error:
            error.add_note(f"case {case} of seed {seed}")
            raise
        case += 1
    return case


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(run(60 * arguments.minutes, arguments.seed), "cases without a difference")
