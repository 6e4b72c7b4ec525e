"""The licenses of the crates that the extension links, for the wheel: written by ``python -m tests.notices``.

It writes ``src/third-party-notices.txt`` and a CycloneDX list of the same crates. Both go into the wheel's metadata.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
NOTICES: Final = ROOT / "src" / "third-party-notices.txt"
COMPONENTS: Final = ROOT / "src" / "ctxembed-crates.cdx.json"
TARGETS: Final = [
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
]
"""The targets of the release."""

_RULE: Final = "\n" + "=" * 100 + "\n"


def crates() -> list[dict[str, Any]]:
    """Return the packages that the extension links on any target, by name: cargo's metadata of each."""
    linked: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        command = ["cargo", "metadata", "--format-version=1", "--locked", "--features=python"]
        run = subprocess.run([*command, f"--filter-platform={target}"], cwd=ROOT, capture_output=True, check=True)
        metadata = json.loads(run.stdout)
        packages = {package["id"]: package for package in metadata["packages"]}
        nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        root = metadata["resolve"]["root"]
        linked |= {found: packages[found] for found in _linked(root, nodes, packages) if found != root}
    return sorted(linked.values(), key=lambda package: (package["name"], package["version"]))


def _linked(root: str, nodes: dict[str, Any], packages: dict[str, Any]) -> Iterator[str]:
    """Yield the root and what it links: no macros, and nothing that only builds or tests need."""
    left, seen = [root], {root}
    while left:
        found = left.pop()
        yield found
        for dependency in nodes[found]["deps"]:
            package = packages[dependency["pkg"]]
            is_normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            is_macro = any("proc-macro" in target["kind"] for target in package["targets"])
            if is_normal and not is_macro and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                left.append(dependency["pkg"])


def license_texts(package: dict[str, Any]) -> dict[str, str]:
    """Return the license files of a crate that apply: MIT where there is a choice, and those that apply beside it."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(
        path for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "COPYRIGHT", "NOTICE"))
    )
    if "MIT" in package["license"]:
        files = [path for path in files if not any(word in path.name.upper() for word in ("APACHE", "ZLIB"))]
    return {path.name: path.read_text(encoding="utf-8").strip() for path in files}


def notices() -> str:
    """Return the contents of NOTICES."""
    head = (
        "The extension module of ctxembed links the Rust crates below, and the standard library of Rust, which is\n"
        "licensed under MIT or Apache-2.0 (https://github.com/rust-lang/rust). Where a crate offers a choice, MIT is\n"
        "chosen. Written by `python -m tests.notices`.\n"
    )
    parts = [head]
    for package in crates():
        texts = license_texts(package)
        if not texts:
            raise FileNotFoundError(f"{package['name']} {package['version']} has no license file")
        head = f"{package['name']} {package['version']}\n{package['license']}\n{package['repository'] or ''}\n"
        parts.append(head + "".join(f"\n{text}\n" for text in texts.values()))
    return _RULE.join(parts)


def components() -> str:
    """Return the contents of COMPONENTS: CycloneDX 1.5, with no path and no time."""
    found = [
        {
            "type": "library",
            "bom-ref": f"pkg:cargo/{package['name']}@{package['version']}",
            "name": package["name"],
            "version": package["version"],
            "licenses": [{"expression": package["license"].replace("/", " OR ")}],
            "purl": f"pkg:cargo/{package['name']}@{package['version']}",
        }
        for package in crates()
    ]
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": found}
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    NOTICES.write_text(notices(), encoding="utf-8")
    COMPONENTS.write_text(components(), encoding="utf-8")
