"""Spans that can't be sent: they are bounded, and nobody waits for them."""

import threading

import pytest
from collector import Collector, collecting

from workers.runtime import tracing
from workers.runtime.logs import ProcessName
from workers.runtime.spec import TracingSpec
from workers.runtime.tracing import Spans


@pytest.fixture
def patient(monkeypatch):
    """The end takes as long as it takes, where the collector does answer."""
    monkeypatch.setattr(tracing, "_CLOSE_TIMEOUT_S", 30.0)


def spans_to(url):
    return Spans(TracingSpec(f"{url}/v1/traces", "mine", 1.0), ProcessName("front-end"))


@pytest.mark.parametrize("listens", [True, False])
def test_the_end_waits_for_no_collector(monkeypatch, listens):
    collector = Collector()  # it answers nobody
    if not listens:
        collector.server.server_close()
    spans = spans_to(collector.url)
    spans.start("a").end()
    shutdown, over = spans._provider.shutdown, threading.Event()

    def send_for_ever():
        shutdown()
        over.wait()

    monkeypatch.setattr(spans._provider, "shutdown", send_for_ever)
    spans.close()
    over.set()
    collector.server.server_close()


@pytest.mark.usefixtures("patient")
def test_no_more_wait_than_there_is_room_for():
    collector = Collector()
    spans = spans_to(collector.url)
    for number in range(10_000):
        spans.start(str(number)).end()
    with collecting(collector):
        spans.close()
    assert 0 < len(collector.spans()) <= 2048 + 512  # those in the room, and a batch on its way
    assert "9999" in {span.name for span in collector.spans()}  # old ones make room


@pytest.mark.usefixtures("patient")
def test_what_is_over_is_sent_at_the_end(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20k")
    with collecting() as collector:
        spans = spans_to(collector.url)
        spans.start("a").end()
        spans.close()
        (span,) = collector.spans()
        assert collector.keys == {"Bearer k"}
    assert span.name == "a"
    assert span.process["service.name"] == "mine"
    assert span.process["ensembled.role"] == "front-end"
