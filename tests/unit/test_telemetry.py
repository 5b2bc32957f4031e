import io
import json
import logging
import sys

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tidewatch.settings import Telemetry
from tidewatch.telemetry.logs import configure_logs, get_logger
from tidewatch.telemetry.metrics import Metric, Registry, catalogue
from tidewatch.telemetry.traces import Tracing, parse_traceparent

EVENTS = Metric("tidewatch_test_events_total", "counter", "Events.", ("kind",))


def test_a_metric_is_exposed_under_its_declared_name() -> None:
    registry = Registry("test")
    registry.counter(EVENTS).labels("a").inc(2)
    assert registry.counter(EVENTS) is registry.counter(EVENTS)
    text = registry.expose().decode()
    assert 'tidewatch_test_events_total{kind="a"} 2.0' in text
    assert 'tidewatch_build_info{service="test"' in text


@pytest.mark.parametrize(
    ("name", "kind", "buckets"),
    [
        ("events_total", "counter", ()),
        ("tidewatch_events", "counter", ()),
        ("tidewatch_x_total", "gauge", ()),
        ("tidewatch_x_seconds", "histogram", ()),
    ],
)
def test_a_metric_against_the_conventions_is_refused(name: str, kind: str, buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=name):
        Metric(name, kind, "Help.", (), buckets)  # type: ignore[arg-type]


def test_the_catalogue_holds_each_name_once_with_help() -> None:
    found = catalogue()
    assert "tidewatch_build_info" in found
    assert all(metric.help.endswith(".") for metric in found.values())


def test_a_caller_decides_on_sampling_and_a_new_trace_follows_the_ratio() -> None:
    tracing = Tracing("test", Telemetry(sample_ratio=0))
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    child = tracing.start(caller)
    assert (f"{child.trace_id:032x}", child.sampled) == ("0af7651916cd43dd8448eb211c80319c", True)
    assert str(child) != caller
    assert tracing.start(None).sampled is False
    assert Tracing("test", Telemetry(sample_ratio=1)).start(None).sampled is True
    assert parse_traceparent(str(child)) == child


@pytest.mark.parametrize(
    "text",
    ["", "00-0-0-00", f"00-{'0' * 32}-{'1' * 16}-01", f"01-{'1' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'1' * 16}-01-x"],
)
def test_a_malformed_traceparent_is_no_context(text: str) -> None:
    assert parse_traceparent(text) is None


def test_spans_continue_the_callers_trace() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing("test", Telemetry(), exporter)
    context = tracing.start("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with tracing.tracer.start_as_current_span("work", context=context.parent):
        pass
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None
    assert span.parent.span_id == context.span_id


def test_logs_are_json_with_the_trace_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    before = logging.getLogger().handlers
    try:
        configure_logs("test", Telemetry())
        tracing = Tracing("test", Telemetry(sample_ratio=1), InMemorySpanExporter())
        with tracing.tracer.start_as_current_span("work") as span:
            get_logger("a").info("key.used", api_key="tw_shop_1234", project="shop")
        logging.getLogger("library").warning("plain %s", "text")
    finally:
        logging.getLogger().handlers = before
    ours, theirs = map(json.loads, out.getvalue().splitlines())
    assert ours["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert (ours["event"], ours["project"], ours["api_key"], ours["service"]) == (
        "key.used",
        "shop",
        "[redacted]",
        "test",
    )
    assert theirs["event"] == "plain text"
