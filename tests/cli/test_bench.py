"""`ctxembed bench`."""

from __future__ import annotations

import json


def test_bench_measures_and_checks_each_operation(ctxembed):
    done = ctxembed("bench", "--seconds", "0.01", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report["paths"]) == {"codec", "hamming", "dot"}
    assert [result["correct"] for result in report["results"]] == [True] * 7
    assert all(result["seconds"] > 0 and result["rate"] > 0 for result in report["results"])


def test_bench_prints_one_line_per_operation_on_the_chosen_path(ctxembed):
    done = ctxembed("bench", "--seconds", "0.01", CTXEMBED_ISA="scalar")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "paths: codec scalar, hamming scalar, dot scalar"
    assert len(lines) == 8
    assert all(line.endswith("/s") for line in lines[1:])
