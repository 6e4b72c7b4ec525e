"""Write the collection of this format version that ``test_format`` opens: ``python -m tests.collection.make_sample``.

It is written once for a version of the format, and then kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ctxembed import Collection, Document
from ctxembed._collection import keys
from ctxembed._collection import rows as row_files
from ctxembed._collection.catalogue import FORMAT_VERSION

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document

SAMPLES = Path(__file__).parents[1] / "data" / "collection"

DOCUMENTS = [document(number, lang="en" if number % 2 else "de") for number in range(9)]
LAST = Document("naïve 😀", ["one", "two"], {"nested": {"a": [1]}}, [(0, 3), (4, 7)], "/a/😀")


def main():
    path = SAMPLES / f"v{FORMAT_VERSION}"
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    keys._GATHERED = 5
    row_files.SEAL_BYTES, row_files.TAIL_BYTES = 6 * DIMENSIONS, 8 * DIMENSIONS
    with Collection.create(path, dimensions=DIMENSIONS, fields={"lang": str}) as collection:
        for start in (0, 3, 6):
            collection.ingest(DOCUMENTS[start : start + 3], LocalEmbedder())
        collection.ingest([LAST, ("bad", []), document(1, version=1, lang="en")], LocalEmbedder())
        collection.delete(["doc-6"])
    (path / "lock").unlink()


if __name__ == "__main__":
    main()
