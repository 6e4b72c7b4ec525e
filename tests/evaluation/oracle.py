"""Rankings by their definition in numpy, and trec_eval's measures of them."""

from __future__ import annotations

import numpy as np
import pytrec_eval


def signs(rows):
    return np.where(rows >= 0, 1, -1)


def scores_of(method, query, rows):
    """Return all scores of a query, higher is nearer. They are exact where they may tie."""
    query, rows = query.astype(np.int64), rows.astype(np.int64)
    if method == "bits":
        return signs(rows) @ signs(query)
    products = (signs(rows) if method == "asymmetric" else rows) @ query
    if method == "asymmetric":
        return products
    return products / np.sqrt((rows * rows).sum(axis=1))


def best_chunks(scores, documents):
    """Return the best score of each document, in the order of the first chunks."""
    best = {}
    for document, score in zip(documents, scores.tolist(), strict=True):
        best[document] = max(score, best.get(document, score))
    return best


def ordered(scores):
    """Return the items of a dict of scores, best first, ties by item ascending."""
    return sorted(scores, key=lambda item: (-scores[item], item))


def name(item):
    return item if isinstance(item, str) else f"{item[0]}/{item[1]}"


def measures(orders, judgements, ks):
    """Return trec_eval's measures of rankings, by query: {"ndcg@10": ..., "map": ...}."""
    cuts = ",".join(map(str, ks))
    wanted = {f"ndcg_cut.{cuts}", f"recall.{cuts}", f"success.{cuts}", "recip_rank", "map"}
    grades = {query: {name(item): int(grade) for item, grade in found.items()} for query, found in judgements.items()}
    run = {
        query: {name(item): float(len(order) - place) for place, item in enumerate(order)}
        for query, order in orders.items()
    }
    found = pytrec_eval.RelevanceEvaluator(grades, wanted).evaluate(run)
    renamed = {"recip_rank": "mrr", "map": "map"}
    for k in ks:
        renamed |= {f"ndcg_cut_{k}": f"ndcg@{k}", f"recall_{k}": f"recall@{k}", f"success_{k}": f"success@{k}"}
    return {query: {renamed[key]: value for key, value in values.items()} for query, values in found.items()}
