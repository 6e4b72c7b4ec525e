"""OpenTelemetry spans and metrics, where its API is installed.

Names follow the semantic conventions for generative AI clients. A span is one request with all its attempts.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ctxembed import _core
from ctxembed._errors import APIStatusError

if TYPE_CHECKING:
    from ctxembed._client.batches import Batch, Outcome
    from ctxembed._client.endpoint import RequestTemplate

__all__ = ["Span", "begin_span"]

_NAMED: Final = any(os.environ.get(f"OTEL_PYTHON_{kind}_PROVIDER") for kind in ("TRACER", "METER"))
"""Whether the environment names a provider, which OpenTelemetry loads when it is first asked."""

_PROVIDER: Final = "perplexity"
_OPERATION: Final = "embeddings"


@lru_cache(maxsize=1)
def _api() -> tuple[Any, Any] | None:
    try:
        from opentelemetry import metrics, trace
    except ImportError:  # a namespace package of another distribution
        return None
    return trace, metrics


def _instruments() -> tuple[Any, Any, Any] | None:
    """Return the tracer and the two histograms, or None while the application has set no provider."""
    api = _api()
    if api is None:
        return None
    trace, metrics = api
    if _is_placeholder(trace.get_tracer_provider()) and _is_placeholder(metrics.get_meter_provider()):
        return None
    return _create_instruments()


def _is_placeholder(provider: object) -> bool:
    """Return whether a provider is one of the API's own, the placeholders until one is set."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


@lru_cache(maxsize=1)
def _create_instruments() -> tuple[Any, Any, Any]:
    """Create the tracer and the histograms. They follow the providers that are set later."""
    from opentelemetry import metrics, trace

    meter = metrics.get_meter("ctxembed", _core.__version__)
    return (
        trace.get_tracer("ctxembed", _core.__version__),
        meter.create_histogram("gen_ai.client.operation.duration", "s", "Duration of a request with its retries"),
        meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens of a request"),
    )


@dataclass(slots=True)
class Span:
    """The span of one request with all its attempts."""

    _span: Any
    _started: float
    _attributes: dict[str, Any]

    def end(self, outcome: Outcome | None, now: float) -> None:
        """End the span with the outcome of the request; None where it was cancelled."""
        instruments = _instruments()
        if instruments is None:
            return
        from opentelemetry.trace import Status, StatusCode

        _, duration, tokens = instruments
        facts: dict[str, Any] = dict(self._attributes)
        error = outcome.error if outcome is not None else None
        if outcome is None:
            facts["error.type"] = "cancelled"
        elif error is not None:
            status = error.status_code if isinstance(error, APIStatusError) else None
            facts["error.type"] = type(error).__name__ if status is None else str(status)
            self._span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        usage = outcome.usage if outcome is not None else None
        if outcome is not None:
            self._span.set_attribute("ctxembed.attempts", outcome.attempts)
            if outcome.embeddings is not None and outcome.embeddings.model is not None:
                self._span.set_attribute("gen_ai.response.model", outcome.embeddings.model)
                facts["gen_ai.response.model"] = outcome.embeddings.model
        if usage is not None and usage.prompt_tokens is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            tokens.record(usage.prompt_tokens, {**facts, "gen_ai.token.type": "input"})
        if "error.type" in facts:
            self._span.set_attribute("error.type", facts["error.type"])
        duration.record(max(0.0, now - self._started), facts)
        self._span.end()


def begin_span(base_url: str, template: RequestTemplate, batch: Batch, now: float) -> Span | None:
    """Begin the span of a request; None where OpenTelemetry is not used."""
    # An application that sets a provider has imported OpenTelemetry. Importing it here would cost time for nothing.
    if "opentelemetry" not in sys.modules and not _NAMED:
        return None
    instruments = _instruments()
    if instruments is None:
        return None
    from opentelemetry.trace import SpanKind

    host, port = _address(base_url)
    shared = {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": _PROVIDER,
        "gen_ai.request.model": template.model,
        "server.address": host,
        "server.port": port,
    }
    more = {
        "gen_ai.request.encoding_formats": [template.encoding_format],
        "gen_ai.embeddings.dimension.count": template.dimensions,
        "ctxembed.documents": len(batch.documents),
        "ctxembed.chunks": sum(batch.shape),
    }
    span = instruments[0].start_span(
        f"{_OPERATION} {template.model}", kind=SpanKind.CLIENT, attributes={**shared, **more}
    )
    return Span(span, now, shared)


@lru_cache(maxsize=64)
def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
