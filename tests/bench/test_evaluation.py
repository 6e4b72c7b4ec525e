"""Pages and plots of judged search are those of the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benches import evaluation
from tests.samples import FOLDERS

DOCS = Path(evaluation.__file__).parents[1] / "docs"


def test_pages_are_made_from_the_records():
    assert (DOCS / "benchmarks-evaluation.md").read_text(encoding="utf-8") == evaluation.page()
    quality = (DOCS / "quality.md").read_text(encoding="utf-8")
    assert evaluation.insert(quality) == quality


@pytest.mark.parametrize("corpus", evaluation.CORPORA)
def test_plots_are_made_from_the_records(corpus):
    text = (DOCS / f"bench-evaluation-{corpus}.svg").read_text(encoding="utf-8")
    assert text == evaluation.plot(evaluation.record_of(corpus))
    result = evaluation.evaluation_of(evaluation.record_of(corpus))
    assert result.plot() == text
    assert result.sentences == evaluation.record_of(corpus)["evaluation"]["sentences"]


@pytest.mark.skipif(not FOLDERS, reason="../shared/data is absent")
def test_the_passages_are_those_of_the_record(tmp_path):
    evaluation.write_passages(tmp_path)
    record = evaluation.record_of("passages")["evaluation"]
    documents = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert len(documents) == record["chunks"]
    assert len((tmp_path / "queries.jsonl").read_text().splitlines()) == record["queries"]
