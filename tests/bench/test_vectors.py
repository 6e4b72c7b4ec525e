"""The synthetic vectors of benches and tests behave like those of an embedding model. Uniform noise does not."""

from __future__ import annotations

import numpy as np
import pytest

from benches import vectors

ROWS, QUERIES, K = 20_000, 100, 10


def unit(rows):
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Sample:
    """Rows and queries, with the measures of their distribution."""

    def __init__(self, rows, queries):
        self.rows, self.queries = rows, queries
        self.bits, self.query_bits = (
            np.packbits(side >= 0, axis=1, bitorder="little") for side in (self.rows, self.queries)
        )
        self.cosines = unit(queries) @ unit(rows).T
        self.best = np.argsort(-self.cosines, axis=1)[:, :K]

    def recall(self, found):
        return np.mean([len(set(a) & set(b)) / K for a, b in zip(self.best.tolist(), found.tolist(), strict=True)])

    def recall_of_bits(self, candidates):
        words, queries = self.bits.view(np.uint64), self.query_bits.view(np.uint64)
        distances = np.array([np.bitwise_count(words ^ query).sum(axis=1) for query in queries])
        return self.recall(np.argsort(distances, axis=1, kind="stable")[:, :candidates])

    def recall_of_dimensions(self, part):
        cosines = unit(self.queries[:, part]) @ unit(self.rows[:, part]).T
        return self.recall(np.argsort(-cosines, axis=1)[:, :K])

    def intrinsic_dimension(self, neighbours=20):
        """Levina and Bickel's estimate over the nearest neighbours of each query.

        The nearest one is left out, because it may be a near-duplicate.
        """
        cosines = -np.sort(-self.cosines, axis=1)[:, 1 : neighbours + 1]
        distances = np.sqrt(2 - 2 * cosines)
        return np.median(1 / np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1))

    def effective_dimensions(self):
        """The participation ratio of the covariance's eigenvalues: (sum)^2 / sum of squares."""
        values = np.linalg.eigvalsh(np.cov(unit(self.rows[:5000]).T))
        return values.sum() ** 2 / np.square(values).sum()

    def shares_of_ones(self):
        return np.unpackbits(self.bits, axis=1, bitorder="little").mean(axis=0)


@pytest.fixture(scope="module")
def realistic():
    return Sample(vectors.int8_vectors(3, ROWS), vectors.int8_vectors(4, QUERIES))


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(5)
    return Sample(*(rng.integers(-128, 128, (rows, 1024), dtype=np.int8) for rows in (ROWS, QUERIES)))


def test_the_mean_cosine_is_positive_and_the_nearest_rows_are_much_closer(realistic, noise):
    cosines = realistic.cosines
    assert 0.2 < cosines.mean() < 0.45
    assert 0.06 < cosines.std() < 0.15
    tenth = -np.sort(-cosines, axis=1)[:, K - 1]
    assert 0.55 < tenth.mean() < 0.85
    assert tenth.std() > 0.03  # the neighbours of some queries are nearer than those of others
    assert abs(noise.cosines.mean()) < 0.01
    assert -np.sort(-noise.cosines, axis=1)[:, 0].mean() < 0.2


def test_the_intrinsic_dimension_is_that_of_text(realistic, noise):
    assert 8 < realistic.intrinsic_dimension() < 35
    assert noise.intrinsic_dimension() > 150


def test_the_effective_number_of_dimensions_is_about_a_tenth(realistic, noise):
    assert 50 < realistic.effective_dimensions() < 130
    assert noise.effective_dimensions() > 700


def test_bits_are_balanced_on_average_and_unbalanced_one_by_one(realistic, noise):
    shares = realistic.shares_of_ones()
    assert 0.45 < shares.mean() < 0.55
    assert 0.15 < shares.std() < 0.3
    assert 0 < shares.min() < shares.max() < 1
    assert noise.shares_of_ones().std() < 0.01


def test_bits_find_most_of_the_nearest_rows_and_ten_times_the_candidates_find_nearly_all(realistic, noise):
    assert 0.55 < realistic.recall_of_bits(K) < 0.85
    assert realistic.recall_of_bits(10 * K) > 0.95
    assert noise.recall_of_bits(K) < 0.3
    assert noise.recall_of_bits(10 * K) < 0.7


def test_leading_dimensions_find_more_of_the_nearest_rows(realistic, noise):
    leading = realistic.recall_of_dimensions(slice(256))
    assert 0.6 < leading < 0.9
    assert leading > realistic.recall_of_dimensions(slice(-256, None)) + 0.02
    assert noise.recall_of_dimensions(slice(256)) < 0.2


def test_some_rows_are_near_duplicates(realistic):
    rows = unit(realistic.rows[: vectors.BLOCK])
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, 0)
    share = (cosines.max(axis=1) > 0.93).mean()
    assert 0.03 < share < 0.1  # both rows of a pair count


def test_lengths_vary(realistic):
    lengths = np.linalg.norm(realistic.rows.astype(np.float32), axis=1)
    assert 0.08 < lengths.std() / lengths.mean() < 0.25


@pytest.mark.parametrize("rows", [1, 100, vectors.BLOCK, vectors.BLOCK + 1])
def test_fewer_rows_are_a_prefix_of_more(realistic, rows):
    np.testing.assert_array_equal(vectors.int8_vectors(3, rows), realistic.rows[:rows])


@pytest.mark.parametrize("dims", [8, 128, 1000])
def test_fewer_dimensions_are_a_prefix_of_more(realistic, dims):
    fewer = vectors.int8_vectors(4, QUERIES, dims).astype(int)
    # The last bit of a sum of products may depend on the width of the matrix.
    assert abs(fewer - realistic.queries[:, :dims]).max() <= 1
    assert (fewer == realistic.queries[:, :dims]).mean() > 0.999


def test_bits_are_the_signs_of_the_same_vectors(realistic):
    bits = np.unpackbits(vectors.binary_vectors(4, QUERIES), axis=1, bitorder="little")
    clear = realistic.queries != 0  # the bit of a value that rounds to zero may be either
    np.testing.assert_array_equal(bits[clear], (realistic.queries >= 0)[clear])


def test_different_seeds_give_different_vectors():
    assert (vectors.int8_vectors(1, 8) != vectors.int8_vectors(2, 8)).mean() > 0.9
