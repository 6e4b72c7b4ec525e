"""Embed and search with open weights on this machine: no key, no bill, and no text leaves it.

    python self_hosted.py demo docs.jsonl corpus.ctx "an animal that eats fish"

``demo`` is a small model from a package (extra ``demo``). In its place stands a folder of Hugging Face's format with an
ONNX graph (extra ``onnx``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ctxembed


def main(model: str, source: Path, target: Path, question: str) -> None:
    """Embed the documents of a file that are new, and print the best chunks for a question."""
    embedder = ctxembed.backends.demo() if model == "demo" else ctxembed.backends.load(model)
    with source.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    documents = [ctxembed.Document(record["id"], record["chunks"]) for record in records]
    if target.exists():
        collection = ctxembed.Collection.open(target)
    else:
        collection = ctxembed.Collection.create(target, model=embedder.model)
    with collection:
        collection.ingest(documents, embedder)
        for hit in collection.search(question, 3, client=embedder):
            print(f"{hit.score:.3f}", hit.document, hit.text)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
