"""The JSON parser of ``decode_response`` against ``tests/data/json`` and, where it is present, JSONTestSuite."""

from __future__ import annotations

from pathlib import Path

import pytest
from ctxembed import DecodeError
from ctxembed._core import validate_json

from tests.samples import DATA, SHARED

CASES = sorted([*(DATA / "json").glob("*.json"), *(SHARED / "jsontestsuite").rglob("*.json")])


def parses(case: Path) -> bool:
    try:
        validate_json(case.read_bytes())
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("y_")], ids=lambda c: c.stem)
def test_valid_documents_parse(case):
    assert parses(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("n_")], ids=lambda c: c.stem)
def test_invalid_documents_are_rejected(case):
    assert not parses(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("i_")], ids=lambda c: c.stem)
def test_documents_that_may_be_either_parse_or_raise_decode_error(case):
    assert parses(case) in (True, False)
