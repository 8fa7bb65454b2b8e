import asyncio
import logging

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from server.engine.statistics import Histogram
from server.metrics.exposition import Counters, Gauges, Histograms
from server.metrics.registry import MetricsRegistry

OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def observed(*values: float) -> Histogram:
    histogram = Histogram((1.0, 2.5))
    for value in values:
        histogram.observe(value)
    return histogram


async def healthy():
    rows = (((f"m{index}", "x"), index) for index in range(100))
    yield Counters("test_rows_total", "Rows.", ("model", "kind"), rows)
    yield Gauges("test_lag_seconds", 'A "lag".', (), [((), 0.5)])
    yield Gauges("test_nothing", "Nothing at all.", ("gpu",), ())
    times = [((f"m{index}",), observed(0.5, 2.0, 9.0)) for index in range(5)]
    yield Histograms("test_times_seconds", "Times.", ("model",), [*times, (("idle",), observed())])


async def broken():
    yield Gauges("test_first", "The first.", (), [((), 1)])
    raise ZeroDivisionError


def scrape(registry, accept=""):
    body, content_type = asyncio.run(registry.scrape(accept))
    parse = parse_open if "openmetrics" in content_type else parse_plain
    families = {family.name: family for family in parse(body.decode())}
    return families, body.decode(), content_type


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", OPEN])
def test_each_family_is_exposed_once(accept):
    families, body, content_type = scrape(MetricsRegistry({"healthy": healthy}), accept)
    assert content_type.startswith(
        "application/openmetrics-text; version=1" if accept == OPEN else "text/plain; version=0.0.4"
    )
    assert body.count("# TYPE") == 5
    assert list(families) == [
        "test_rows",
        "test_lag_seconds",
        "test_nothing",
        "test_times_seconds",
        "ensembled_metrics_errors",
    ]
    samples = families["test_rows"].samples
    assert {(it.labels["model"], it.labels["kind"]): it.value for it in samples} == {
        (f"m{index}", "x"): index for index in range(100)
    }
    assert families["test_lag_seconds"].documentation == 'A "lag".'
    assert families["test_nothing"].samples == []


def test_openmetrics_has_units():
    families, _, _ = scrape(MetricsRegistry({"healthy": healthy}), OPEN)
    assert families["test_lag_seconds"].unit == "seconds"
    assert families["test_rows"].unit == ""


def test_a_histogram_cumulates_and_one_without_observations_is_left_out():
    families, _, _ = scrape(MetricsRegistry({"healthy": healthy}))
    samples = {
        (it.name.removeprefix("test_times_seconds"), it.labels.get("le")): it.value
        for it in families["test_times_seconds"].samples
        if it.labels["model"] == "m3"
    }
    assert samples == {
        ("_bucket", "1.0"): 1,
        ("_bucket", "2.5"): 2,
        ("_bucket", "+Inf"): 3,
        ("_count", None): 3,
        ("_sum", None): 11.5,
    }
    models = {it.labels["model"] for it in families["test_times_seconds"].samples}
    assert models == {f"m{index}" for index in range(5)}


def test_a_failing_collector_is_left_out_counted_and_logged_once(caplog):
    caplog.set_level(logging.INFO)
    registry = MetricsRegistry({"broken": broken, "healthy": healthy})
    for times in (1, 2):
        families, _, _ = scrape(registry)
        assert "test_first" in families
        assert "test_lag_seconds" in families
        (errors,) = (
            it.value
            for it in families["ensembled_metrics_errors"].samples
            if it.labels == {"collector": "broken"}
        )
        assert errors == times
    (record,) = caplog.records
    assert "broken" in record.getMessage()
    assert record.exc_info is not None


def test_the_event_loop_runs_during_a_scrape():
    async def turns():
        scraping = asyncio.create_task(
            MetricsRegistry({"healthy": healthy}, slice_s=0.0).scrape("")
        )
        count = 0
        while not scraping.done():
            await asyncio.sleep(0)
            count += 1
        return count

    # 3 pieces of the counters, 3 of the histograms, one of each of the others
    assert asyncio.run(turns()) >= 9
