"""`ensembled select --from-production`: what servers had to bear is what is asked for."""

import time

import pytest
import yaml

from server.cli.select import read_production
from server.errors import ConfigError
from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.history.database import append_window
from server.history.windows import Served, Window


@pytest.fixture
def config(tmp_path):
    fake = {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"members": {"a": fake}, "server": {"history": "h.sqlite"}}))
    return path


def test_the_rate_is_that_of_a_busy_minute(config):
    for rows in (60, 600, 6000):
        instances = {"cpu:0": {"a": InstanceTraffic(1, rows, 0.5)}}
        traffic = Traffic(1, 60.0, {"a": ModelTraffic(1, rows)}, {}, instances)
        window = Window(time.time(), 60.0, traffic, {"cpu:0": "cpu-1"}, {"a": "0123"})
        append_window(config.parent / "h.sqlite", window)
    served, rows_per_s = read_production(config)
    assert served == (Served("cpu:0", "cpu-1", "0123", InstanceTraffic(3, 6660, 1.5)),)
    assert rows_per_s == 100.0
    assert read_production(None) == ((), None)


def test_a_configuration_that_has_served_nothing_is_told(config):
    with pytest.raises(ConfigError, match="have served nothing in the last week"):
        read_production(config)
