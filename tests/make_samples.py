"""Write ``tests/data/tokenizer/tokenizer.json`` and ``tests/data/token_counts.json`` from the full Qwen3 vocabulary.

    python -m tests.make_samples ../shared/data/tokenizer/tokenizer.json

The cut vocabulary keeps the 256 bytes, the first merges, the merges that the sample texts use, and the longest token.
Every merge comes with the merges that make its two parts. Ids are renumbered.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

from tests.samples import DATA, paragraphs, sample_texts

FIRST_MERGES = 1000


def cut(full: dict, tokenizer: Tokenizer) -> dict:
    """Return the definition with some of its merges."""
    merges = full["model"]["merges"]
    parts_of = {"".join(pair): pair for pair in merges}
    wanted = ["".join(pair) for pair in merges[:FIRST_MERGES]]
    wanted += [token for text in sample_texts().values() for token in tokenizer.encode(text).tokens]
    wanted.append(max(full["model"]["vocab"], key=len))
    kept: set[str] = set()
    while wanted:
        token = wanted.pop()
        if token in parts_of and token not in kept:
            kept.add(token)
            wanted += parts_of[token]
    pairs = [pair for pair in merges if "".join(pair) in kept]
    bytes_ = [token for token in full["model"]["vocab"] if len(token) == 1]
    tokens = [*bytes_, *("".join(pair) for pair in pairs)]
    added = [{**token, "id": len(tokens) + i} for i, token in enumerate(full["added_tokens"])]
    vocab = {token: i for i, token in enumerate(tokens)}
    return {**full, "added_tokens": added, "model": {**full["model"], "vocab": vocab, "merges": pairs}}


def main() -> None:
    """Write both files."""
    path = Path(sys.argv[1])
    full, tokenizer = json.loads(path.read_text(encoding="utf-8")), Tokenizer.from_file(str(path))
    small = json.dumps(cut(full, tokenizer), ensure_ascii=False, separators=(",", ":"))
    (DATA / "tokenizer" / "tokenizer.json").write_text(small + "\n", encoding="utf-8")
    counts = {
        name: [len(entry) for entry in tokenizer.encode_batch([text, *paragraphs(text)])]
        for name, text in sample_texts().items()
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in counts.items()]
    (DATA / "token_counts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
