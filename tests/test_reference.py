"""``docs/reference.md`` lists every public name with the summary of its docstring."""

from __future__ import annotations

import ctxembed

from tests import reference


def test_the_reference_lists_every_public_name_once():
    names = [name for group in reference.ROOMS.values() for name in group]
    assert sorted(names) == ctxembed.__all__, "add the name to a room in tests/reference.py"


def test_the_reference_is_current():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run `python -m tests.reference`"
