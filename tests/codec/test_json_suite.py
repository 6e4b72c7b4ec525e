"""The JSON parser of the response decoders against ``tests/data/json`` and, where it is present, JSONTestSuite."""

from __future__ import annotations

from pathlib import Path

import ctxembed
import pytest

from tests.samples import DATA, SHARED

CASES = sorted([*(DATA / "json").glob("*.json"), *(SHARED / "jsontestsuite").rglob("*.json")])


def decode(body: bytes) -> ctxembed.Embeddings:
    return ctxembed.decode_response(body)


def stream(body: bytes) -> ctxembed.Embeddings:
    decoder = ctxembed.ResponseDecoder()
    for start in range(0, len(body), 7):
        decoder.feed(body[start : start + 7])
    return decoder.finish()


def error_kind(case: Path, decoder=decode) -> str | None:
    """Return the kind of error for a response that has the case as the value of an unknown key."""
    body = b'{"data":[{"index":0,"data":[{"index":0,"embedding":"AQID"}]}],"unknown":' + case.read_bytes() + b"}"
    try:
        embeddings = decoder(body)
    except ctxembed.DecodeError as error:
        return error.kind
    assert embeddings.vectors.tolist() == [[1, 2, 3]]
    return None


@pytest.mark.parametrize("decoder", [decode, stream])
@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("y_")], ids=lambda c: c.stem)
def test_valid_json_is_accepted(case, decoder):
    assert error_kind(case, decoder) is None


@pytest.mark.parametrize("decoder", [decode, stream])
@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("n_")], ids=lambda c: c.stem)
def test_invalid_json_is_rejected(case, decoder):
    assert error_kind(case, decoder) in {"json", "truncated", "trailing_bytes", "too_deep"}


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("i_")], ids=lambda c: c.stem)
def test_both_decoders_agree_on_implementation_defined_json(case):
    assert error_kind(case, decode) == error_kind(case, stream)
