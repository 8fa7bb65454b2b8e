"""Whether traces can be sent is known before anything starts."""

import importlib.util
import subprocess
import sys

import pytest
from serving import configuration, fake

from server.config import Config
from server.deployment.plan import tracing_spec
from server.errors import ConfigError
from workers.runtime.spec import TracingSpec


def config(**tracing):
    return Config.model_validate(configuration({"a": fake()}, tracing=tracing))


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://c.example/otlp/traces?key=1", "https://c.example/otlp/traces?key=1"),
    ],
)
def test_an_endpoint_without_a_path_gets_the_usual_one(endpoint, url):
    assert tracing_spec(config(endpoint=endpoint)) == TracingSpec(url, "ensembled", 0.0)


@pytest.mark.parametrize("bad", [{}, {"endpoint": "c:4318"}, {"endpoint": "http://c", "sample": 2}])
def test_sections_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=r"server\.tracing"):
        config(**bad)


def test_without_tracing_nothing_is_needed():
    assert tracing_spec(Config.model_validate(configuration({"a": fake()}))) is None


@pytest.mark.parametrize(
    "missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"]
)
def test_missing_packages_are_named(monkeypatch, missing):
    found = importlib.util.find_spec

    def find_spec(name):
        if name == missing:
            return None
        if name.startswith(missing):
            raise ModuleNotFoundError(name)
        return found(name)

    monkeypatch.setattr("server.deployment.plan.find_spec", find_spec)
    with pytest.raises(ConfigError, match=r"pip install '\.\[tracing\]'"):
        tracing_spec(config(endpoint="http://localhost:4318"))


def test_nobody_else_imports_what_may_be_missing():
    program = (
        "import server.supervision.launch, server.front_end.process, sys\n"
        "import workers.worker.process, workers.combiner.process\n"
        "rooms = 'opentelemetry.sdk', 'opentelemetry.exporter'\n"
        "assert not [name for name in sys.modules if name.startswith(rooms)]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
