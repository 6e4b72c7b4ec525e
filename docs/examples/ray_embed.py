"""Embed a dataset with workers of Ray, and write the vectors as Parquet.

    python ray_embed.py docs.jsonl vectors/ journal/

Needs the extra ``ray``. The journal is a folder that all workers reach: with it, a job that is run again after a crash
pays for nothing that is in it.
"""

from __future__ import annotations

import sys
from typing import Any

import ray.data
from ctxembed.distributed import ray as ctxembed_ray

data: Any = ray.data  # Ray's own types are incomplete


def has_failed(row: dict[str, Any]) -> bool:
    """Return whether a row has no vectors."""
    return row["error"] is not None


def main(source: str, target: str, journal: str) -> None:
    """Embed the documents of JSON Lines, a row each."""
    embedded = ctxembed_ray.embed(
        data.read_json(source),
        id="id",
        chunks="chunks",
        concurrency=(1, 4),  # workers: at least one, at most four
        client_options={"max_concurrency": 8, "deadline": 600},
        journal=ctxembed_ray.JournalFolder(journal),
    ).materialize()
    embedded.write_parquet(target)
    failed = embedded.filter(has_failed).count()
    print(f"{embedded.count()} documents, {failed} of them without vectors")


if __name__ == "__main__":
    main(*sys.argv[1:4])
