"""Rankings by brute force, for the tests of what is chosen from them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def ranked_chunks(documents, rows, query, dimensions=None):
    """Return (exact score, document id, chunk) of all chunks, best first, ties in order of ingestion.

    The score orders as the cosine does, and is compared without rounding.
    """
    query = query[:dimensions].astype(np.int64)
    found = []
    for one in documents:
        for chunk, text in enumerate(one.chunks):
            row = rows[text][:dimensions].astype(np.int64)
            product, norm = int(row @ query), int(row @ row)
            found.append((Fraction(product * abs(product), norm) if norm else Fraction(0), one.id, chunk))
    return sorted(found, key=lambda one: -one[0])


def best_by_document(ranked, k):
    """Return (document id, chunk) of the best chunk of each of the best ``k`` documents."""
    best = {}
    for _, name, chunk in ranked:
        best.setdefault(name, chunk)
    return list(best.items())[:k]


def passages(ranked, k, neighbours, counts):
    """Return (document id, chunk, chunks of the passage) of the best ``k`` passages."""

    def window(name, chunk):
        return {at for at in range(chunk - neighbours, chunk + neighbours + 1) if 0 <= at < counts[name]}

    found = [(name, chunk, window(name, chunk)) for _, name, chunk in ranked[:k]]
    changed = True
    while changed:  # any two that share a chunk become one, until none do
        changed = False
        for first in range(len(found)):
            for second in range(first + 1, len(found)):
                if found[first][0] == found[second][0] and found[first][2] & found[second][2]:
                    name, chunk, chunks = found[first]
                    found[first] = (name, chunk, chunks | found.pop(second)[2])
                    changed = True
                    break
            if changed:
                break
    for _, name, chunk in ranked[k:]:
        if len(found) == k:
            break
        chunks = window(name, chunk)
        if not any(other == name and chunks & theirs for other, _, theirs in found):
            found.append((name, chunk, chunks))
    return [(name, chunk, tuple(sorted(chunks))) for name, chunk, chunks in found]
