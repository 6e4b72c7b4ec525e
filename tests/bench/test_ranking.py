"""Measures of ranking quality, on small judgements."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from benches.ranking import mean_ndcg, ndcg, recall


def test_ndcg_is_one_for_the_ideal_order_and_zero_without_relevant_documents():
    assert ndcg([7, 3, 1], {7: 2, 3: 1}) == pytest.approx(1)
    assert ndcg([1, 2, 4], {7: 2, 3: 1}) == 0


def test_gains_are_discounted_by_the_logarithm_of_the_rank():
    # Document 3 with gain 1, then 9 without a judgement, then 7 with gain 2.
    gained = 1 / log2(2) + 0 / log2(3) + 2 / log2(4)
    ideal = 2 / log2(2) + 1 / log2(3)
    assert ndcg([3, 9, 7], {7: 2, 3: 1}) == pytest.approx(gained / ideal)


def test_ndcg_of_a_textbook_example():
    # All judged documents are found, with judgements 3, 2, 3, 0, 1, 2 in that order: 0.961.
    judged = dict(enumerate([3, 2, 3, 0, 1, 2]))
    assert ndcg(range(6), judged) == pytest.approx(0.9608, abs=5e-5)


def test_documents_after_k_count_neither_as_found_nor_as_ideal():
    judged = {1: 1, 2: 1, 3: 1}
    assert ndcg([1, 2, 3], judged, k=2) == pytest.approx(1)
    assert ndcg([9, 8, 1], judged, k=2) == 0


def test_ndcg_can_be_one_with_fewer_than_k_relevant_documents():
    assert ndcg([4, *range(100, 109)], {4: 1}) == pytest.approx(1)


def test_a_document_judged_not_relevant_gains_nothing():
    assert ndcg([1, 2], {1: 0, 2: 1}) == pytest.approx(1 / log2(3))


def test_a_document_found_twice_gains_once():
    assert ndcg([4, 4, 4], {4: 1, 5: 1}) == pytest.approx(1 / (1 + 1 / log2(3)))


def test_the_mean_leaves_out_queries_without_a_relevant_document():
    found = np.array([[1, 2], [1, 2], [1, 2]])
    assert mean_ndcg(found, [{1: 1}, {2: 0}, {5: 1}]) == pytest.approx(0.5)


def test_recall_is_the_share_of_the_best_found_in_any_order():
    assert recall(np.array([[3, 1, 9], [4, 5, 6]]), np.array([[1, 2, 3], [6, 5, 4]])) == pytest.approx((2 / 3 + 1) / 2)
