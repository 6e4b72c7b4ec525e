"""OpenTelemetry spans and metrics, named by the conventions for generative AI clients."""

from __future__ import annotations

import subprocess
import sys

import ctxembed
import pytest
from ctxembed._client import telemetry as _telemetry

from .conftest import KEY

pytest.importorskip("opentelemetry.sdk")


@pytest.fixture
def telemetry(monkeypatch):
    """The exporter of spans, and a function that returns the metrics by name."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    meter = MeterProvider([reader]).get_meter("test")
    instruments = (
        tracing.get_tracer("test"),
        meter.create_histogram("gen_ai.client.operation.duration"),
        meter.create_histogram("gen_ai.client.token.usage"),
    )
    monkeypatch.setattr(_telemetry, "_instruments", lambda: instruments)

    def metrics():
        data = reader.get_metrics_data()
        found = [metric for r in data.resource_metrics for s in r.scope_metrics for metric in s.metrics]
        return {metric.name: list(metric.data.data_points) for metric in found}

    return exporter, metrics


def test_a_request_with_retries_is_one_span(driver, server, control, clock, telemetry):
    exporter, metrics = telemetry
    control.faults({"status": 500})
    emb = driver.create([["a", "b"]], _client={"base_url": server.base_url}, _clock=clock)
    [span] = exporter.get_finished_spans()
    assert span.name == "embeddings pplx-embed-context-v1-0.6b"
    facts = dict(span.attributes)
    assert facts["gen_ai.operation.name"] == "embeddings"
    assert facts["gen_ai.provider.name"] == "perplexity"
    assert facts["gen_ai.request.model"] == facts["gen_ai.response.model"] == "pplx-embed-context-v1-0.6b"
    assert facts["gen_ai.usage.input_tokens"] == emb.usage.prompt_tokens
    assert facts["gen_ai.embeddings.dimension.count"] == 1024
    assert facts["server.address"] == "127.0.0.1"
    assert facts["ctxembed.attempts"] == 2
    assert KEY not in repr(facts)
    found = metrics()
    [tokens] = found["gen_ai.client.token.usage"]
    assert (tokens.sum, tokens.attributes["gen_ai.token.type"]) == (emb.usage.prompt_tokens, "input")
    [duration] = found["gen_ai.client.operation.duration"]
    assert duration.count == 1


def test_a_failure_sets_error_type_on_span_and_metric(driver, server, control, clock, telemetry):
    exporter, metrics = telemetry
    control.faults("403")
    with pytest.raises(ctxembed.PermissionDeniedError):
        driver.create([["a"]], _client={"base_url": server.base_url}, _clock=clock)
    [span] = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "403"
    assert not span.status.is_ok
    [duration] = metrics()["gen_ai.client.operation.duration"]
    assert duration.attributes["error.type"] == "403"


def test_opentelemetry_is_used_only_where_it_is_configured(monkeypatch):
    calls = []
    monkeypatch.setattr(_telemetry, "_instruments", lambda: calls.append("called"))
    with monkeypatch.context() as unused:
        unused.delitem(sys.modules, "opentelemetry")
        assert _telemetry.begin_span("http://localhost", None, None, 0.0) is None
        assert not calls
        unused.setattr(_telemetry, "_NAMED", True)  # the environment names a provider
        assert _telemetry.begin_span("http://localhost", None, None, 0.0) is None
        assert calls == ["called"]
    assert _telemetry.begin_span("http://localhost", None, None, 0.0) is None
    assert calls == ["called", "called"]


def test_a_client_does_not_import_opentelemetry(server):
    code = (
        "import sys, ctxembed\n"
        f"with ctxembed.Client({KEY!r}, base_url={server.base_url!r}) as client:\n"
        "    assert len(client.create([['a']])) == 1\n"
        "assert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
