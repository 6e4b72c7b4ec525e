"""Bring a collection up to date with a file of documents, within a budget.

    python nightly_job.py docs.jsonl corpus.ctx

What has not changed is not paid for again, and documents that the file no longer has are deleted. The exit code is 0 if
the collection is what the file says, and 1 if documents failed or the budget was reached: the next night goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ctxembed


def read(path: Path) -> Iterator[ctxembed.Document]:
    """Yield the documents of a file, one a line, as they are needed."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            yield ctxembed.Document(record.pop("id"), record.pop("chunks"), metadata=record)


def main(source: Path, target: Path) -> int:
    """Run the job; return the exit code."""
    collection = ctxembed.Collection.open(target) if target.exists() else ctxembed.Collection.create(target)
    with collection, ctxembed.Client() as client:
        report = collection.ingest(
            read(source),
            client,
            prune=True,
            max_cost_usd=5,
            max_errors=1000,
            max_wait=600,  # seconds for which an API that is down is waited for
        )
        cost = report.usage.cost_usd or 0  # None where nothing was sent
        print(f"{report.added} added, {report.updated} updated, {report.deleted} deleted, USD {cost:f}")
        for failure in collection.failures():
            print(f"{failure.id}: {failure.error}", file=sys.stderr)
        if report.stopped is not None:
            print(f"stopped by {report.stopped}", file=sys.stderr)
        if report.updated or report.deleted:
            collection.compact()  # gives back the room of what was replaced
        return 1 if report.failed or report.stopped is not None else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
