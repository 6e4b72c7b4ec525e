"""Every fault of the local server, and what a client makes of it: the rows behind ``docs/failures.md``.

``python -m tests.client.fault_matrix`` writes the page's table anew.
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

    ``once`` is what happens when one request meets it; ``lasting`` the exception when every request does, empty where
    the answers are good. ``told`` says whether the client can read what a spoilt answer cost; None where it may.
    """

    name: str
    what: str
    once: Once
    lasting: str = ""
    told: bool | None = True
    fault: Any = None
    patient: bool = True

    @property
    def plan(self) -> Any:
        """The fault as a plan has it."""
        return self.name if self.fault is None else self.fault


ROWS: Final = (
    # Answers that are good, however odd.
    Row("none", "nothing", "accepted"),
    Row("shuffled", "documents and chunks in another order", "accepted"),
    Row("bare", "no `usage`, `object`, `index` or `model` in the answer", "accepted", told=False),
    Row("no-cost", "no `cost` in `usage`", "accepted"),
    Row("chunked", "chunked transfer coding", "accepted"),
    Row("gzip", "a gzip body, though none was asked for", "accepted"),
    Row("deflate", "a deflate body, though none was asked for", "accepted"),
    Row("json-as-html", "vectors in a body that is labelled `text/html`", "accepted"),
    Row("drop", "a connection that closes after the answer", "accepted"),
    Row("trickled", "an answer that takes its time", "accepted", fault={"trickle": {"bytes": 2000, "seconds": 0.005}}),
    # No whole answer.
    Row("reset", "a connection reset in place of an answer", "retried", "APIConnectionError", False),
    Row("reset-in-body", "a connection reset in the body", "retried", "APIConnectionError", False),
    Row("hang-up", "a connection closed in place of an answer", "retried", "APIConnectionError", False),
    Row("not-http", "bytes that are not HTTP", "retried", "APIConnectionError", False),
    Row("truncated", "a body shorter than its length says", "retried", "APIConnectionError", False),
    Row("truncated-chunked", "a chunked body without its end", "retried", "APIConnectionError", False),
    Row("delay", "no answer in time", "retried", "APITimeoutError", None, {"delay": 30}, patient=False),
    Row("stall", "a body that stops coming", "retried", "APITimeoutError", None, patient=False),
    Row("slow-loris", "a body that never ends, byte by byte", "retried", "APITimeoutError", None, patient=False),
    # A 200 that does not prove itself.
    Row("html", "a page with status 200", "retried", "BadResponseError", False),
    Row("html-as-json", "a page labelled as JSON", "retried", "BadResponseError", False),
    Row("empty", "an empty body", "retried", "BadResponseError", False),
    Row("garbage", "a body that is not JSON", "retried", "BadResponseError", False),
    Row("error-in-200", "an error in the body of a 200", "retried", "BadResponseError", False),
    Row("no-data", "no `data` in the answer", "retried", "BadResponseError"),
    Row("missing-document", "a document without rows", "retried", "BadResponseError"),
    Row("missing-chunk", "a row missing", "retried", "BadResponseError"),
    Row("duplicate-document", "a document that comes twice", "retried", "BadResponseError"),
    Row("duplicate-chunk", "a row that comes twice", "retried", "BadResponseError"),
    Row("extra-chunk", "a row that was not asked for", "retried", "BadResponseError"),
    Row("corrupt-chunk", "a row that is not base64", "retried", "BadResponseError"),
    Row("wrong-dimensions", "rows of another length", "retried", "BadResponseError"),
    Row("wrong-model", "the name of another model", "retried", "BadResponseError"),
    Row("truncated-gzip", "a gzip body that ends halfway", "retried", "BadResponseError", False),
    Row("mislabelled-gzip", "a body that says gzip and is not", "retried", "BadResponseError", False),
    Row("unlabelled-gzip", "a gzip body that does not say so", "retried", "BadResponseError", False),
    Row("unknown-coding", "a content coding that nobody knows", "retried", "BadResponseError", False),
    Row("gzip-bomb", "some kilobytes that unpack to 64 MB", "retried", "BadResponseError", None),
    Row("oversized", "a body larger than the request can produce", "retried", "BadResponseError", None),
    Row("202", "202, and no vectors", "retried", "BadResponseError", False),
    Row("204", "204", "retried", "BadResponseError", False),
    # Refusals that pass.
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
    # Refusals of what was sent.
    Row("400", "400", "split", "BadRequestError", False),
    Row("413", "413", "split", "APIStatusError", False),
    Row("422", "422", "split", "UnprocessableEntityError", False),
    # Refusals of the caller.
    Row("401", "401, an HTML page", "ends the job", "AuthenticationError", False),
    Row("402", "402", "ends the job", "APIStatusError", False),
    Row("403", "403", "ends the job", "PermissionDeniedError", False),
    Row("404", "404", "ends the job", "NotFoundError", False),
    Row("redirect", "a redirect", "ends the job", "APIStatusError", False),
    Row("302", "302, without a place", "ends the job", "APIStatusError", False),
)


LIMITS: Final = (
    ("a rate, named in seconds", {"requests_per_minute": 1200, "burst": 2, "retry_after": "seconds"}),
    ("a rate, named as a date", {"requests_per_minute": 1200, "burst": 2, "retry_after": "date"}),
    ("a rate that is not named", {"requests_per_minute": 1200, "burst": 2, "retry_after": "none"}),
    ("a rate that every answer tells", {"requests_per_minute": 1200, "burst": 2, "ratelimit_headers": True}),
    ("tokens a minute", {"tokens_per_minute": 6000}),
    ("fewer documents a request than the client knows", {"documents": 2}),
    ("fewer chunks a request than the client knows", {"chunks": 4}),
    ("fewer tokens a request than the client counts", {"tokens": 25}),
)
"""Limits that the client is not told: whatever it meets, everything comes in the end."""


def table() -> str:
    """The page's table."""
    lines = ["| fault | what comes | once | for ever |", "|---|---|---|---|"]
    for row in ROWS:
        lasting = f"`{row.lasting}`" if row.lasting else "the vectors"
        lines.append(f"| `{row.name}` | {row.what} | {row.once} | {lasting} |")
    lines += ["", "Limits that the client is not told cost time or a split, and no document:", ""]
    lines += [f"- {what} (`{json.dumps(limits)}`)" for what, limits in LIMITS]
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with its table as it should be."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
