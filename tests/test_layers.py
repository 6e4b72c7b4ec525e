"""Imports run one way: down the layers of the package and of the benches, and without a circle of files.

The sources are parsed, not imported, so imports inside functions and under ``TYPE_CHECKING`` count like all others.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGE = (
    ("ctxembed.__main__",),
    ("ctxembed._cli",),
    ("ctxembed.integrations",),
    ("ctxembed.distributed",),
    ("ctxembed._mcp", "ctxembed._server"),
    ("ctxembed",),
    ("ctxembed.backends",),
    ("ctxembed._backends",),
    ("ctxembed._evaluation",),
    ("ctxembed._collection",),
    ("ctxembed._jobs",),
    ("ctxembed._search_client",),
    ("ctxembed._client",),
    ("ctxembed._client._http", "ctxembed._client._policy"),
    ("ctxembed._client._runtime",),
    ("ctxembed._planning",),
    ("ctxembed._codec",),
    ("ctxembed._documents",),
    ("ctxembed._results",),
    ("ctxembed._parsed_response",),
    ("ctxembed._models",),
    ("ctxembed._costs",),
    ("ctxembed._errors",),
    ("ctxembed._extras",),
    ("ctxembed._core",),
)
"""The layers from the top down, each a tuple of rooms. A room is a module, or a package with its modules.

A module imports from its own room and from lower layers. The name of the root package means its ``__init__`` alone.
"""

BENCHES = (
    ("benches.evaluation",),
    ("benches.test_*", "benches.conftest", "benches.run"),
    ("benches.report", "benches.internet_scale", "benches.instructions"),
    ("benches.plots",),
    ("benches.results",),
    ("benches.soaking",),
    ("benches.peers",),
    ("benches.cases",),
    ("benches.canned", "benches.ranking", "benches.simulation", "benches.texts", "benches.worker"),
    ("benches.harness", "benches.serving", "benches.vectors"),
    ("benches",),
)

TREES = {
    "package": (ROOT / "python" / "ctxembed", PACKAGE),
    "benches": (ROOT / "benches", BENCHES),
}


@dataclass(frozen=True)
class Import:
    """An import of one file of a tree by another."""

    source: str
    target: str
    line: int


class Tree:
    """The modules of a package and the imports between them."""

    def __init__(self, folder: Path) -> None:
        self.package = folder.name
        self.files = {
            self._module(path.relative_to(folder.parent)): path
            for pattern in ("*.py", "*.pyi")
            for path in sorted(folder.rglob(pattern))
        }
        self.names = {module: path.relative_to(folder.parent).as_posix() for module, path in self.files.items()}
        self.imports = [found for module in self.files for found in self._imports(module)]

    @staticmethod
    def _module(path: Path) -> str:
        parts = path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, source: str) -> list[Import]:
        """Return the imports of a module from its tree, each from the file that defines or re-exports the name."""
        path = self.files[source]
        parent = source if path.stem == "__init__" else source.rpartition(".")[0]
        found = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
                base += node.module.split(".") if node.module else []
                names = [".".join([*base, alias.name]) for alias in node.names]
            targets = dict.fromkeys(filter(None, map(self._target, names)))
            found += [Import(source, target, node.lineno) for target in targets if target != source]
        return found

    def _target(self, name: str) -> str | None:
        """Return the module of a dotted name: the longest prefix that is a file of the tree."""
        while name and name not in self.files:
            name = name.rpartition(".")[0]
        return name or None


def layer_and_room(module: str, layers: tuple[tuple[str, ...], ...]) -> tuple[int, str] | None:
    """Return the index of a module's layer and its room, or None if it is in no layer."""
    matches = [
        (len(room), index, room)
        for index, layer in enumerate(layers)
        for room in layer
        if fnmatchcase(module, room) or ("." in room and fnmatchcase(module, f"{room}.*"))
    ]
    return max(matches)[1:] if matches else None


def upward_imports(tree: Tree, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """Return a message for each import that does not run down the layers, and for each module in no layer."""
    places = {module: layer_and_room(module, layers) for module in tree.files}
    messages = [f"{tree.names[module]} is in no layer" for module, place in places.items() if place is None]
    for found in tree.imports:
        source, target = places[found.source], places[found.target]
        if source and target and source[1] != target[1] and source[0] >= target[0]:
            messages.append(
                f"{tree.names[found.source]}:{found.line} imports {tree.names[found.target]}, "
                f"but {target[1]} is not below {source[1]}"
            )
    return messages


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Return a message for each strongly connected component: a shortest circle in it, and all its files."""

    @cache
    def reachable(start: str) -> frozenset[str]:
        seen, queue = set(), deque(edges.get(start, ()))
        while queue:
            node = queue.popleft()
            if node not in seen:
                seen.add(node)
                queue.extend(edges.get(node, ()))
        return frozenset(seen)

    components = {frozenset(b for b in reachable(a) if a in reachable(b)) for a in edges if a in reachable(a)}
    messages = []
    for component in sorted(components, key=sorted):
        path = min((_circle(start, edges) for start in sorted(component)), key=len)
        more = sorted(component - set(path))
        messages.append(" -> ".join(path) + (f" (in one component with {', '.join(more)})" if more else ""))
    return messages


def _circle(start: str, edges: dict[str, set[str]]) -> list[str]:
    """Return a shortest path from a node back to itself."""
    paths = deque([[start]])
    seen = set()
    while True:
        path = paths.popleft()
        for node in sorted(edges.get(path[-1], ())):
            if node == start:
                return [*path, node]
            if node not in seen:
                seen.add(node)
                paths.append([*path, node])


def import_circles(tree: Tree) -> list[str]:
    edges: dict[str, set[str]] = {}
    for found in tree.imports:
        edges.setdefault(tree.names[found.source], set()).add(tree.names[found.target])
    return circles(edges)


def check(messages: list[str]) -> None:
    if messages:
        pytest.fail("\n".join(messages), pytrace=False)


@pytest.mark.parametrize("name", TREES)
def test_imports_run_down_the_layers(name):
    folder, layers = TREES[name]
    check(upward_imports(Tree(folder), layers))


@pytest.mark.parametrize("name", TREES)
def test_no_imports_form_a_circle(name):
    check(import_circles(Tree(TREES[name][0])))


# --- the crate ---

NOISE = re.compile(
    r"//[^\n]*|/\*.*?\*/|\(in [\w:]+\)|r(#*)\".*?\"\1|\"(?:\\.|[^\"\\])*\"|'(?:\\[^']*|[^'\\])'", re.DOTALL
)
INLINE_MODULE = re.compile(r"((?:#\[[^\]]*\]\s*)*)(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*\{")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
NESTED = re.compile(r"([\w:]*)\{([^{}]*)\}")
PATH = re.compile(r"(?<![\w:])[a-z_]\w*(?:::\w+)+")

Place = tuple[str, ...]


def _flat(tree: str) -> list[str]:
    """Return the paths of a ``use`` tree."""
    while "{" in tree:
        tree = NESTED.sub(lambda m: ",".join(m[1] + part.strip() for part in m[2].split(",") if part.strip()), tree)
    return [path.strip() for path in tree.split(",")]


class Crate:
    """The files of a crate, and the paths in them to other files. Tests are left out.

    A path through a re-export leads to the file that defines the name. The re-export itself is not an import.
    """

    def __init__(self, src: Path) -> None:
        self.src = src
        self.files: dict[Place, Path] = {}
        for path in sorted(src.rglob("*.rs")):
            place = path.relative_to(src).with_suffix("").parts
            if path.stem != "tests":
                self.files[place[:-1] if path.stem in {"mod", "lib"} else place] = path
        self.names: dict[Place, dict[str, Place]] = {module: {} for module in self.files}
        self.paths: list[tuple[Place, Place]] = []
        for module, path in self.files.items():
            self._read(NOISE.sub(" ", path.read_text(encoding="utf-8")), module, module)

    def _read(self, text: str, module: Place, scope: Place) -> None:
        """Collect the paths of a file's text, whose inline modules are scopes of their own."""
        while inline := INLINE_MODULE.search(text):
            end = start = inline.end()
            while text.count("{", start, end) >= text.count("}", start, end):
                end = text.index("}", end) + 1
            if not re.search(r"cfg\(.*\btest\b", inline[1]):
                self._read(text[start : end - 1], module, (*scope, inline[2]))
            text = text[: inline.start()] + text[end:]
        for public, used in USE.findall(text):
            for part in _flat(used):
                path, _, name = part.partition(" as ")
                place = self._place(path.removesuffix("::self"), scope)
                if place and scope == module:
                    self.names[module][name or place[-1]] = place
                if place and not public:
                    self.paths.append((module, place))
        places = [self._place(path, scope) for path in PATH.findall(USE.sub("", text))]
        self.paths += [(module, place) for place in places if place]

    def _place(self, path: str, scope: Place) -> Place | None:
        """Return the place that a path in ``scope`` names, or None for a path into another crate."""
        if path.startswith("crate::"):
            return tuple(path.split("::")[1:])
        names = path.removeprefix("self::").split("::")
        ups = names.count("super")
        scope, names = scope[: len(scope) - ups], names[ups:]
        local = ups or path.startswith("self::") or (*scope, names[0]) in self.files
        return (*scope, *names) if local else None

    def _file(self, place: Place) -> str:
        """Return the file that defines a place, behind all re-exports."""
        size = max(n for n in range(len(place) + 1) if place[:n] in self.files)
        named = self.names[place[:size]].get(place[size]) if size < len(place) else None
        if named is not None and named != place:
            return self._file((*named, *place[size + 1 :]))
        return self.files[place[:size]].relative_to(self.src.parent).as_posix()

    def circles(self) -> list[str]:
        edges: dict[str, set[str]] = {}
        for module, place in self.paths:
            source, target = self._file(module), self._file(place)
            if source != target:
                edges.setdefault(source, set()).add(target)
        return circles(edges)


def test_no_files_of_the_crate_form_a_circle():
    check(Crate(ROOT / "src").circles())


# --- the checker ---

LAYERS = (("house",), ("house.roof",), ("house.left", "house.right"), ("house.cellar",))

SOUND = {
    "__init__.py": "from house.roof import tiles",
    "roof/__init__.py": "",
    "roof/tiles.py": "from house.roof import beams\nfrom house import cellar",
    "roof/beams.py": "from house.left import wall\nimport house.right.wall, os",
    "left/__init__.py": "",
    "left/wall.py": "from ..cellar import floor",
    "right/__init__.py": "",
    "right/wall.py": "import numpy",
    "cellar.pyi": "floor: int",
}


def tree_of(tmp_path: Path, changed: dict[str, str] | None = None) -> Tree:
    """Write the files of a sound package with changes to some of them."""
    for name, text in {**SOUND, **(changed or {})}.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(tmp_path / "house")


def test_a_sound_tree_has_no_messages(tmp_path):
    tree = tree_of(tmp_path)
    assert upward_imports(tree, LAYERS) == []
    assert import_circles(tree) == []
    assert {(found.source, found.target) for found in tree.imports} == {
        ("house", "house.roof.tiles"),
        ("house.roof.tiles", "house.roof.beams"),
        ("house.roof.tiles", "house.cellar"),
        ("house.roof.beams", "house.left.wall"),
        ("house.roof.beams", "house.right.wall"),
        ("house.left.wall", "house.cellar"),
    }


FORMS = {
    "from a module": "from house.roof.beams import Beam",
    "from a package": "from house.roof import beams as other",
    "plain": "import house.roof.beams",
    "relative": "from ..roof.beams import Beam",
    "relative, the module": "from ..roof import beams",
    "star": "from house.roof.beams import *",
    "type-only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.roof.beams import Beam",
    "in a function": "def build():\n    class Wall:\n        from house.roof.beams import Beam",
    "in a handler": "try:\n    import numpy\nexcept ImportError:\n    import house.roof.beams",
}


@pytest.mark.parametrize("form", FORMS)
def test_an_import_of_a_layer_above_fails(tmp_path, form):
    text = FORMS[form]
    tree = tree_of(tmp_path, {"left/wall.py": text})
    line = text.count("\n") + 1
    assert upward_imports(tree, LAYERS) == [
        f"house/left/wall.py:{line} imports house/roof/beams.py, but house.roof is not below house.left"
    ]
    assert import_circles(tree) == ["house/left/wall.py -> house/roof/beams.py -> house/left/wall.py"]


def test_an_import_of_the_root_package_fails(tmp_path):
    tree = tree_of(tmp_path, {"left/wall.py": "def f():\n    import house"})
    assert upward_imports(tree, LAYERS) == [
        "house/left/wall.py:2 imports house/__init__.py, but house is not below house.left"
    ]


def test_an_import_of_another_room_of_the_same_layer_fails(tmp_path):
    tree = tree_of(tmp_path, {"left/wall.py": "from house.right import wall"})
    assert upward_imports(tree, LAYERS) == [
        "house/left/wall.py:1 imports house/right/wall.py, but house.right is not below house.left"
    ]


def test_an_import_of_the_outer_room_fails(tmp_path):
    layers = (("house",), ("house.roof",), ("house.roof.attic",), ("house.left",), ("house.right",), ("house.cellar",))
    tree = tree_of(tmp_path, {"roof/attic.py": "from . import beams"})
    assert upward_imports(tree, layers) == [
        "house/roof/attic.py:1 imports house/roof/beams.py, but house.roof is not below house.roof.attic"
    ]
    assert upward_imports(tree, LAYERS) == []


def test_a_module_in_no_layer_fails(tmp_path):
    tree = tree_of(tmp_path, {"shed.py": ""})
    assert upward_imports(tree, LAYERS) == ["house/shed.py is in no layer"]


def test_a_circle_within_a_room_is_named_file_by_file(tmp_path):
    tree = tree_of(tmp_path, {"roof/beams.py": "from .nails import Nail", "roof/nails.py": "from . import tiles"})
    assert upward_imports(tree, LAYERS) == []
    assert import_circles(tree) == [
        "house/roof/beams.py -> house/roof/nails.py -> house/roof/tiles.py -> house/roof/beams.py"
    ]


def test_a_circle_through_an_init_is_found(tmp_path):
    tree = tree_of(tmp_path, {"left/__init__.py": "from .wall import Wall", "left/wall.py": "from . import Wall"})
    assert import_circles(tree) == ["house/left/__init__.py -> house/left/wall.py -> house/left/__init__.py"]


def test_each_component_has_one_message_with_all_its_files():
    edges = {"a": {"b", "c"}, "b": {"a"}, "c": {"d"}, "d": {"a", "e"}, "x": {"y"}, "y": {"x"}, "e": {"x"}}
    assert circles(edges) == ["a -> b -> a (in one component with c, d)", "x -> y -> x"]


HOUSE = {
    "lib.rs": "pub mod roof;\npub mod cellar;",
    "cellar.rs": "pub struct Floor;\n#[cfg(test)]\nmod tests { use super::*; use crate::roof::tiles; fn f() {} }",
    "roof/mod.rs": "mod tiles;\nmod beams;\npub use self::{beams::Beam, tiles::Tile as Slate};",
    "roof/tiles.rs": "use super::Beam; // super::Slate\npub struct Tile<'a>(&'a Beam);\nconst C: &str = \"super::X\";",
    "roof/beams.rs": "use crate::{cellar::Floor, error};\npub(in crate::roof) struct Beam(Floor, char);",
    "roof/tests.rs": "use super::{beams::Beam, tiles::Tile};",
}


def crate_of(tmp_path: Path, changed: dict[str, str]) -> Crate:
    for name, text in {**HOUSE, **changed}.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Crate(tmp_path / "src")


def test_a_sound_crate_has_no_circle(tmp_path):
    assert crate_of(tmp_path, {}).circles() == []


@pytest.mark.parametrize(
    "text",
    [
        "use super::Slate;",
        "use super::{self as roof, Slate};",
        "use crate::roof::{tiles::{self, Tile}};",
        "fn f() { let tile = crate::roof::tiles::Tile; }",
        "fn f() { super::Slate::new() }",
        "mod inner { use super::super::tiles::Tile; }",
    ],
)
def test_a_path_to_a_sibling_that_depends_on_the_file_is_a_circle(tmp_path, text):
    crate = crate_of(tmp_path, {"roof/beams.rs": f"pub struct Beam;\n{text}"})
    assert crate.circles() == ["src/roof/beams.rs -> src/roof/tiles.rs -> src/roof/beams.rs"]


@pytest.mark.parametrize("text", ["use tiles::Tile;", "fn f() { tiles::lay() }"])
def test_a_module_that_uses_a_child_forms_a_circle_with_it(tmp_path, text):
    changed = {"roof/mod.rs": f"mod tiles;\npub struct Pitch;\n{text}", "roof/tiles.rs": "use super::Pitch;"}
    assert crate_of(tmp_path, changed).circles() == ["src/roof/mod.rs -> src/roof/tiles.rs -> src/roof/mod.rs"]
