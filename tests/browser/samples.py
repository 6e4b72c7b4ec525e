"""What the tests of the page search: collections with real text, hostile text, and a long document."""

from __future__ import annotations

import random
from pathlib import Path

import ctxembed

from tests.samples import SHARED

__all__ = ["HOSTILE", "LONG", "NAMES", "QUESTION", "documents", "fill", "long_document"]

QUESTION = "what is the lift of a wing in a propeller slipstream"

HOSTILE = (
    '<script>window.hacked = "script"</script> about a zeppelin',
    "<img src=x onerror=\"window.hacked = 'image'\"> and <b>bold</b> &lt; &amp; 😀😀 the hull of a zeppelin",
    "javascript:window.hacked='link' </mark></p><style>*{display:none}</style> third zeppelin chunk",
)
NAMES = 'na"me <i>', "O'Hara \"% _\\"
"""The name and a value of a field that quoting must survive."""

LONG = 10_000
_WORDS = ("wing", "flow", "shock", "wave", "layer", "heat", "plate", "pressure", "supersonic", "panel", "flutter")

_FACTS = (
    ("The heron stood in the reeds.", "It waited for a long time.", "Then it caught a fish."),
    ("A wing in a slipstream has more lift.", "The propeller turns the air.", "Spanwise the lift is not even."),
    ("Rust has no garbage collector.", "Its compiler checks who owns a value.", "Threads share nothing by accident."),
    ("Shock waves form at supersonic speed.", "Drag rises.", "A swept wing delays them."),
)


def _cranfield(most: int) -> list[tuple[str, list[str], dict[str, object]]]:
    """Return real abstracts where they are present, else what this file has."""
    import json

    source = SHARED / "ir" / "cranfield" / "corpus.jsonl"
    if not source.is_file():
        return [(f"fact/{n}", list(_FACTS[n % 4]), {"title": _FACTS[n % 4][0], "author": f"a{n}"}) for n in range(60)]
    found = []
    for line in source.read_text().splitlines()[:most]:
        entry = json.loads(line)
        sentences = [f"{part.strip()} ." for part in entry["text"].split(" . ") if part.strip()]
        if sentences:
            chunks = [entry["title"] or sentences[0]]
            chunks += [" ".join(sentences[at : at + 2]) for at in range(0, len(sentences), 2)]
            found.append((f"cranfield/{entry['_id']}", chunks, {"title": entry["title"], "author": entry["author"]}))
    return found


def documents(most: int = 300) -> list[ctxembed.Document]:
    """Return documents with metadata of all kinds."""
    chance = random.Random(1)
    made = []
    for id_, chunks, known in _cranfield(most):
        metadata = {
            "kind": chance.choice(["theory", "experiment", "survey"]),
            "year": chance.randint(1930, 1965),
            "reviewed": chance.random() < 0.5,
            **known,
        }
        made.append(ctxembed.Document(id_, chunks, metadata))
    hostile = {"kind": "survey", "year": 1937, "reviewed": None, NAMES[0]: NAMES[1], "title": "<u>title</u>"}
    made.append(ctxembed.Document("hostile/<b>\"'&%2F?#", list(HOSTILE), hostile, source="<script>source</script>"))
    other = {"kind": "survey", "year": 1938, NAMES[0]: "O'Hara \"x yz"}
    made.append(ctxembed.Document("other name", ["A zeppelin is lighter than air."], other))
    long = {"kind": "survey", "z" * 120: "v" * 300, "nested": {"a": ["b" * 200]}}
    made.append(ctxembed.Document("x" * 300, ["A zeppelin " + "y" * 1_500, "w" * 400], long))
    text = "The first part of a text. The second part overlaps it. The third part ends."
    spans = [(0, 26), (12, 54), (55, 75)]
    made.append(ctxembed.Document("overlap", [text[a:b] for a, b in spans], {"kind": "theory"}, spans=spans))
    return made


def long_document(length: int = LONG) -> ctxembed.Document:
    """Return a document of many chunks of all sizes."""
    chance = random.Random(2)
    chunks = [
        f"Part {number}: " + " ".join(chance.choice(_WORDS) for _ in range(chance.randint(3, 60)))
        for number in range(length)
    ]
    return ctxembed.Document("long", chunks, {"kind": "survey", "year": 1960, "title": "A long report"})


def fill(path: Path, base_url: str, *, long: bool = True, most: int = 300) -> None:
    """Create a collection, embedded by the stand-in at an address. One of its documents fails."""
    with ctxembed.Client("any", base_url=base_url) as client, ctxembed.Collection.create(path) as collection:
        collection.ingest([*documents(most), ctxembed.Document("broken <i>", ["whole", ""])], client)
        if long:
            collection.ingest([long_document()], client, split_long=True)
