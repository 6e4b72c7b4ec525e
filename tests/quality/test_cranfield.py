"""``ctxembed eval`` on Cranfield with the demo model gives the figures of the committed record: some minutes."""

from __future__ import annotations

import pytest

from benches import evaluation
from tests.samples import CRANFIELD

pytestmark = [
    pytest.mark.skipif(not CRANFIELD.is_dir(), reason="../shared/data is absent"),
    pytest.mark.timeout(0),  # `.ci/run` stops what takes too long
]

TOLERANCE = 0.005
"""An int8 value that is rounded otherwise on another CPU can exchange two documents."""


def test_the_command_gives_the_figures_of_the_record(tmp_path):
    record = evaluation.record_of("cranfield")["evaluation"]
    found = evaluation.measure("cranfield", tmp_path)
    assert (found["queries"], found["documents"], found["chunks"]) == (225, 1398, record["chunks"])
    assert [(row["variant"], row["arm"], row["bytes"]) for row in found["table"]] == [
        (row["variant"], row["arm"], row["bytes"]) for row in record["table"]
    ]
    measures = [
        name for name in record["table"][0] if name.partition("@")[0] in ("ndcg", "recall", "success", "mrr", "map")
    ]
    assert len(measures) == 11
    for row, expected in zip(found["table"], record["table"], strict=True):
        assert {name: row[name] for name in measures} == pytest.approx(
            {name: expected[name] for name in measures}, abs=TOLERANCE
        )
    for comparison, expected in zip(found["comparisons"], record["comparisons"], strict=True):
        assert comparison["difference"]["ndcg@10"] == pytest.approx(expected["difference"]["ndcg@10"], abs=TOLERANCE)
