"""Every fault x both clients x ``embed`` and ``stream``: the outcome is the documented one, and all vectors are right.

Each test sends the same documents twice. First one request meets the fault, then every request does. The table in
``docs/failures.md`` is generated from the same rows.
"""

from __future__ import annotations

import time

import ctxembed
import numpy as np
import pytest
from ctxembed._backends.hashed import embed_documents
from ctxembed._backends.token_estimate import estimate_tokens
from ctxembed._server.faults import NAMED

from .conftest import MODEL, Driver, FakeClock, make_documents
from .fault_matrix import PAGE, ROWS, SERVER_LIMITS, updated

DIMENSIONS = 128
DOCUMENTS = make_documents(9, max_chunks=3)
LIMITS = ctxembed.Limits(documents=3)  # three requests
TOKENS = sum(sum(map(estimate_tokens, document)) + len(document) - 1 for document in DOCUMENTS)
SHORT_TIMEOUT = 0.8  # seconds, for faults without a response; with any other fault a busy machine may take longer


@pytest.fixture(scope="module")
def expected():
    """The vectors of each document, from the server's backend."""
    options = {"model": MODEL, "full_dimensions": 1024, "dimensions": DIMENSIONS, "binary": False}
    return [embed_documents([document], **options) for document in DOCUMENTS]


class Run:
    """The result of ``embed`` or ``stream``: rows by document, failures by document, and tokens as reported."""

    def __init__(self, result, method):
        parts = result if method == "stream" else [result]
        self.rows, self.failures = {}, {}
        for part in parts:
            positions = part.documents.tolist() if method == "stream" else range(len(part))
            failed = {failure.document: failure.error for failure in part.failures}
            assert not self.failures.keys() & failed.keys()
            self.failures |= failed
            for position, vectors in zip(positions, part, strict=True):
                if position not in failed:
                    assert position not in self.rows, f"document {position} was returned twice"
                    self.rows[position] = vectors
        usages = [part.usage for part in parts]
        self.tokens = sum(usage.total_tokens or 0 for usage in usages)
        self.discarded = sum(usage.discarded.total_tokens for usage in usages if usage.discarded is not None)
        self.unreported = sum(usage.unreported for usage in usages)

    def check(self, expected):
        """Check that each document has either its vectors or a failure."""
        assert sorted([*self.rows, *self.failures]) == list(range(len(DOCUMENTS)))
        for position, vectors in self.rows.items():
            np.testing.assert_array_equal(vectors, expected[position])


def run_call(kind, method, client):
    """Call the client with a clock that does not wait."""
    clock = FakeClock(time.time())
    options = {"dimensions": DIMENSIONS, "on_error": "return", "_client": client, "_clock": clock}
    return Run(Driver(kind).call(method, DOCUMENTS, **options), method)


def check_usage(row, run, stats):
    """Check that the usage is that of all readable responses, and that the other charged requests are unreported."""
    if row.usage_reported is None:
        assert run.tokens <= stats["tokens"]
    else:
        assert run.tokens == stats["reported_tokens"]
        assert stats["reported_tokens"] == stats["tokens"] or not row.usage_reported
    if row.error and row.usage_reported is not None:
        assert run.unreported >= sum(bool(one["tokens"] and not one["reported"]) for one in stats["recent"])
    if not run.failures and row.name != "bare":
        assert run.tokens - run.discarded == TOKENS


@pytest.mark.parametrize("method", ["embed", "stream"])
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_fault_has_the_documented_outcome(row, kind, method, server, control, expected):
    client = {"base_url": server.base_url, "limits": LIMITS, "max_retries": 1, "max_concurrency": 3}
    if row.needs_timeout:
        client["timeout"] = SHORT_TIMEOUT

    control.faults({"fault": row.plan, "at": 2})
    run = run_call(kind, method, client)
    run.check(expected)
    stats = control.wait_until_idle()
    check_usage(row, run, stats)
    if row.once in ("accepted", "retried", "split"):
        assert not run.failures
        more = {"accepted": 0, "retried": 1, "split": 2}[row.once]
        assert stats["requests"] == 3 + more
    else:
        assert run.failures
        assert {type(error).__name__ for error in run.failures.values()} == {row.error}
    if row.once == "failed":
        assert len(run.failures) == 3

    control.reset()
    control.faults({"fault": row.plan, "times": "always"})
    run = run_call(kind, method, client)
    run.check(expected)
    stats = control.wait_until_idle()
    check_usage(row, run, stats)
    if not row.error:
        assert not run.failures
        assert stats["requests"] == 3
        return
    assert not run.rows
    assert {type(error).__name__ for error in run.failures.values()} == {row.error}
    if row.once == "retried":
        assert stats["requests"] == 6
    if row.once in ("failed", "ends the job"):
        assert stats["requests"] <= 3


@pytest.mark.parametrize(("kind", "method"), [("sync", "embed"), ("asyncio", "stream")])
@pytest.mark.parametrize(("name", "limits"), SERVER_LIMITS, ids=lambda value: value if isinstance(value, str) else "")
def test_unknown_server_limits_lose_no_document(name, limits, kind, method, server, control, expected):
    client = {"base_url": server.base_url, "limits": LIMITS, "max_retries": 10, "max_concurrency": 3}
    control.plan(limits=limits)
    result = Driver(kind).call(method, DOCUMENTS, dimensions=DIMENSIONS, on_error="return", _client=client)
    run = Run(result, method)
    run.check(expected)
    assert not run.failures
    stats = control.wait_until_idle()
    assert run.tokens == stats["reported_tokens"] == stats["tokens"]
    if name.startswith("fewer"):
        assert stats["by_status"]["422"]


def test_every_named_fault_of_the_server_has_a_row():
    assert set(NAMED) <= {row.name for row in ROWS}


def test_the_page_matches_the_rows():
    """Run ``python -m tests.client.fault_matrix`` to update the page."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == updated(page)
