"""Screenshots of the page for the docs: ``python -m tests.browser.screenshots docs/``.

The texts are real ones: Python's enhancement proposals and the Rust book, from the shared data.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ctxembed
from ctxembed._server import ServerProcess

from tests.browser.conftest import Tab, launch
from tests.browser.serving import Serving
from tests.samples import SHARED, paragraphs

QUESTION = "when is memory freed without a garbage collector"
MOST = 150_000  # bytes of a picture
DESKTOP = {"viewport": {"width": 1280, "height": 860}}
PHONE = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True, "device_scale_factor": 1.5}

PICTURES = {
    "page-search": ("search", {"q": QUESTION}, "[data-hit]", DESKTOP),
    "page-dark": ("search", {"q": QUESTION}, "[data-hit]", {**DESKTOP, "color_scheme": "dark"}),
    "page-compare": (
        "search",
        {"q": QUESTION, "by": "exact,two-stage,bits,hybrid"},
        ".column >> nth=3 >> [data-hit]",
        DESKTOP,
    ),
    "page-document": ("document", {"q": QUESTION, "d": "rust/ch04-01-what-is-ownership"}, ".chunk", DESKTOP),
    "page-phone": ("search", {"q": QUESTION}, "[data-hit]", PHONE),
}


def _chunks(text: str) -> list[str]:
    """Return paragraphs, the short ones together."""
    chunks: list[str] = []
    for part in paragraphs(text):
        prose = part.strip() if part.startswith(("    ", "```", "<")) else " ".join(part.split())
        if chunks and len(chunks[-1]) + len(prose) < 500:
            chunks[-1] += "\n" + prose
        else:
            chunks.append(prose)
    return chunks


def documents() -> Iterator[ctxembed.Document]:
    """Yield real documents with their metadata."""
    for path in sorted((SHARED / "corpus" / "rustbook_en").glob("ch*.txt")):
        metadata = {"book": "Rust", "chapter": int(path.name[2:4])}
        yield ctxembed.Document(f"rust/{path.stem}", _chunks(path.read_text()), metadata, source=path.name)
    for path in sorted((SHARED / "corpus" / "pep_en").glob("pep-*.txt")):
        text = path.read_text()
        fields = dict(re.findall(r"^(Title|Status|Type|Created):\s*(.+)$", text[:2_000], re.MULTILINE))
        metadata = {
            "book": "PEP",
            **{name.lower(): fields[name] for name in ("Title", "Status", "Type") if name in fields},
        }
        year = re.search(r"\d{4}", fields.get("Created", ""))
        if year:
            metadata["year"] = int(year[0])
        yield ctxembed.Document(path.stem, _chunks(text), metadata, source=path.name)


def small(picture: bytes) -> bytes:
    """Return a PNG with a palette: text on plain paper has few colours."""
    from PIL import Image

    palette = Image.open(io.BytesIO(picture)).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    stream = io.BytesIO()
    palette.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def main(target: Path) -> None:
    """Write the pictures to a folder."""
    browser, stop = launch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.ctx"
        with (
            ServerProcess() as api,
            ctxembed.Client("any", base_url=api.base_url) as client,
            ctxembed.Collection.create(path) as collection,
        ):
            print(collection.ingest(documents(), client, split_long=True))
        with Serving(path) as server:
            warm = Tab(browser, server.url)  # the first hybrid search builds the index of words
            warm.open(q=QUESTION, by="hybrid").wait_for_selector("[data-hit]")
            warm.context.close()
            for name, (view, state, ready, options) in PICTURES.items():
                tab = Tab(browser, server.url, **options)
                page = tab.open(view, **state)
                page.wait_for_selector(ready)
                page.mouse.move(0, 0)
                page.wait_for_timeout(800)  # fonts, fades, the live state
                picture = small(page.screenshot())
                if tab.errors or len(picture) > MOST:
                    raise SystemExit(f"{name}: {len(picture)} bytes, at most {MOST}; {tab.errors}")
                (target / f"{name}.png").write_bytes(picture)
                print(f"{name}.png {len(picture):,} bytes")
                tab.context.close()
    browser.close()
    stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
