"""The parser under ``decode_response`` against a suite of JSON parser cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from ctxembed import DecodeError
from ctxembed._core import validate_json

SUITE = Path(__file__).parents[3] / "shared" / "data" / "jsontestsuite"
CASES = sorted(SUITE.rglob("*.json"))

pytestmark = pytest.mark.skipif(not CASES, reason="../shared/data/jsontestsuite is absent")


def verdict(case: Path) -> bool:
    try:
        validate_json(case.read_bytes())
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("y_")], ids=lambda c: c.stem)
def test_what_must_parse_parses(case):
    assert verdict(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("n_")], ids=lambda c: c.stem)
def test_what_must_not_parse_is_refused(case):
    assert not verdict(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.name.startswith("i_")], ids=lambda c: c.stem)
def test_what_may_parse_has_a_verdict(case):
    assert verdict(case) in (True, False)
