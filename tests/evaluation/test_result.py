"""What an evaluation returns: intervals, differences, and its forms."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import ctxembed
import numpy as np
import pytest
from ctxembed._evaluation.bootstrap import Bootstrap

RNG = np.random.default_rng(8)
DOCUMENTS = {f"d{number:03}": RNG.integers(-127, 128, (2, 128), dtype=np.int8) for number in range(200)}
JUDGEMENTS = {f"q{number}": {f"d{number:03}": 1, f"d{number + 50:03}": 1} for number in range(40)}


def near(name):
    """Return a query between its relevant document and noise."""
    row = DOCUMENTS[next(iter(JUDGEMENTS[name]))][0].astype(float)
    return np.clip(row + RNG.normal(0, 150, 128), -127, 127).astype(np.int8)


QUERIES = {name: near(name) for name in JUDGEMENTS}


@pytest.fixture(scope="module")
def result():
    return ctxembed.evaluate(DOCUMENTS, QUERIES, JUDGEMENTS, variants=["int8", "bits", "two-stage:2", "int8@64"])


def test_intervals_are_those_of_scipy_s_bootstrap():
    stats = pytest.importorskip("scipy.stats")
    values = RNG.beta(0.5, 0.7, (150, 2))
    found = Bootstrap(150, 20_000, 0, 0.95).intervals(values)
    for column in range(2):
        expected = stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert found[column] == pytest.approx([expected.low, expected.high], abs=0.003)


def test_draws_that_are_made_in_parts_are_the_same(monkeypatch):
    values = RNG.random((30, 3))
    whole = Bootstrap(30, 500, 4, 0.95).intervals(values)
    monkeypatch.setattr("ctxembed._evaluation.bootstrap._CELLS", 30 * 7)
    assert Bootstrap(30, 500, 4, 0.95).intervals(values) == pytest.approx(whole, abs=1e-12)


def test_the_seed_decides_the_intervals(result):
    arguments = (DOCUMENTS, QUERIES, JUDGEMENTS)
    again, other = (ctxembed.evaluate(*arguments, variants=["int8"], seed=seed) for seed in (0, 1))
    assert again.table[0]["intervals"] == result.table[0]["intervals"]
    assert other.table[0]["intervals"] != result.table[0]["intervals"]
    assert other.table[0]["map"] == result.table[0]["map"]


def test_a_difference_is_paired(result):
    """Two variants that differ little for each query differ less than their intervals are wide."""
    row = next(row for row in result.table if row["variant"] == "two-stage:2")
    assert result.table[0]["difference"] is None
    mean, low, high = row["difference"]["ndcg@10"]
    values = {name: result.values[name, "context"]["ndcg@10"] for name in ("int8", "two-stage:2")}
    assert mean == pytest.approx(np.mean(values["two-stage:2"] - values["int8"]))
    assert low <= mean <= high
    own_low, own_high = row["intervals"]["ndcg@10"]
    assert high - low < (own_high - own_low) / 2


def test_a_row_has_what_is_measured_here(result):
    for row, size in zip(result.table, (128, 16, 144, 64), strict=True):
        assert (row["bytes"], row["usd"], row["arm"]) == (size, None, "context")
        assert row["queries_per_second"] > 0
        low, high = row["intervals"]["ndcg@10"]
        assert low < row["ndcg@10"] < high
    assert result.table[0]["success@1"] > result.table[1]["success@1"]  # bits lose something


def test_json_holds_all_and_markdown_the_table(result):
    found = json.loads(result.to_json(queries=True))
    assert [row["variant"] for row in found["table"]] == ["int8", "bits", "two-stage:2", "int8@64"]
    assert found["table"][1]["ndcg@10"] == result.table[1]["ndcg@10"]
    assert found["values"][1]["queries"]["q3"]["map"] == result.values["bits", "context"]["map"][3]
    assert "values" not in result.to_dict()
    lines = result.to_markdown().splitlines()
    assert lines[0] == "200 documents, 400 chunks with 128 dimensions; 40 queries, ranked by document."
    assert [line.split(" | ")[0] for line in lines[4:8]] == ["| int8", "| bits", "| two-stage:2", "| int8@64"]
    assert f"{result.table[0]['ndcg@10']:.3f} (" in lines[4]


def test_the_plot_is_svg_with_a_point_for_each_row_and_the_same_each_time(result):
    text = result.plot()
    assert text == result.plot()
    root = ET.fromstring(text)
    names = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert names == [f"{row['variant']}: {row['ndcg@10']:.3f}" for row in result.table]
    circles = [circle for circle in root.iter("{http://www.w3.org/2000/svg}circle") if len(circle)]
    heights = {name: float(circle.get("cy")) for name, circle in zip(names, circles, strict=True)}
    best = max(result.table, key=lambda row: row["ndcg@10"])
    assert heights[f"{best['variant']}: {best['ndcg@10']:.3f}"] == min(heights.values())
    by_bytes = sorted(zip([row["bytes"] for row in result.table], circles, strict=True), key=lambda pair: pair[0])
    across = [float(circle.get("cx")) for _, circle in by_bytes]
    assert across == sorted(across)


@pytest.mark.parametrize("ks", [1, [3], [5, 20]])
def test_the_headline_is_the_cut_nearest_to_ten(ks):
    result = ctxembed.evaluate(DOCUMENTS, QUERIES, JUDGEMENTS, k=ks, variants=["bits"])
    assert result.headline == {1: "ndcg@1", 3: "ndcg@3", 5: "ndcg@5"}[result.k[0]]
    assert result.headline in str(result)
    assert result.plot()
