"""All names in public signatures can be imported from ``ctxembed``, and public objects report it as their module.

The sources and ``_core.pyi`` are parsed for the signatures of functions, the public methods of public classes and
their base classes, and the types of fields. A private alias stands for the type that it abbreviates.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import ctxembed
import pytest

PACKAGE = Path(ctxembed.__file__).parent
OTHER_PACKAGES = sys.stdlib_module_names | {"httpx", "numpy", "pyarrow"}
# Only a client creates these, so their constructors are internal.
CREATED_BY_CLIENTS = {"AsyncRawCalls", "AsyncStream", "RawCalls", "Stream"}
PUBLIC = [name for name in ctxembed.__all__ if name != "__version__"]
# The stub of the core imports nothing of the package. This stands there for `Embeddings`.
PROTOCOLS = {"_Embeddings"}

Annotation: TypeAlias = "tuple[Module, ast.expr]"


class Module:
    """The definitions and the imports of a module of the package."""

    def __init__(self, name: str) -> None:
        base = PACKAGE.parent.joinpath(*name.split("."))
        candidates = (base.with_suffix(".pyi"), base.with_suffix(".py"), base / "__init__.py")
        path = next(path for path in candidates if path.exists())
        self.name = name
        self.imports: dict[str, tuple[str, str]] = {}  # local name: module, name in it
        self.definitions: dict[str, list[ast.stmt]] = {}
        self._read(ast.parse(path.read_text(encoding="utf-8")).body)

    def _read(self, statements: list[ast.stmt]) -> None:
        for node in statements:
            match node:
                case ast.If():  # TYPE_CHECKING
                    self._read([*node.body, *node.orelse])
                case ast.Import():
                    self.imports |= {(each.asname or each.name).split(".")[0]: (each.name, "") for each in node.names}
                case ast.ImportFrom(module=str(module)):
                    self.imports |= {each.asname or each.name: (module, each.name) for each in node.names}
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.definitions.setdefault(node.name, []).append(node)
                case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                    self.definitions.setdefault(name, []).append(node)


module_of = cache(Module)


def definition_of(module: Module, name: str) -> tuple[Module, list[ast.stmt]] | None:
    """Follow imports within the package to the definitions of a name; None if it is defined elsewhere."""
    while name not in module.definitions:
        if name not in module.imports or not module.imports[name][0].startswith("ctxembed"):
            return None
        source, name = module.imports[name]
        module = module_of(source)
    return module, module.definitions[name]


def annotations(module: Module, node: ast.stmt, skipped: frozenset[str] = frozenset()) -> Iterator[Annotation]:
    """Yield the annotations of a function, or those of the public members of a class and its base classes."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            arguments = node.args
            each = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            found = [argument.annotation for argument in each if argument is not None]
            yield from ((module, annotation) for annotation in [*found, node.returns] if annotation is not None)
        case ast.AnnAssign():
            yield module, node.annotation
        case ast.ClassDef():
            members = [(name, member) for member in node.body if (name := public_name(member))]
            for name, member in members:
                if name not in skipped:
                    yield from annotations(module, member)
            skipped |= {name for name, _ in members}  # overridden in this class
            for base in node.bases:
                name = base.value if isinstance(base, ast.Subscript) else base
                if isinstance(name, ast.Name) and (inherited := definition_of(module, name.id)):
                    for statement in inherited[1]:
                        yield from annotations(inherited[0], statement, skipped)


def public_name(node: ast.stmt) -> str | None:
    """Return the name of a method or field unless it is private."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.AnnAssign(target=ast.Name(name)):
            return name if not name.startswith("_") or name.endswith("__") else None
    return None


def names_in(annotation: ast.expr) -> Iterator[str]:
    """Yield the names in an annotation, including those in quotes but not the strings of a Literal."""
    match annotation:
        case ast.Name(id=name):
            yield name
        case ast.Constant(value=str(text)):
            yield from names_in(ast.parse(text, mode="eval").body)
        case ast.Subscript(value=ast.Name(id="Literal")):
            yield "Literal"
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[first, *_])):
            yield from names_in(first)
        case _:
            for child in ast.iter_child_nodes(annotation):
                if isinstance(child, ast.expr):
                    yield from names_in(child)


def unknown_names(module: Module, annotation: ast.expr) -> Iterator[str]:
    """Yield the names in an annotation that are neither public, nor built in, nor of another package."""
    for name in names_in(annotation):
        if name in PUBLIC or name in PROTOCOLS or hasattr(builtins, name):
            continue
        if (found := definition_of(module, name)) is None:
            source = module.imports.get(name, (name, ""))[0]
            if source.split(".")[0] not in OTHER_PACKAGES:
                yield f"{source}.{name}"
            continue
        home, (first, *_) = found
        if is_type_variable(first):
            continue
        if name.startswith("_") and isinstance(first, ast.Assign | ast.AnnAssign):
            yield from unknown_names(home, first.value)
        else:
            yield f"{home.name}.{name}"


def is_type_variable(node: ast.stmt) -> bool:
    match node:
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
            return True
    return False


@pytest.mark.parametrize("name", PUBLIC)
def test_names_in_public_signatures_are_public(name):
    module, statements = definition_of(module_of("ctxembed"), name)
    internal = frozenset({"__init__"} if name in CREATED_BY_CLIENTS else ())
    found = {
        unknown
        for statement in statements
        for home, annotation in annotations(module, statement, internal)
        for unknown in unknown_names(home, annotation)
    }
    assert not found


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_report_ctxembed_as_their_module(name):
    value = getattr(ctxembed, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__module__ == "ctxembed"
