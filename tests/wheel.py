"""Checks of a built wheel: ``python -m tests.wheel dist/*.whl`` fails if files are missing or a path leaks."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path

from tests.notices import COMPONENTS, NOTICES, ROOT


def faults(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    found = []
    vocabulary = ROOT / "python" / "ctxembed" / "_backends" / "minilm-NOTICE.txt"
    named = [(ROOT / "LICENSE", "licenses"), (NOTICES, "licenses"), (vocabulary, "licenses"), (COMPONENTS, "sboms")]
    for source, folder in named:
        pattern = re.compile(rf"[^/]+\.dist-info/{folder}/(.*/)?{re.escape(source.name)}")
        if not any(pattern.fullmatch(name) and text == source.read_bytes() for name, text in files.items()):
            found.append(f"{folder} lack {source.name}, or it differs from the source tree's")
    pages = ROOT / "python" / "ctxembed" / "_server" / "page"
    found += [
        f"the page lacks {source.name}, or it differs from the source tree's"
        for source in sorted(pages.iterdir())
        if source.is_file() and files.get(f"ctxembed/_server/page/{source.name}") != source.read_bytes()
    ]
    cargo = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    paths = {str(ROOT), cargo, str(Path(cargo).resolve())}
    found += [f"{name} holds {path}" for name, text in files.items() for path in paths if path.encode() in text]
    return found


if __name__ == "__main__":
    wrong = [f"{wheel}: {fault}" for wheel in sys.argv[1:] for fault in faults(Path(wheel))]
    sys.exit("\n".join(wrong) or 0)
