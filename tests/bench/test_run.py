"""Reducing the JSON of pytest-benchmark to a record."""

from __future__ import annotations

from benches.run import reduce


def entry(peer, data, *, correct=True, threads=1):
    info = {"group": "decode", "case": "a case", "peer": peer, "threads": threads, "correct": correct}
    return {"extra_info": info, "stats": {"data": data}, "fullname": "benches/test_decode.py::test_decode[...]"}


def raw(*entries):
    return {"machine_info": {"node": "a-host-name"}, "benchmarks": list(entries)}


def test_the_passes_of_a_measurement_are_merged():
    (result,) = reduce(raw(entry("ours", [1.0, 2.0, 9.0]), entry("ours", [3.0]), entry("ours", [4.0])))
    assert result["passes"] == [2.0, 3.0, 4.0]
    assert (result["seconds"], result["iqr"], result["rounds"]) == (3.0, 2.0, 5)


def test_peers_and_numbers_of_threads_are_not_merged():
    results = reduce(raw(entry("ours", [1.0]), entry("theirs", [2.0]), entry("ours", [0.5], threads=2)))
    assert [(r["peer"], r["threads"], r["seconds"]) for r in results] == [
        ("ours", 1, 1.0),
        ("theirs", 1, 2.0),
        ("ours", 2, 0.5),
    ]


def test_a_measurement_is_correct_only_if_every_pass_is():
    (result,) = reduce(raw(entry("theirs", [1.0]), entry("theirs", [1.0], correct=False), entry("theirs", [1.0])))
    assert result["correct"] is False


def test_the_spread_of_a_single_round_is_zero():
    (result,) = reduce(raw(entry("ours", [1.23456789])))
    assert (result["seconds"], result["iqr"]) == (1.235, 0.0)


def test_a_record_holds_no_host_name_and_no_paths():
    text = str(reduce(raw(entry("ours", [1.0]))))
    assert "a-host-name" not in text
    assert ".py" not in text
