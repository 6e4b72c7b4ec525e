"""Find the smallest vectors that lose little, on questions whose hits are judged.

    python evaluate_search.py FOLDER corpus.ctx

FOLDER has the layout of BEIR: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/test.tsv``. Needs the extra ``chunk``.
Documents and questions are embedded once, and every variant is computed from that.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctxembed

VARIANTS = ("int8", "int8@512", "int8@256", "asymmetric", "bits")
TOLERANCE = 0.01
"""Of nDCG@10: what a smaller vector may lose."""


def main(folder: Path, target: Path) -> None:
    """Print a table of the variants, and the smallest that is good enough."""
    judged = ctxembed.read_judged(folder)
    collection = ctxembed.Collection.open(target) if target.exists() else ctxembed.Collection.create(target)
    with collection, ctxembed.Client() as client:
        collection.ingest(judged.documents, client, max_cost_usd=5)
        result = ctxembed.evaluate(
            collection, judged.queries, judged.judgements, client=client, k=10, variants=VARIANTS
        )
    print(result)
    needed = max(row["ndcg@10"] for row in result.table) - TOLERANCE
    good = [row for row in result.table if row["ndcg@10"] >= needed]
    best = min(good, key=lambda row: row["bytes"])
    print(f"{best['variant']}: {best['bytes']} bytes a vector, nDCG@10 {best['ndcg@10']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
