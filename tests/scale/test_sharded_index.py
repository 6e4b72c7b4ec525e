"""Sharded indexes on Ray, against one index with the same rows."""

import os
import signal

import ctxembed
import numpy as np
import pytest
from ctxembed.distributed.ray import ShardedIndex

from tests.search.conftest import bits_of, int8

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # Ray's own


@pytest.fixture
def rng():
    return np.random.default_rng(20261129)


def write_shards(folder, whole, rows, ids, ends):
    """Save an index for each part of the rows, in order."""
    paths = []
    for number, (part, own) in enumerate(zip(np.split(rows, ends), np.split(ids, ends), strict=True)):
        shard = type(whole)(whole.dims, space=whole.space)
        shard.add(np.ascontiguousarray(part), own)
        paths.append(folder / f"shard-{number}.idx")
        shard.save(paths[-1])
    whole.add(rows, ids)
    return paths


def same(found, expected):
    assert np.array_equal(found.ids, expected.ids)
    assert found.scores.dtype == expected.scores.dtype
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.scores.shape == expected.scores.shape
    if isinstance(expected, ctxembed.Matches):
        assert found.exact == expected.exact
    else:
        assert np.array_equal(found.offsets, expected.offsets)


def random_search(rng, whole, ids, queries):
    """Return a method with random arguments: masks, prefixes, stages, metrics."""
    count, dims, options = len(ids), whole.dims, {}
    kind = rng.integers(6)
    if kind == 1:
        options["mask"] = rng.random(count) < rng.choice([0.01, 0.5])
    elif kind == 2:
        options["mask"] = rng.choice(ids, rng.integers(0, count))
    elif kind == 3:
        options["mask"] = rng.choice(ids, 3).tolist()
    dimensions = int(rng.integers(1, dims + 1)) if rng.random() < 0.3 else None
    binary = isinstance(whole, ctxembed.BinaryIndex)
    if binary:
        metric = "hamming" if queries.dtype == np.uint8 else "asymmetric"
    else:
        metric = str(rng.choice(["cosine", "dot", "hamming", "asymmetric"], p=[0.55, 0.15, 0.15, 0.15]))
    if dimensions is not None:
        options["dimensions"] = max(8, dimensions // 8 * 8) if metric == "hamming" else dimensions
    if rng.random() < 0.6 or not binary:
        options["metric"] = metric
    method = rng.choice(["search", "search_range", "count"], p=[0.8, 0.1, 0.1])
    if method != "search":
        radius = {"cosine": float(rng.choice([0.0, 0.3, 0.7])), "hamming": int(rng.integers(0, dims // 2))}
        return method, (queries, radius.get(metric, int(rng.integers(0, 20)))), options
    if metric in {"cosine", "dot"} or (binary and metric == "asymmetric"):
        stage = str(rng.choice(["exact", "two-stage"]))
        options["stage"] = stage
        if stage == "two-stage" and rng.random() < 0.8:
            options["oversample"] = int(rng.choice([1, 2, 5, 200]))
    if rng.random() < 0.1 and not binary and "stage" not in options:
        options["stage"] = "binary"
    return method, (queries, int(rng.choice([1, 3, 10, 2000]))), options


SEARCHES = 2500
"""In each of the four indexes, so 10,000 in all. A query is a search; a call has up to eight."""

CASES = {
    # name: (rows, dimensions, largest value, binary, permuted ids, where the shards end)
    "ties": (600, 24, 2, False, True, [100, 100, 420]),  # the second shard is empty
    "ordered": (500, 16, 128, False, False, [250]),
    "one value": (300, 8, 1, False, True, [10, 20, 290]),
    "bits": (600, 24, 2, True, True, [200, 210]),
}


@pytest.mark.parametrize("name", CASES)
def test_random_searches_equal_those_of_one_index(ray, tmp_path, rng, name):
    count, dims, high, binary, permuted, ends = CASES[name]
    vectors = int8(rng, count, dims, low=-high, high=high)
    ids = rng.permutation(2 * count)[:count] if permuted else np.arange(count)
    whole = (ctxembed.BinaryIndex if binary else ctxembed.Index)(dims)
    paths = write_shards(tmp_path, whole, bits_of(vectors) if binary else vectors, ids, ends)
    seen = set()
    with ShardedIndex.open(paths) as index:
        assert len(index) == count
        searches = 0
        while searches < SEARCHES:
            shape = [dims] if rng.random() < 0.2 else [rng.integers(1, 9), dims]
            queries = int8(rng, *shape, low=-high, high=high)
            searches += len(np.atleast_2d(queries))
            if binary and rng.random() < 0.4:
                queries = bits_of(queries) if queries.ndim == 2 else bits_of(queries[None])[0]
            method, arguments, options = random_search(rng, whole, ids, queries)
            expected = getattr(whole, method)(*arguments, **options)
            found = getattr(index, method)(*arguments, **options)
            if method == "count":
                assert np.array_equal(found, expected)
                assert type(found) is type(expected)
            else:
                same(found, expected)
            seen.add((method, options.get("stage"), getattr(expected, "exact", None), "mask" in options))
    needed = {("search", "two-stage", False, True), ("search", "exact", True, True), ("count", None, None, True)}
    assert needed | {("search", "two-stage", True, False), ("search_range", None, None, False)} <= seen


def test_many_queries_in_two_stages_take_several_rounds(ray, tmp_path, rng, monkeypatch):
    monkeypatch.setattr("ctxembed.distributed.shards._CANDIDATES", 200)
    rows, ids = int8(rng, 500, 32, low=-3, high=3), rng.permutation(500)
    whole = ctxembed.Index(32)
    paths = write_shards(tmp_path, whole, rows, ids, [120])
    queries = int8(rng, 23, 32)
    with ShardedIndex.open(paths) as index:
        for metric in ("cosine", "dot"):
            options = {"stage": "two-stage", "oversample": 4, "metric": metric}
            same(index.search(queries, 10, **options), whole.search(queries, 10, **options))


def test_spaces_arguments_and_calibration(ray, tmp_path, rng):
    rows = int8(rng, 90, 16)
    whole = ctxembed.Index(16, space="a")
    paths = write_shards(tmp_path, whole, rows, np.arange(90), [50])
    calibrated = ctxembed.Index.open(paths[1], mmap=False)
    calibrated.calibrate(rows[:5], 3)
    calibrated.save(paths[1])
    with ShardedIndex.open(paths) as index:
        assert (index.space, index.dims, index.dimensions, index.missing) == ("a", 16, 16, ())
        assert index.oversample == 64
        assert index.paths == tuple(map(str, paths))
        assert "90 int8 vectors of 16 dimensions in 2 shards" in repr(index)
        with pytest.raises(ValueError, match="queries must have 16 columns"):
            index.search(rows[:, :8].copy(), 3)
        with pytest.raises(ValueError, match="stage 'two-stage' needs metric"):
            index.search(rows[:2], 3, metric="hamming", stage="two-stage")
        with pytest.raises(ValueError, match=r"shape \(90,\), got \(50,\)"):
            index.search(rows[:2], 3, mask=np.ones(50, bool))
        with pytest.raises(TypeError, match="mask must have dtype"):
            index.search(rows[:2], 3, mask=np.ones(90))
        with pytest.raises(ValueError, match="on_missing must be"):
            index.search(rows[:2], 3, on_missing="ignore")
        other = ctxembed.Embeddings(
            rows[:2], np.array([0, 1, 2]), None, 16, "base64_int8", ctxembed.Usage(), space="b", input_type="query"
        )
        with pytest.raises(ctxembed.SpaceError, match='"a".*"b"'):
            index.search(other, 3)
        same(
            index.search(
                ctxembed.Embeddings(
                    *[
                        getattr(other, n)
                        for n in ("vectors", "offsets", "model", "dimensions", "encoding_format", "usage")
                    ],
                    space="a",
                ),
                3,
            ),
            whole.search(rows[:2], 3),
        )


class TestShardsThatDoNotFit:
    def save(self, path, dims=8, ids=(0, 1), space=None, kind=ctxembed.Index):
        index = kind(dims, space=space)
        width = dims if kind is ctxembed.Index else dims // 8
        index.add(np.ones((len(ids), width), np.int8 if kind is ctxembed.Index else np.uint8), np.array(ids))
        index.save(path)
        return path

    def test_two_shards_with_one_id(self, ray, tmp_path):
        paths = [
            self.save(tmp_path / "a"),
            self.save(tmp_path / "b", ids=(9, 5)),
            self.save(tmp_path / "c", ids=(7, 9)),
        ]
        with pytest.raises(ValueError, match=r"b and .*c both have the id 9\. Give ids"):
            ShardedIndex.open(paths)
        with ShardedIndex.open([paths[0], self.save(tmp_path / "d", ids=(6, 8)), paths[1]]) as index:
            assert len(index) == 6  # ranges overlap, and no id is shared

    def test_other_dimensions_kinds_and_spaces(self, ray, tmp_path):
        first = self.save(tmp_path / "a", space="x")
        for name, wrong, error, message in (
            ("b", {"dims": 16}, ValueError, "is an Index of 8 dimensions, .*b an Index of 16"),
            ("c", {"kind": ctxembed.BinaryIndex}, ValueError, "c an BinaryIndex of 8"),
            ("d", {"space": "y"}, ctxembed.SpaceError, "d has 'y'.*'x'"),
        ):
            with pytest.raises(error, match=message):
                ShardedIndex.open([first, self.save(tmp_path / name, ids=(5,), **wrong)])

    def test_files_that_are_none(self, ray, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            ShardedIndex.open([tmp_path / "nowhere"])
        (tmp_path / "text").write_text("no index")
        with pytest.raises(ctxembed.IndexFileError, match="text"):
            ShardedIndex.open([tmp_path / "text"])

    def test_wrong_arguments(self, ray, tmp_path):
        sharded = ShardedIndex
        with pytest.raises(TypeError, match="a list of paths"):
            sharded.open(tmp_path)
        with pytest.raises(ValueError, match="at least one shard"):
            sharded.open([])
        with pytest.raises(ValueError, match="twice"):
            sharded.open([tmp_path, tmp_path])
        with pytest.raises(ValueError, match="actor_options must have one entry"):
            sharded.open([tmp_path], actor_options=[{}, {}])


class TestMissingShards:
    @pytest.fixture
    def shards(self, tmp_path, rng):
        rows, ids = int8(rng, 300, 16, low=-3, high=3), rng.permutation(300)
        whole = ctxembed.Index(16)
        paths = write_shards(tmp_path, whole, rows, ids, [100, 200])
        rest = ctxembed.Index(16)
        keep = np.r_[0:100, 200:300]
        rest.add(rows[keep], ids[keep])
        return paths, whole, rest, int8(rng, 4, 16)

    def test_a_shard_that_is_gone_is_an_error_or_said(self, ray, shards):
        paths, whole, rest, queries = shards
        with ShardedIndex.open(paths) as index:
            same(index.search(queries, 5), whole.search(queries, 5))
            ray.kill(index._shards._actors[1])
            with pytest.raises(
                ctxembed.MissingShardsError, match=r"1 of 3 shards are missing .*shard-1\.idx: ActorDied"
            ) as info:
                index.search(queries, 5)
            assert info.value.missing == (str(paths[1]),)
            for options in ({}, {"stage": "two-stage", "oversample": 3}, {"metric": "dot"}):
                found = index.search(queries, 5, on_missing="partial", **options)
                assert found.missing == (str(paths[1]),)
                same(found.result, rest.search(queries, 5, **options))
            found = index.search_range(queries, 0.2, on_missing="partial")
            assert found.missing
            same(found.result, rest.search_range(queries, 0.2))
            found = index.count(queries, 0.2, on_missing="partial")
            assert found.missing
            assert np.array_equal(found.result, rest.count(queries, 0.2))
            for number in (0, 2):
                ray.kill(index._shards._actors[number])
            with pytest.raises(ctxembed.MissingShardsError, match="3 of 3 shards"):
                index.search(queries, 5, on_missing="partial")

    def test_nothing_missing_is_said_too(self, ray, shards):
        paths, whole, _, queries = shards
        with ShardedIndex.open(paths) as index:
            found = index.search(queries, 5, on_missing="partial")
            assert found.missing == ()
            same(found.result, whole.search(queries, 5))

    def test_a_shard_that_no_node_can_start(self, ray, shards):
        paths, _, rest, queries = shards
        options = [{}, {"resources": {"another-node": 1}}, {}]
        open_shards = ShardedIndex.open
        with pytest.raises(ctxembed.MissingShardsError, match=r"shard-1\.idx: no result within 15 s"):
            open_shards(paths, actor_options=options, timeout=15)
        with open_shards(paths, actor_options=options, timeout=15, on_missing="partial") as index:
            assert index.missing == (str(paths[1]),)
            with pytest.raises(ctxembed.MissingShardsError, match="1 of 3 shards"):
                index.search(queries, 5)
            found = index.search(queries, 5, on_missing="partial")
            assert found.missing == (str(paths[1]),)
            same(found.result, rest.search(queries, 5))
            with pytest.raises(ValueError, match="a boolean mask needs all shards"):
                index.search(queries, 5, mask=np.ones(200, bool), on_missing="partial")

    def test_a_process_that_dies_is_started_again(self, ray, shards):
        paths, whole, _, queries = shards
        with ShardedIndex.open(paths) as index:
            actor = index._shards._actors[2]
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            os.kill(pid, signal.SIGKILL)
            same(index.search(queries, 5), whole.search(queries, 5))
            assert ray.get(actor.__ray_call__.remote(lambda _: os.getpid())) != pid

    def test_a_file_that_changed_before_a_restart_is_noticed(self, ray, shards, rng):
        paths, _, _, queries = shards
        with ShardedIndex.open(paths) as index:
            actor = index._shards._actors[0]
            pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
            other = ctxembed.Index(16)
            other.add(int8(rng, 100, 16), np.arange(1000, 1100))
            other.save(paths[0])
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ctxembed.IndexFileError, match=r"shard-0\.idx is another file"):
                index.search(queries, 5)
