"""Every fault x both clients x ``embed`` and ``stream``: the outcome is the documented one, and every row is the truth.

Each test sends the same documents twice: one request meets the fault, then every request does. The page of failures
is made of the same rows.
"""

from __future__ import annotations

import time

import ctxembed
import numpy as np
import pytest
from ctxembed._backends.hashed import embed_documents
from ctxembed._backends.token_estimate import estimate_tokens
from ctxembed._server.faults import NAMED

from .conftest import MODEL, Driver, FakeClock, documents_of
from .fault_matrix import LIMITS as SERVER_LIMITS
from .fault_matrix import PAGE, ROWS, written

DIMENSIONS = 128
DOCUMENTS = documents_of(9, most=3)
LIMITS = ctxembed.Limits(documents=3)  # three requests
TOKENS = sum(sum(map(estimate_tokens, document)) + len(document) - 1 for document in DOCUMENTS)
IMPATIENT = 0.8  # seconds for an answer, where the fault is that none comes; the others come in time on a busy machine


@pytest.fixture(scope="module")
def truth():
    """The vectors of each document, from the stand-in itself."""
    options = {"model": MODEL, "full_dimensions": 1024, "dimensions": DIMENSIONS, "binary": False}
    return [embed_documents([document], **options) for document in DOCUMENTS]


class Run:
    """What a call brought, whichever it was: rows by document, failures by document, tokens as reported."""

    def __init__(self, found, method):
        parts = found if method == "stream" else [found]
        self.rows, self.failures = {}, {}
        for part in parts:
            positions = part.documents.tolist() if method == "stream" else range(len(part))
            failed = {failure.document: failure.error for failure in part.failures}
            assert not self.failures.keys() & failed.keys()
            self.failures |= failed
            for position, vectors in zip(positions, part, strict=True):
                if position not in failed:
                    assert position not in self.rows, f"document {position} came twice"
                    self.rows[position] = vectors
        usages = [part.usage for part in parts]
        self.tokens = sum(usage.total_tokens or 0 for usage in usages)
        self.discarded = sum(usage.discarded.total_tokens for usage in usages if usage.discarded is not None)
        self.unreported = sum(usage.unreported for usage in usages)

    def check(self, truth):
        """Each document has its vectors or its failure, never both, never none."""
        assert sorted([*self.rows, *self.failures]) == list(range(len(DOCUMENTS)))
        for position, vectors in self.rows.items():
            np.testing.assert_array_equal(vectors, truth[position])


def sent(kind, method, client):
    """The outcome of a call on a clock that does not wait."""
    clock = FakeClock(time.time())
    options = {"dimensions": DIMENSIONS, "on_error": "return", "_client": client, "_clock": clock}
    return Run(Driver(kind).call(method, DOCUMENTS, **options), method)


def settled(control):
    stats = control.settled()
    assert stats["in_flight"] == 0
    return stats


def check_usage(row, run, stats):
    """All that an answer told of is counted, and nothing else; what was paid without a word is at least suspected."""
    if row.told is None:
        assert run.tokens <= stats["tokens"]
    else:
        assert run.tokens == stats["reported_tokens"]
        assert stats["reported_tokens"] == stats["tokens"] or not row.told
    if row.lasting and row.told is not None:
        assert run.unreported >= sum(bool(one["tokens"] and not one["reported"]) for one in stats["recent"])
    if not run.failures and row.name != "bare":
        assert run.tokens - run.discarded == TOKENS


@pytest.mark.parametrize("method", ["embed", "stream"])
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fault_has_the_documented_outcome(row, kind, method, server, control, truth):
    client = {"base_url": server.base_url, "limits": LIMITS, "max_retries": 1, "max_concurrency": 3}
    if not row.patient:
        client["timeout"] = IMPATIENT

    control.faults({"fault": row.plan, "at": 2})
    run = sent(kind, method, client)
    run.check(truth)
    stats = settled(control)
    check_usage(row, run, stats)
    if row.once in ("accepted", "retried", "split"):
        assert not run.failures
        more = {"accepted": 0, "retried": 1, "split": 2}[row.once]
        assert stats["requests"] == 3 + more
    else:
        assert run.failures
        assert {type(error).__name__ for error in run.failures.values()} == {row.lasting}
    if row.once == "failed":
        assert len(run.failures) == 3

    control.clear()
    control.faults({"fault": row.plan, "times": "always"})
    run = sent(kind, method, client)
    run.check(truth)
    stats = settled(control)
    check_usage(row, run, stats)
    if not row.lasting:
        assert not run.failures
        assert stats["requests"] == 3
        return
    assert not run.rows
    assert {type(error).__name__ for error in run.failures.values()} == {row.lasting}
    if row.once == "retried":
        assert stats["requests"] == 6
    if row.once in ("failed", "ends the job"):
        assert stats["requests"] <= 3


@pytest.mark.parametrize(("kind", "method"), [("sync", "embed"), ("asyncio", "stream")])
@pytest.mark.parametrize(("what", "limits"), SERVER_LIMITS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_limit_that_the_client_is_not_told_costs_no_document(what, limits, kind, method, server, control, truth):
    client = {"base_url": server.base_url, "limits": LIMITS, "max_retries": 10, "max_concurrency": 3}
    control.plan(limits=limits)
    found = Driver(kind).call(method, DOCUMENTS, dimensions=DIMENSIONS, on_error="return", _client=client)
    run = Run(found, method)
    run.check(truth)
    assert not run.failures
    stats = settled(control)
    assert run.tokens == stats["reported_tokens"] == stats["tokens"]
    if what.startswith("fewer"):
        assert stats["by_status"]["422"]


def test_every_fault_of_the_server_that_has_a_name_is_in_the_matrix():
    assert set(NAMED) <= {row.name for row in ROWS}


def test_the_page_of_failures_says_what_the_matrix_shows():
    """``python -m tests.client.fault_matrix`` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page)
