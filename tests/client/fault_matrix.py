"""Every fault of the local server and its effect on a call: the rows of the table in ``docs/failures.md``.

``python -m tests.client.fault_matrix`` updates the table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

PAGE: Final = Path(__file__).parents[2] / "docs" / "failures.md"
BEGIN: Final = "<!-- matrix:begin -->"
END: Final = "<!-- matrix:end -->"

Once = Literal["accepted", "retried", "split", "failed", "ends the job"]


@dataclass(frozen=True)
class Row:
    """One fault.

    ``once`` is the effect when one request meets it, ``error`` the exception when every request does; empty where the
    response is accepted. ``usage_reported``: whether the client can read the response's usage; None where it depends.
    """

    name: str
    description: str
    once: Once
    error: str = ""
    usage_reported: bool | None = True
    fault: Any = None
    needs_timeout: bool = False

    @property
    def plan(self) -> Any:
        """The fault as the server's plan takes it."""
        return self.name if self.fault is None else self.fault


def _rate(**options: Any) -> dict[str, Any]:
    return {"requests_per_minute": 1200, "burst": 2, **options}


ROWS: Final = (
    # Responses that are accepted.
    Row("none", "no fault", "accepted"),
    Row("shuffled", "documents and chunks in another order", "accepted"),
    Row("bare", "no `usage`, `object`, `index` or `model` in the body", "accepted", usage_reported=False),
    Row("no-cost", "no `cost` in `usage`", "accepted"),
    Row("chunked", "chunked transfer coding", "accepted"),
    Row("gzip", "an unrequested gzip body", "accepted"),
    Row("deflate", "an unrequested deflate body", "accepted"),
    Row("json-as-html", "vectors labelled `text/html`", "accepted"),
    Row("drop", "the connection closes after the response", "accepted"),
    Row("trickled", "a slow response", "accepted", fault={"trickle": {"bytes": 2000, "seconds": 0.005}}),
    # Incomplete responses.
    Row("reset", "a connection reset before the response", "retried", "APIConnectionError", False),
    Row("reset-in-body", "a connection reset in the body", "retried", "APIConnectionError", False),
    Row("hang-up", "the connection closes before the response", "retried", "APIConnectionError", False),
    Row("not-http", "bytes that are not HTTP", "retried", "APIConnectionError", False),
    Row("truncated", "a body shorter than its `Content-Length`", "retried", "APIConnectionError", False),
    Row("truncated-chunked", "a chunked body without its end", "retried", "APIConnectionError", False),
    Row("delay", "no response within the timeout", "retried", "APITimeoutError", None, {"delay": 30}, True),
    Row("stall", "a body that stalls", "retried", "APITimeoutError", None, needs_timeout=True),
    Row("slow-loris", "a body that never ends, byte by byte", "retried", "APITimeoutError", None, needs_timeout=True),
    # Invalid responses with status 2xx.
    Row("html", "an HTML page with status 200", "retried", "BadResponseError", False),
    Row("html-as-json", "an HTML page labelled as JSON", "retried", "BadResponseError", False),
    Row("empty", "an empty body", "retried", "BadResponseError", False),
    Row("garbage", "a body that is not JSON", "retried", "BadResponseError", False),
    Row("error-in-200", "an error in the body of a 200", "retried", "BadResponseError", False),
    Row("no-data", "no `data` in the body", "retried", "BadResponseError"),
    Row("missing-document", "a document without rows", "retried", "BadResponseError"),
    Row("missing-chunk", "a missing row", "retried", "BadResponseError"),
    Row("duplicate-document", "a duplicate document", "retried", "BadResponseError"),
    Row("duplicate-chunk", "a duplicate row", "retried", "BadResponseError"),
    Row("extra-chunk", "a row that was not requested", "retried", "BadResponseError"),
    Row("corrupt-chunk", "a row that is not base64", "retried", "BadResponseError"),
    Row("wrong-dimensions", "rows of another length", "retried", "BadResponseError"),
    Row("wrong-model", "the name of another model", "retried", "BadResponseError"),
    Row("truncated-gzip", "a truncated gzip body", "retried", "BadResponseError", False),
    Row("mislabelled-gzip", "a body labelled gzip that is not", "retried", "BadResponseError", False),
    Row("unlabelled-gzip", "a gzip body without a label", "retried", "BadResponseError", False),
    Row("unknown-coding", "an unknown content coding", "retried", "BadResponseError", False),
    Row("gzip-bomb", "some kilobytes that decompress to 64 MB", "retried", "BadResponseError", None),
    Row("oversized", "a body larger than the request can produce", "retried", "BadResponseError", None),
    Row("202", "202, without vectors", "retried", "BadResponseError", False),
    Row("204", "204", "retried", "BadResponseError", False),
    # Transient refusals.
    Row("408", "408", "retried", "APIStatusError", False),
    Row("409", "409", "retried", "APIStatusError", False),
    Row("429", "429", "retried", "RateLimitError", False),
    Row("429-seconds", "429, `Retry-After` in seconds", "retried", "RateLimitError", False),
    Row("429-date", "429, `Retry-After` as a date", "retried", "RateLimitError", False),
    Row("429-too-long", "429, `Retry-After` beyond `max_wait`", "failed", "RateLimitError", False),
    Row("500", "500", "retried", "InternalServerError", False),
    Row("502", "502", "retried", "InternalServerError", False),
    Row("503", "503", "retried", "InternalServerError", False),
    Row("503-seconds", "503, `Retry-After` in seconds", "retried", "InternalServerError", False),
    Row("504", "504", "retried", "InternalServerError", False),
    Row("529", "529", "retried", "InternalServerError", False),
    # Refusals of the documents.
    Row("400", "400", "split", "BadRequestError", False),
    Row("413", "413", "split", "APIStatusError", False),
    Row("422", "422", "split", "UnprocessableEntityError", False),
    # Refusals of the caller.
    Row("401", "401, an HTML page", "ends the job", "AuthenticationError", False),
    Row("402", "402", "ends the job", "APIStatusError", False),
    Row("403", "403", "ends the job", "PermissionDeniedError", False),
    Row("404", "404", "ends the job", "NotFoundError", False),
    Row("redirect", "a redirect", "ends the job", "APIStatusError", False),
    Row("302", "302 without `Location`", "ends the job", "APIStatusError", False),
)


SERVER_LIMITS: Final = (
    ("a request rate, `Retry-After` in seconds", _rate(retry_after="seconds")),
    ("a request rate, `Retry-After` as a date", _rate(retry_after="date")),
    ("a request rate without `Retry-After`", _rate(retry_after="none")),
    ("a request rate with `x-ratelimit-*` headers", _rate(ratelimit_headers=True)),
    ("a token rate", {"tokens_per_minute": 6000}),
    ("fewer documents a request than the client's limit", {"documents": 2}),
    ("fewer chunks a request than the client's limit", {"chunks": 4}),
    ("fewer tokens a request than the client counts", {"tokens": 25}),
)
"""Limits of the server that the client does not know. No document fails because of them."""


def table() -> str:
    """Return the table of faults and the list of limits, as Markdown."""
    lines = ["| fault | what the server sends | once | for ever |", "|---|---|---|---|"]
    for row in ROWS:
        error = f"`{row.error}`" if row.error else "the vectors"
        lines.append(f"| `{row.name}` | {row.description} | {row.once} | {error} |")
    lines += ["", "Limits that the client does not know cost time or a split, and no document:", ""]
    lines += [f"- {name} (`{json.dumps(limits)}`)" for name, limits in SERVER_LIMITS]
    return "\n".join(lines)


def updated(page: str) -> str:
    """Return the page with the current table."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
