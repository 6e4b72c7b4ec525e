"""``_open_segments``: several index files, and rows in memory, searched as one index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ctxembed import _core as cx
from ctxembed._errors import IndexFileError

from .conftest import int8, packed

DIMS = 48
SIZES = (40, 1, 17, 130)
TAIL = 12
KINDS = [cx.Index, cx.BinaryIndex]
HEADER = 256


def random_rows(kind, rng, count, dims=DIMS):
    return int8(rng, count, dims) if kind is cx.Index else packed(rng, count, dims // 8)


def save(kind, rows, path, *, space=None, ids=None):
    index = kind(DIMS, space=space)
    index.add(rows, ids)
    index.save(path)
    return path, path.read_bytes()[:HEADER]


@pytest.fixture
def whole_and_segments(tmp_path, rng, request):
    """An index of all rows, and the same rows in four files and a tail in memory."""
    kind = request.param
    rows = random_rows(kind, rng, sum(SIZES) + TAIL)
    rows[60] = rows[3]  # ties and near pairs across files
    rows[-1] = rows[100]
    whole = kind(DIMS, space="a space")
    whole.add(rows)
    files, at = [], 0
    for number, size in enumerate(SIZES):
        files.append(save(kind, rows[at : at + size], tmp_path / f"{number}.idx", space="a space"))
        at += size
    segments = kind._open_segments(DIMS, files, space="a space")
    assert segments.add(rows[at:]).tolist() == list(range(at, at + TAIL))
    return whole, segments, rows


def assert_equal(a, b):
    assert type(a) is type(b)
    for name in ("offsets", "ids", "scores"):
        if hasattr(a, name):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert getattr(a, "exact", None) == getattr(b, "exact", None)


def searches(kind):
    """Return the queries' type, and the arguments of every combination of stage and metric."""
    if kind is cx.Index:
        metrics = ("cosine", "dot", "hamming", "asymmetric")
        combinations = [(int8, metric, stage) for metric in metrics for stage in ("exact", "binary")]
        return [*combinations, (int8, "cosine", "two-stage"), (int8, "dot", "two-stage")]
    return [
        (queries, metric, stage)
        for queries, metric in ((packed, "hamming"), (int8, "asymmetric"))
        for stage in ("exact", "binary", "two-stage")
    ]


def queries_for(kind, rng, values, count=3):
    return values(rng, count, DIMS if values is int8 else DIMS // 8)


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_search_finds_the_same_as_in_one_index(whole_and_segments, rng, threads):
    whole, segments, rows = whole_and_segments
    mask = rng.random(len(rows)) < 0.4
    ids = rng.permutation(len(rows) + 50)[:70].astype(np.int64) - 20
    for values, metric, stage in searches(type(whole)):
        for count in (1, 3, 70):
            queries = queries_for(type(whole), rng, values, count)
            for filtered in (None, mask, ids, ids[:0]):
                for dimensions in (None, 16):
                    options = {"metric": metric, "stage": stage, "mask": filtered, "dimensions": dimensions}
                    options["threads"] = threads
                    if stage == "two-stage":
                        options["oversample"] = 2
                    assert_equal(whole.search(queries, 7, **options), segments.search(queries, 7, **options))


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_ranges_and_counts_are_those_of_one_index(whole_and_segments, rng):
    whole, segments, rows = whole_and_segments
    mask = rng.random(len(rows)) < 0.4
    for values, metric, stage in searches(type(whole)):
        if stage != "exact":
            continue
        queries = queries_for(type(whole), rng, values)
        radius = {"cosine": 0.1, "dot": 4000, "hamming": 22, "asymmetric": 100}[metric]
        for filtered in (None, mask, np.arange(35, 65)):
            options = {"metric": metric, "mask": filtered}
            found = whole.search_range(queries, radius, **options)
            assert len(found.ids)
            assert_equal(found, segments.search_range(queries, radius, **options))
            counts = [index.count(queries, radius, **options).tolist() for index in (whole, segments)]
            assert counts[0] == counts[1] == np.diff(found.offsets).tolist()


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_near_duplicates_are_found_across_files(whole_and_segments):
    whole, segments, rows = whole_and_segments
    int8_index = isinstance(whole, cx.Index)
    for options in [{"metric": "cosine"}, {"metric": "hamming"}, {"metric": "dot"}] if int8_index else [{}]:
        threshold = {"cosine": 0.4, "dot": 90_000}.get(options.get("metric"), 12)
        for limit in (None, 5):
            found = whole.near_duplicates(threshold, limit=limit, **options)
            assert {(3, 60), (100, len(rows) - 1)} <= {tuple(pair) for pair in found.ids.tolist()}
            assert_equal(found, segments.near_duplicates(threshold, limit=limit, **options))


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_vectors_are_read_from_files_and_memory(whole_and_segments, rng):
    _, segments, rows = whole_and_segments
    assert len(segments) == len(rows)
    ids = rng.integers(0, len(rows), 500)
    assert np.array_equal(segments.vectors(ids), rows[ids])
    for unknown in (-1, len(rows)):
        with pytest.raises(ValueError, match=rf"ids\[1\] = {unknown} is not in the index"):
            segments.vectors([0, unknown])


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_rows_are_removed_and_added_as_in_one_index(whole_and_segments, rng):
    whole, segments, rows = whole_and_segments
    removed = rng.permutation(len(rows))[:60].astype(np.int64)
    for index in (whole, segments):
        index.remove(removed)
        assert index.add(rows[:3]).tolist() == [len(rows), len(rows) + 1, len(rows) + 2]
        index.add(rows[:1], np.array([int(removed[0])]))
        with pytest.raises(ValueError, match="already in the index"):
            index.add(rows[:1], np.array([len(rows)]))
    queries = rows[:5]
    assert_equal(whole.search(queries, 1000), segments.search(queries, 1000))
    kept = np.setdiff1d(np.arange(len(rows)), removed)
    assert np.array_equal(segments.vectors(kept), rows[kept])


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_a_saved_copy_is_byte_for_byte_that_of_one_index(whole_and_segments, tmp_path):
    whole, segments, _ = whole_and_segments
    whole.save(tmp_path / "whole")
    segments.save(tmp_path / "segments")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "segments").read_bytes()


@pytest.mark.parametrize("whole_and_segments", KINDS, indirect=True)
def test_a_calibration_gives_the_same_oversample(whole_and_segments, rng):
    whole, segments, _ = whole_and_segments
    queries = int8(rng, 20, DIMS)
    assert segments._calibration is None
    first, second = whole.calibrate(queries, 5), segments.calibrate(queries, 5)
    assert (first.oversample, first.recall) == (second.oversample, second.recall)
    assert segments._calibration == (second.oversample, 5, second.recall) == whole._calibration


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_calibration_is_stored(kind, tmp_path, rng):
    file = save(kind, random_rows(kind, rng, 9), tmp_path / "a.idx")
    index = kind._open_segments(DIMS, [file], calibration=(12, 10, 0.995))
    assert (index._calibration, index.oversample) == ((12, 10, 0.995), 12)
    index.save(tmp_path / "saved")
    assert kind.open(tmp_path / "saved")._calibration == (12, 10, 0.995)
    assert kind._open_segments(DIMS, [file])._calibration is None


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ((0, 10, 0.5), ValueError, "the oversample of calibration must be at least 1, got 0"),
        ((1, 0, 0.5), ValueError, "the k of calibration must be at least 1, got 0"),
        ((1, 1, 1.5), ValueError, "the recall of calibration must be from 0 to 1, got 1.5"),
        ((1, 1, float("nan")), ValueError, "the recall of calibration must be from 0 to 1, got NaN"),
        ((1, 1, "x"), TypeError, "the recall of calibration must be a float, got 'x'"),
        ((1, 1), TypeError, r"calibration must be None or a tuple \(oversample, k, recall\), got \(1, 1\)"),
    ],
)
def test_a_calibration_is_validated(calibration, error, message):
    with pytest.raises(error, match=message):
        cx.Index._open_segments(DIMS, [], calibration=calibration)


@pytest.mark.parametrize("kind", KINDS)
def test_no_files_are_an_empty_index(kind, rng):
    index = kind._open_segments(DIMS, [], space="a space")
    assert (len(index), index.dims, index.space, index._calibration) == (0, DIMS, "a space", None)
    assert index.add(random_rows(kind, rng, 2)).tolist() == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_holds_no_rows(kind, tmp_path, rng):
    rows = random_rows(kind, rng, 4)
    parts = enumerate((rows[:0], rows[:3], rows[:0], rows[3:], rows[:0]))
    files = [save(kind, part, tmp_path / str(number)) for number, part in parts]
    index = kind._open_segments(DIMS, files)
    assert np.array_equal(index.vectors([0, 1, 2, 3]), rows)


def test_headers_are_optional_and_paths_are_str_or_path_like(tmp_path, rng):
    path, header = save(cx.Index, int8(rng, 5, DIMS), tmp_path / "a.idx")
    assert len(cx.Index._open_segments(DIMS, [(path, None), (str(path), header)])) == 10
    with pytest.raises(ValueError, match="a header must have 256 bytes, got 255"):
        cx.Index._open_segments(DIMS, [(path, header[:-1])])
    with pytest.raises(TypeError, match=r"files must hold tuples \(path, header\), got "):
        cx.Index._open_segments(DIMS, [path])
    with pytest.raises(TypeError, match="path must be a str or os.PathLike, got 3"):
        cx.Index._open_segments(DIMS, [(3, None)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_does_not_fit_is_named(kind, tmp_path, rng):
    rows = random_rows(kind, rng, 20)
    good = save(kind, rows, tmp_path / "good.idx", space="a space")
    other = cx.BinaryIndex if kind is cx.Index else cx.Index
    others = {"Index": "int8 vectors", "BinaryIndex": "packed binary vectors"}

    def fails(path, header, message, error=IndexFileError):
        for files in ([(path, header)], [good, (path, header)], [(path, header), good]):
            with pytest.raises(error, match=message):
                kind._open_segments(DIMS, files, space="a space")

    changed = save(kind, rows[:19], tmp_path / "changed.idx", space="a space")
    fails(changed[0], good[1], r"changed\.idx is not the file that was expected: its header is another one")
    path, header = save(other, random_rows(other, rng, 20), tmp_path / "kind.idx", space="a space")
    expected = others[kind.__name__]
    fails(path, header, rf"kind\.idx holds {others[other.__name__]}, expected {expected}")
    wide = kind(DIMS + 8, space="a space")
    wide.add(random_rows(kind, rng, 3, DIMS + 8))
    wide.save(tmp_path / "wide.idx")
    fails(tmp_path / "wide.idx", None, r"wide\.idx holds vectors of 56 dimensions, expected 48")
    path, header = save(kind, rows, tmp_path / "space.idx", space="another")
    fails(path, header, r'space\.idx holds vectors of the space "another", expected the space "a space"')
    path, header = save(kind, rows, tmp_path / "nospace.idx")
    fails(path, header, r'nospace\.idx holds vectors of an unknown space, expected the space "a space"')
    with pytest.raises(IndexFileError, match=r'good\.idx holds vectors of the space "a space", expected an unknown'):
        kind._open_segments(DIMS, [good])
    path, header = save(kind, rows, tmp_path / "ids.idx", space="a space", ids=np.arange(20) + 1)
    fails(path, header, r"ids\.idx has a section of ids, expected none")
    for length in (0, 100, 255, 256, 300, good[0].stat().st_size - 1):
        shutil.copy(good[0], tmp_path / "cut.idx")
        os.truncate(tmp_path / "cut.idx", length)
        what = "is not an index: it starts with" if length == 0 else "is truncated"
        fails(tmp_path / "cut.idx", good[1], rf"cut\.idx {what}")
    fails(tmp_path / "missing.idx", good[1], r"cannot open the index .*missing\.idx", FileNotFoundError)
    os.mkfifo(tmp_path / "pipe.idx")
    fails(tmp_path / "pipe.idx", good[1], r"pipe\.idx is not a regular file: it is a named pipe")


def test_an_addition_does_not_copy_a_mapped_file(tmp_path, rng):
    """20 MB is less than the size up to which rows are added to a segment in memory."""
    index = cx.Index(1024)
    index.add(int8(rng, 18_000, 1024))
    index.save(tmp_path / "large.idx")
    program = f"""
import resource
import numpy as np
from ctxembed import _core as cx
index = cx.Index._open_segments(1024, [({str(tmp_path / "large.idx")!r}, None)])
row = np.ones((1, 1024), np.int8)
def anonymous():
    status = dict(line.split(":") for line in open("/proc/self/status").read().splitlines() if ":" in line)
    return int(status["RssAnon"].split()[0]) << 10
index.search(row, 1)
before = anonymous()
for _ in range(10):
    index.add(row)
print(len(index), anonymous() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, grown = map(int, run.stdout.split())
    assert count == 18_010
    assert grown < 4 << 20


def test_an_open_index_survives_the_replacement_of_its_files(tmp_path, rng):
    rows = int8(rng, 30, DIMS)
    files = [save(cx.Index, rows[:10], tmp_path / "a"), save(cx.Index, rows[10:], tmp_path / "b")]
    index = cx.Index._open_segments(DIMS, files)
    save(cx.Index, rows[:1], tmp_path / "a")
    Path(tmp_path / "b").unlink()
    assert np.array_equal(index.vectors(np.arange(30)), rows)
