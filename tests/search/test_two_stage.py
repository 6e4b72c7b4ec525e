"""Searches in two stages: results, exactness and calibration."""

import numpy as np
import pytest
from ctxembed import _core as cx

from .conftest import asymmetric_oracle, bits_of, cosine_order, hamming_oracle, int8, ranked


@pytest.fixture(scope="module")
def data():
    """Rows and queries in clusters around a common direction, like those of an embedding model."""
    rng = np.random.default_rng(3)
    basis = rng.standard_normal((24, 256))
    topics, common = rng.standard_normal((60, 24)), rng.standard_normal(256) * 3

    def draw(count):
        latent = topics[rng.integers(0, 60, count)] + 0.7 * rng.standard_normal((count, 24))
        values = latent @ basis + common + 2 * rng.standard_normal((count, 256))
        return np.clip(np.rint(values * 8), -128, 127).astype(np.int8)

    return draw(20_000), draw(80)


@pytest.fixture
def index(data):
    index = cx.Index(256)
    for start in range(0, 20_000, 7000):
        index.add(data[0][start : start + 7000], np.arange(20_000)[::-1][start : start + 7000].copy())
    return index


def candidates(queries, rows, count):
    """Return the nearest rows by Hamming distance, ties in the order of insertion."""
    return np.argsort(hamming_oracle(bits_of(queries), bits_of(rows)), axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("count", [1, 3, 30])
@pytest.mark.parametrize("oversample", [1, 3, 50])
def test_the_second_stage_ranks_the_candidates_exactly(data, index, count, oversample):
    rows, queries = data
    ids = np.arange(20_000)[::-1]
    for threads in (1, 2, 5):
        found = index.search(queries[:count], 10, stage="two-stage", oversample=oversample, threads=threads)
        assert found.exact is False
        for query, got, scores, chosen in zip(
            queries, found.ids, found.scores, candidates(queries[:count], rows, 10 * oversample), strict=False
        ):
            assert np.array_equal(got, cosine_order(query, rows[chosen], ids[chosen])[:10])
            assert np.array_equal(scores, cx.cosine(query, rows[19_999 - got]))
    one = index.search(queries[0], 10, stage="two-stage", oversample=oversample)
    assert np.array_equal(one.ids, found.ids[0])


def test_two_stages_rank_by_inner_product(data, index):
    rows, queries = data
    found = index.search(queries[:4], 5, metric="dot", stage="two-stage", oversample=20)
    assert found.scores.dtype == np.int32
    for query, got, chosen in zip(queries, found.scores, candidates(queries[:4], rows, 100), strict=False):
        products = rows[chosen].astype(np.int64) @ query.astype(np.int64)
        assert got.tolist() == sorted(products.tolist(), reverse=True)[:5]


def test_a_search_with_all_rows_as_candidates_is_exact(data, index):
    queries = data[1][:5]
    found = index.search(queries, 10, stage="two-stage", oversample=2000)
    assert found.exact is True
    assert np.array_equal(found.ids, index.search(queries, 10).ids)
    few = np.arange(300)
    assert index.search(queries, 10, stage="two-stage", oversample=30, mask=few).exact is True
    assert index.search(queries, 10, stage="two-stage", oversample=29, mask=few).exact is False
    assert index.search(queries, 10, stage="two-stage", oversample=10**30).exact is True


def recall(index, queries, k, oversample):
    truth = index.search(queries, k).ids
    found = index.search(queries, k, stage="two-stage", oversample=oversample).ids
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(truth.tolist(), found.tolist(), strict=True)])


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("k", [1, 10])
def test_calibrate_finds_the_smallest_oversample_that_reaches_the_recall(data, index, target, k):
    queries = data[1]
    report = index.calibrate(queries, k, recall=target)
    assert (report.target, report.k, report.queries) == (target, k, len(queries))
    assert report.recall >= target
    assert report.recall == pytest.approx(recall(index, queries, k, report.oversample))
    if report.oversample > 1:
        assert recall(index, queries, k, report.oversample - 1) < target
    for oversample, measured in zip(report.oversamples.tolist(), report.recalls.tolist(), strict=True):
        assert measured == pytest.approx(recall(index, queries, k, oversample))
    assert report.oversample in report.oversamples
    assert index.oversample == report.oversample
    default, explicit = (
        index.search(queries, k, stage="two-stage", oversample=oversample).ids
        for oversample in (None, report.oversample)
    )
    assert np.array_equal(default, explicit)
    assert repr(report).startswith(f"Calibration(oversample={report.oversample}, recall=")


def test_calibrate_searches_the_rows_of_a_mask_alone(data):
    rows, queries = data
    for kind, stored in ((cx.Index, rows), (cx.BinaryIndex, bits_of(rows))):
        every, some = kind(rows.shape[1]), kind(rows.shape[1])
        every.add(stored)
        chosen = np.flatnonzero(np.arange(len(rows)) % 3)
        some.add(np.ascontiguousarray(stored[chosen]))
        mask = np.zeros(len(rows), bool)
        mask[chosen] = True
        expected = some.calibrate(queries, 10, recall=0.97)
        assert every.calibrate(queries, 10, recall=0.97).recalls.tolist() != expected.recalls.tolist()
        for given in (mask, chosen, chosen.tolist()):
            found = every.calibrate(queries, 10, recall=0.97, mask=given)
            assert (found.oversample, found.recall) == (expected.oversample, expected.recall)
            assert found.recalls.tolist() == expected.recalls.tolist()
            assert every.oversample == expected.oversample
        assert every.calibrate(queries, 10, mask=chosen[:3]).oversample == 1
        with pytest.raises(ValueError, match="at least one row each"):
            every.calibrate(queries, 10, mask=np.zeros(len(rows), bool))
        with pytest.raises(ValueError, match="mask"):
            every.calibrate(queries, 10, mask=np.zeros(3, bool))


def test_calibrate_continues_until_the_recall_is_reached():
    """The best rows come last in the first stage, because all bits of the others equal those of the query."""
    rows = np.ones((5000, 16), np.int8)
    rows[:, 0] = 127
    rows[-3:] = 127
    rows[-3:, 0] = -1
    index = cx.Index(16)
    index.add(rows)
    report = index.calibrate(np.full((1, 16), 127, np.int8), 3, recall=1.0)
    assert report.oversample == 1667
    assert report.recall == 1.0


def test_a_saved_index_keeps_its_calibration(data, index, tmp_path):
    assert index.oversample == 64
    index.save(tmp_path / "plain")
    report = index.calibrate(data[1], 10)
    index.save(tmp_path / "calibrated")
    for mmap in (False, True):
        assert cx.Index.open(tmp_path / "plain", mmap=mmap, verify=True).oversample == 64
        again = cx.Index.open(tmp_path / "calibrated", mmap=mmap, verify=True)
        assert again.oversample == report.oversample
        queries = data[1][:7]
        a, b = (i.search(queries, 10, stage="two-stage") for i in (index, again))
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.scores, b.scores)


class TestBinaryIndex:
    """Two stages of a binary index: Hamming distance chooses candidates, the product with the int8 query ranks them."""

    @pytest.fixture
    def bits(self, data):
        bits = cx.BinaryIndex(256)
        for start in range(0, 20_000, 7000):
            rows, ids = data[0][start : start + 7000], np.arange(20_000)[::-1][start : start + 7000]
            bits.add(bits_of(rows), ids.copy())
        return bits

    @pytest.mark.parametrize("count", [1, 30])
    @pytest.mark.parametrize("oversample", [1, 20])
    def test_the_second_stage_ranks_the_candidates_by_inner_product(self, data, bits, count, oversample):
        (rows, queries), ids = data, np.arange(20_000)[::-1]
        for threads in (1, 3):
            found = bits.search(queries[:count], 10, stage="two-stage", oversample=oversample, threads=threads)
            assert found.exact is False
            for query, got, scores, chosen in zip(
                queries, found.ids, found.scores, candidates(queries[:count], rows, 10 * oversample), strict=False
            ):
                products = asymmetric_oracle(query[None], bits_of(rows[chosen]))
                expected = ranked(products, ids[chosen], 10, descending=True)
                assert np.array_equal(got, expected[0][0])
                assert np.array_equal(scores, expected[1][0])

    def test_two_stages_respect_prefixes_and_filters(self, data, bits):
        queries, mask = data[1][:3], np.arange(5000)
        found = bits.search(queries, 5, stage="two-stage", oversample=999, mask=mask, dimensions=100)
        exact = bits.search(queries, 5, mask=mask, dimensions=100)
        assert (found.exact, exact.exact) == (False, True)
        assert np.array_equal(found.ids, exact.ids)
        assert bits.search(queries, 5, stage="two-stage", oversample=1000, mask=mask).exact is True

    def test_calibrate_measures_recall_against_the_exact_product_and_is_saved(self, data, bits, tmp_path):
        queries = data[1]
        report = bits.calibrate(queries, 10, recall=0.95)
        assert report.recall == pytest.approx(recall(bits, queries, 10, report.oversample))
        assert report.recall >= 0.95
        assert recall(bits, queries, 10, report.oversample - 1) < 0.95
        assert bits.oversample == report.oversample
        bits.save(tmp_path / "bits")
        for mmap in (False, True):
            again = cx.BinaryIndex.open(tmp_path / "bits", mmap=mmap, verify=True)
            assert again.oversample == report.oversample
            a, b = (index.search(queries, 10, stage="two-stage") for index in (bits, again))
            assert np.array_equal(a.ids, b.ids)

    def test_packed_queries_are_exact_in_every_stage(self, data, bits):
        queries = bits_of(data[1])
        exact = bits.search(queries, 10)
        for stage in ("exact", "binary", "two-stage"):
            found = bits.search(queries, 10, stage=stage)
            assert found.exact is True
            assert np.array_equal(found.ids, exact.ids)
        report = bits.calibrate(queries, 10)
        assert (report.oversample, report.recall, report.target, report.k, report.queries) == (1, 1.0, 0.99, 10, 80)
        assert (report.oversamples.tolist(), report.recalls.tolist()) == ([1], [1.0])
        assert bits.oversample == 64

    def test_int8_queries_are_exact_in_the_binary_stage(self, data, bits):
        found, exact = (bits.search(data[1][:9], 10, stage=stage) for stage in ("binary", "exact"))
        assert np.array_equal(found.ids, exact.ids)
        assert (found.exact, exact.exact) == (True, True)


def test_calibrate_accepts_a_k_larger_than_the_number_of_rows():
    index = cx.Index(8)
    index.add(np.eye(8, dtype=np.int8))
    assert index.calibrate(np.ones((2, 8), np.int8), 100).oversample == 1


INDEX = cx.Index(8)
INDEX.add(int8(np.random.default_rng(0), 30, 8))
QUERY = np.ones(8, np.int8)
BAD = [
    ("recall 0", lambda: INDEX.calibrate(QUERY, 1, recall=0), ValueError, "recall must be above 0.*got 0"),
    ("recall 2", lambda: INDEX.calibrate(QUERY, 1, recall=2.0), ValueError, "at most 1, got 2"),
    ("recall nan", lambda: INDEX.calibrate(QUERY, 1, recall=float("nan")), ValueError, "recall.*got NaN"),
    ("recall str", lambda: INDEX.calibrate(QUERY, 1, "x"), TypeError, "recall must be a float, got 'x'"),
    ("recall bool", lambda: INDEX.calibrate(QUERY, 1, recall=True), TypeError, "recall must be a float, got True"),
    ("k", lambda: INDEX.calibrate(QUERY, 0), ValueError, "k must be at least 1, got 0"),
    ("no queries", lambda: INDEX.calibrate(QUERY[None][:0], 1), ValueError, "at least one row each"),
    ("no rows", lambda: cx.Index(8).calibrate(QUERY, 1), ValueError, "at least one row each"),
    (
        "zero",
        lambda: INDEX.search(QUERY, 1, stage="two-stage", oversample=0),
        ValueError,
        "oversample must be at least",
    ),
    ("bits", lambda: INDEX.search(QUERY, 1, stage="two-stage", metric="hamming"), ValueError, "needs metric 'cosine'"),
]


@pytest.mark.parametrize(("call", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_argument_raises_an_error_that_names_its_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert INDEX.oversample == 64
