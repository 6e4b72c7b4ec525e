"""Plots with axes of their own: scaling, and quality by dimensions."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib", reason="the plots need the bench extra")

from benches import plots
from benches.results import rate, rows
from tests.bench.test_report import result

BASE = {"base rows": 1000, "base dimensions": 1024}


def point(count, dims, queries, threads, *, kind="ours", table="bits", seconds=1e-3):
    size = {"rows": count, "dimensions": dims, "queries": queries, "row bytes": count * dims // 8, **BASE}
    case = f"{count} x {dims} {table}, {queries}"
    more = {"threads": threads, "kind": kind, "table": table, "size": size, "group": "scaling"}
    return result({"ours": "index", "reference": "reading"}[kind], seconds, case=case) | more


@pytest.fixture
def scaling():
    shared = [point(1000, 1024, queries, threads) for queries in (1, 256) for threads in (1, 2)]
    sweeps = [point(*at) for at in ((5000, 1024, 1, 1), (5000, 1024, 1, 2), (1000, 128, 256, 2), (1000, 1024, 16, 2))]
    read = [point(1000, 1024, 1, 1, kind="reference", seconds=5e-4)]
    other = [point(1000, 1024, 1, 1, table="int8"), point(70, 1024, 1, 1, table="int8")]
    return {"results": shared + sweeps + read + other}


@pytest.fixture
def quality():
    found = []
    for collection in ("Alpha", "Beta"):
        for dims in (1024, 128):
            for number, peer in enumerate(("exact", "bits")):
                more = {"size": {"dimensions": dims}, "values": {"nDCG@10": dims / 2048 - number / 10}}
                case = f"{collection}, {dims} dimensions"
                found.append(result(peer, 1e-3, kind="ours", group="quality", case=case) | more)
    return {"results": found}


def texts(svg):
    return {element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}


def test_a_rate_counts_the_bytes_of_all_rows_once_for_each_query():
    assert rate(point(1000, 1024, 16, 1, seconds=1e-3)) == 1000 * 128 * 16 / 1e-3


def test_scaling_has_a_panel_per_axis_and_table_with_curves_for_few_and_many_queries(scaling):
    found = texts(plots.draw(scaling, "scaling"))
    assert {"bits: GB/s scored", "int8: GB/s scored"} <= found
    assert {"queries", "dimensions", "threads", "rows (dotted: reading every byte once)"} <= found
    assert {"1 query, 1 thread", "1 query, 2 threads", "256 queries, 2 threads"} <= found
    assert {"1k", "5k", "1024", "128", "16", "256", "70"} <= found


def test_a_case_on_no_axis_is_not_plotted(scaling):
    scaling["results"].append(point(777, 512, 3, 1))
    assert "777" not in texts(plots.draw(scaling, "scaling"))


def test_quality_has_a_panel_per_collection_and_a_curve_per_method(quality):
    found = texts(plots.draw(quality, "quality"))
    assert {"Alpha", "Beta", "exact", "bits", "nDCG@10", "dimensions", "1024", "128"} <= found


@pytest.mark.parametrize("group", ["scaling", "quality"])
def test_the_same_record_gives_the_same_bytes(request, group):
    record = request.getfixturevalue(group)
    before = copy.deepcopy(record)
    assert plots.draw(record, group) == plots.draw(before, group)
    assert record == before
    assert len(rows(record, group)) > 1
