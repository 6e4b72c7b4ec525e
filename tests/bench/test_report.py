"""Rendering a record of measurements."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benches import plots, report

RECORDS = sorted((Path(report.__file__).parent / "records").glob("*.json"))


def result(peer, seconds, *, kind="peer", threads=1, case="a case", passes=None, group="decode", **more):
    return {
        "group": group,
        "table": "bodies",
        "case": case,
        "peer": peer,
        "kind": kind,
        "threads": threads,
        "size": {"rows": 3},
        "correct": True,
        "exact": True,
        "note": "",
        "seconds": seconds,
        "iqr": seconds / 10,
        "rounds": 9,
        "passes": passes or [seconds] * 3,
        **more,
    }


@pytest.fixture
def record():
    return {
        "format": 1,
        "date": "2020-02-02",
        "load": 0.0,
        "machine": {
            "cpu": "A Processor",
            "cores": 2,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "paths": {"codec": "avx2"},
            "versions": {"ctxembed": "0.1.0", "slow": "3.2"},
        },
        "results": [
            result("ctxembed", 2e-3, kind="ours"),
            result("slow", 30e-3),
            result("floor", 1e-3, kind="reference"),
            result("ctxembed", 2e-6, kind="ours", case="small"),
            result("slow", 0.5e-6, case="small"),
            result("ctxembed", 1.0, kind="ours", group="cosine", case="search", threads=2),
            result(
                "near", 0.9, group="cosine", case="search", threads=2, exact=False, correct=False, note="recall 0.9"
            ),
            result("off", 4.0, group="cosine", case="search", threads=2, correct=False),
        ],
    }


def test_rendering_depends_on_the_record_alone_and_does_not_change_it(record):
    before = copy.deepcopy(record)
    assert report.markdown(record) == report.markdown(copy.deepcopy(before))
    assert report.dump(record) == report.dump(copy.deepcopy(before))
    assert record == before


def test_a_dumped_record_loads_again_and_has_one_line_per_result(record):
    text = report.dump(record)
    assert json.loads(text) == record
    assert sum('"peer"' in line for line in text.splitlines()) == len(record["results"])


def test_a_cell_shows_the_time_and_the_ratio_to_our_first_column(record):
    assert "| a case | 2.00 ms | 30.0 ms<br>**15x** | 1.00 ms<br>**0.5x** |" in report.markdown(record)


def test_a_cell_shows_the_rate_if_the_size_has_row_bytes(record):
    record["results"][0]["size"] = {"row bytes": 8_000_000, "queries": 3}
    assert "| a case | 2.00 ms<br>12.0 GB/s |" in report.markdown(record)


def test_a_missing_measurement_is_a_dash(record):
    assert "| small | 2.00 µs | 500 ns<br>**0.25x** | - |" in report.markdown(record)


def test_a_ratio_is_the_median_of_the_ratios_of_each_pass(record):
    # The peer takes twice as long in two passes. The third pass, on a busy machine, does not change the ratio.
    record["results"][0]["passes"] = [1e-3, 2e-3, 9e-3]
    record["results"][1]["passes"] = [2e-3, 4e-3, 9e-3]
    assert "30.0 ms<br>**2.0x**" in report.markdown(record)


def test_a_cell_shows_the_recall_of_an_approximate_result_and_marks_a_wrong_one(record):
    text = report.markdown(record)
    assert "900 ms<br>**0.9x**<br>recall 0.9 |" in text
    assert "4.00 s<br>**4.0x**<br>wrong |" in text


def test_losses_list_every_case_with_a_faster_peer_and_no_references(record):
    assert report.losses(record) == [
        "small: ctxembed 2.00 µs; slow 500 ns (0.25x).",
        "search, 2 threads: ctxembed 1.00 s; near 900 ms (0.9x), recall 0.9.",
    ]


def test_the_summary_compares_our_best_with_the_fastest_correct_peer(record):
    lines = report.summary(record).splitlines()
    assert any(line.startswith("| small | ") and "slow: 500 ns" in line and "**0.25x**" in line for line in lines)
    assert not any("near" in line for line in lines)  # faster, but not exact


def test_decoding_into_an_existing_array_is_not_compared_with_peers(record):
    small = next(result for result in record["results"] if result["case"] == "small" and result["kind"] == "ours")
    record["results"].append(
        {**small, "peer": "ctxembed, out=", "seconds": 1e-9, "passes": [1e-9] * len(small["passes"])}
    )
    assert "out=" not in report.summary(record)
    assert not any("out=" in line for line in report.losses(record))


def test_tables_show_lower_instruction_sets_and_the_summary_does_not(record):
    record["results"] += [
        result("ctxembed", 1.0, kind="ours", group="paths", case="lowered"),
        result("slow", 2.0, group="paths", case="lowered"),
    ]
    assert "| lowered |" in report.markdown(record)
    assert "lowered" not in report.summary(record)


def test_a_record_of_more_than_one_run_says_so(record):
    assert "`make bench`" in report.summary(record)
    record["remark"] = "Two runs."
    assert "`make bench`" not in report.summary(record)  # the page that it links to has the remark
    assert "Two runs." in report.markdown(record)


def table_of(section):
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def test_the_summary_has_at_most_ten_rows(record):
    for case in "abcdefghijklm":
        record["results"] += [result("ctxembed", 1.0, kind="ours", case=case), result("slow", 2.0, case=case)]
    assert len(table_of(report.summary(record))) == report.SUMMARY_ROWS == 10


def test_the_summary_describes_only_the_chosen_cases(record):
    case, words = next(iter(report.HEADLINES.items()))
    record["results"] += [result("ctxembed", 1.0, kind="ours", case=case), result("slow", 2.0, case=case)]
    assert [row.split(" | ")[0] for row in table_of(report.summary(record))] == [f"| {words}"]


def test_every_chosen_case_is_in_the_record_of_the_readme():
    readme = (Path(report.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS]
    assert any(report.insert(readme, report.summary(record)) == readme for record in kept)
    assert len(report.HEADLINES) <= report.SUMMARY_ROWS
    assert sum(f"| {words} |" in readme for words in report.HEADLINES.values()) == len(report.HEADLINES)


def test_insert_replaces_only_the_text_between_the_markers(record):
    section = report.markdown(record)
    page = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n"
    once = report.insert(page, section)
    assert once == f"# Title\n\n{report.BEGIN}\n{section}{report.END}\n\nafter\n"
    assert report.insert(once, section) == once


@pytest.mark.parametrize("page", ["", "# Title\n", report.BEGIN, report.END, f"{report.END} {report.BEGIN}"])
def test_a_readme_without_both_markers_in_order_is_not_changed(record, page, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the plots need the bench extra")
    (tmp_path / "README.md").write_text(page)
    report.write(record, tmp_path)
    assert (tmp_path / "README.md").read_text() == page
    assert capsys.readouterr().out.startswith("Medians measured 2020-02-02")
    assert (tmp_path / "docs" / "benchmarks.md").read_text().startswith("# Benchmarks\n\nMeasured 2020-02-02")


def test_a_plot_is_svg_with_the_same_bytes_each_time(record):
    pytest.importorskip("matplotlib", reason="the plots need the bench extra")
    first = plots.draw(record, "cosine")
    assert plots.draw(copy.deepcopy(record), "cosine") == first
    assert ET.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"search, 2 threads" in first
    assert b"dc:date" not in first


def test_losses_leave_out_wrong_results(record):
    assert any("near" in line for line in report.losses(record))  # approximate by design, and not wrong
    record["results"].append(result("hasty", 0.1, group="cosine", case="search", threads=2, correct=False))
    assert not any("hasty" in line for line in report.losses(record))


def test_counts_per_second_are_plotted_over_time(record):
    data = {"per_second": 20, "accepted": [0, 30, 20, 20], "refused": [5, 1, 0, 0]}
    record["results"] = [
        result("ctxembed", 100.0, kind="ours", group="pacing", case="20 a second", values=data),
        result("other", 130.0, group="pacing", case="20 a second", values=data),
        result("ctxembed", 4.0, kind="ours", group="pacing", case="latency"),
    ]
    picture = plots.draw(record, "pacing")
    assert picture == plots.draw(copy.deepcopy(record), "pacing")
    text = "".join(ET.fromstring(picture).itertext())
    assert "20 a second" in text
    assert "other: refused" in text
    assert "latency" not in text
    assert plots.smooth([0, 10, 20, 30, 40, 50, 60]) == [0, 5, 10, 15, 20, 30, 40]
    assert "| latency | 4.00 s |" in report.markdown(record)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_stored_record_can_be_rendered(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    text = report.markdown(stored)
    assert all(f"### {report.TITLES[group]}\n" in text for group in {result["group"] for result in stored["results"]})
    assert report.summary(stored)


def test_a_separate_page_has_tables_and_no_pictures(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["report", str(RECORDS[-1]), "--page", str(page)])
    assert report.main() == 0
    text = page.read_text(encoding="utf-8")
    stored = json.loads(RECORDS[-1].read_text(encoding="utf-8"))
    assert text.endswith(report.markdown(stored, pictures=False))
    assert text.startswith("# Benchmarks: ")
    assert "![" not in text
    assert "![" in report.markdown(stored)
