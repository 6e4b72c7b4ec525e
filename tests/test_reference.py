"""``docs/reference.md`` lists every public name with the summary of its docstring."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import ctxembed
import pytest

from tests import reference


def test_the_reference_lists_every_public_name_once():
    names = [name for group in reference.ROOMS.values() for name in group]
    assert sorted(names) == ctxembed.__all__, "add the name to a room in tests/reference.py"


def test_the_reference_is_current():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run `python -m tests.reference`"


@pytest.mark.parametrize("module", reference.MODULES)
def test_the_reference_lists_every_name_of_a_public_module_once(module):
    """Modules are parsed, since the frameworks of some may be absent."""
    (names,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(reference.MODULES[module]) == sorted(names)


def test_every_integration_is_a_public_module():
    folder = Path(ctxembed.__file__).parent / "integrations"
    modules = {f"ctxembed.integrations.{path.stem}" for path in folder.glob("[!_]*.py")}
    assert modules == {module for module in reference.MODULES if ".integrations." in module}
