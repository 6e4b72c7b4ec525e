"""Two stages, prefixes and calibration over the whole collection: sealed segments, the tail, and removed rows."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from ctxembed import Collection, pack_bits
from ctxembed._collection import rows as row_files
from ctxembed._jobs import run as job_run

from tests.collection.samples import DIMENSIONS, LocalEmbedder, document, vectors_of

DOCUMENTS = [document(number, chunks=1 + number % 5, half=number % 2) for number in range(400)]
REMOVED = {f"doc-{number}" for number in range(0, 400, 7)}
LEFT = [one for one in DOCUMENTS if one.id not in REMOVED]
QUERIES = np.concatenate([vectors_of([f"query {number}"]) for number in range(40)])


@pytest.fixture(params=["base64_int8", "base64_binary"])
def collection(tmp_path, monkeypatch, request):
    """More than one segment, a tail, and removed rows in all of them."""
    width = DIMENSIONS if request.param == "base64_int8" else DIMENSIONS // 8
    monkeypatch.setattr(row_files, "SEAL_BYTES", 300 * width)
    monkeypatch.setattr(row_files, "TAIL_BYTES", 400 * width)
    monkeypatch.setattr(job_run, "_DOCUMENTS", 40)
    with Collection.create(tmp_path / "a.ctx", dimensions=DIMENSIONS, encoding_format=request.param) as collection:
        collection.ingest(DOCUMENTS, LocalEmbedder())
        collection.delete(REMOVED)
        assert collection.stats().segments > 2
        assert collection._store._tail.rows > 50
        yield collection


def stored(collection, documents=LEFT):
    """Return (document id, chunk) and the values of all chunks: +1 and -1 for bits."""
    places = [(one.id, chunk) for one in documents for chunk in range(len(one.chunks))]
    values = np.concatenate([vectors_of(one.chunks) for one in documents]).astype(np.int64)
    return places, values if collection.encoding_format == "base64_int8" else np.where(values >= 0, 1, -1)


def two_stages(collection, query, k, oversample, *, dimensions=DIMENSIONS, documents=LEFT):
    """Rank by the cosine the ``k * oversample`` rows whose bits are nearest. Ties go to the lower row."""
    places, rows = stored(collection, documents)
    rows, query = rows[:, :dimensions], query[:dimensions].astype(np.int64)
    distances = np.sum((rows >= 0) != (query >= 0), axis=1)
    candidates = np.sort(np.argsort(distances, kind="stable")[: k * oversample])

    def cosine(row):
        product, norm = int(rows[row] @ query), int(rows[row] @ rows[row])
        return Fraction(product * abs(product), norm)

    return [places[row] for row in sorted(candidates.tolist(), key=lambda row: -cosine(row))[:k]]


def found_by(collection, query, k, **options):
    return [(hit.document, hit.chunk) for hit in collection.search(query, k, **options)]


@pytest.mark.parametrize("oversample", [1, 3, 10_000])
def test_two_stages_search_segments_and_tail_together(collection, oversample):
    for query in QUERIES[:8]:
        found = found_by(collection, query, 5, stage="two-stage", oversample=oversample)
        assert found == two_stages(collection, query, 5, oversample)
    half = [one for one in LEFT if one.metadata["half"]]
    found = found_by(collection, QUERIES[0], 5, stage="two-stage", oversample=oversample, where="half = 1")
    assert found == two_stages(collection, QUERIES[0], 5, oversample, documents=half)


@pytest.mark.parametrize("dimensions", [64, 8])
def test_prefixes_in_one_and_two_stages(collection, dimensions):
    count = sum(len(one.chunks) for one in LEFT)
    for query in QUERIES[:8]:
        exact = two_stages(collection, query, count, 1, dimensions=dimensions)
        assert found_by(collection, query, 2000, dimensions=dimensions) == exact
        found = found_by(collection, query, 5, dimensions=dimensions, stage="two-stage", oversample=4)
        assert found == two_stages(collection, query, 5, 4, dimensions=dimensions)


@pytest.mark.parametrize("target", [0.6, 0.95])
def test_a_calibration_counts_no_removed_rows_and_is_used(collection, target):
    count = sum(len(one.chunks) for one in LEFT)

    def recall(oversample):
        found = [
            len({*two_stages(collection, query, 5, oversample)} & {*two_stages(collection, query, 5, count)})
            for query in QUERIES
        ]
        return sum(found) / (5 * len(QUERIES))

    report = collection.calibrate(QUERIES, 5, recall=target)
    assert report.recall == pytest.approx(recall(report.oversample))
    assert report.recall >= target > recall(report.oversample - 1)
    assert report.oversample > 1
    with Collection.open(collection.path, read_only=True) as reader:
        for query in QUERIES[:8]:
            expected = two_stages(collection, query, 5, report.oversample)
            for each in (collection, reader):
                assert found_by(each, query, 5, stage="two-stage") == expected
    # A search that is deepened begins with the same candidates.
    hits = collection.search(QUERIES[0], 5, stage="two-stage", group_by_document=True)
    assert len({hit.document for hit in hits}) == 5
    collection.compact()
    assert found_by(collection, QUERIES[0], 5, stage="two-stage") == two_stages(
        collection, QUERIES[0], 5, report.oversample
    )


@pytest.mark.parametrize("collection", ["base64_binary"], indirect=True)
def test_packed_queries_change_no_calibration(collection):
    found = collection.calibrate(QUERIES, 5, recall=0.9)
    assert found.oversample > 1
    assert collection.calibrate(pack_bits(QUERIES), 5).oversample == 1
    assert collection._current().generation.calibration[0] == found.oversample
