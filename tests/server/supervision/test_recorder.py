"""What the front-end reports becomes windows in a database."""

import asyncio
import logging

import pytest
import yaml

from server.config import load_config
from server.deployment.plan import make_plan
from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.history.database import read_windows
from server.history.windows import model_key
from server.supervision import recorder as recording
from server.supervision.recorder import Recorder

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    fake = {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}}
    device = {"name": "cpu:0", "part_of": "cpu", "cores": [0], "memory_bytes": "1GiB"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"members": {"a": fake}, "devices": [device]}))
    return make_plan(load_config(path), profile_s=0.0)


def seen(generation, rows):
    instances = {"cpu:0": {"a": InstanceTraffic(1, rows, 0.5)}} if rows else {}
    models = {"a": ModelTraffic(1, rows)} if rows else {}
    return Traffic(generation, 2.0, models, {}, instances)


async def test_a_window_has_what_was_served_and_by_what(tmp_path, plan):
    path = tmp_path / "history.sqlite"
    recorder = Recorder(path)
    recorder.serve(1, plan)
    recorder.observe(seen(1, 3))
    recorder.observe(seen(2, 100))  # of another generation: it was late
    recorder.observe(seen(1, 4))
    await recorder.flush()
    await recorder.flush()  # nothing was served since
    recorder.observe(seen(1, 0))
    await recorder.flush()
    (window,) = read_windows(path)
    assert window.traffic.models == {"a": ModelTraffic(2, 7)}
    assert window.traffic.instances == {"cpu:0": {"a": InstanceTraffic(2, 7, 1.0)}}
    assert window.kinds == {"cpu:0": "cpu-1"}
    assert window.models == {"a": model_key(plan.models.members[0].source)}


async def test_a_change_ends_a_window(tmp_path, plan):
    path = tmp_path / "history.sqlite"
    recorder = Recorder(path)
    recorder.serve(1, plan)
    recorder.observe(seen(1, 3))
    recorder.serve(2, plan)
    recorder.observe(seen(2, 4))
    await recorder.flush()
    windows = read_windows(path)
    assert [(one.traffic.generation, one.traffic.rows) for one in windows] == [(1, 3), (2, 4)]


async def test_windows_that_end_at_once_are_all_there_after_any_flush(tmp_path, plan):
    path = tmp_path / "history.sqlite"
    recorder = Recorder(path)
    for generation in range(1, 5):
        recorder.serve(generation, plan)
        recorder.observe(seen(generation, generation))
    first = asyncio.ensure_future(recorder.flush())
    await asyncio.sleep(0)
    await recorder.flush()
    assert [one.traffic.rows for one in read_windows(path)] == [1, 2, 3, 4]
    await first


async def test_a_history_that_cant_be_written_is_told_once(tmp_path, plan, caplog):
    path = tmp_path / "history.sqlite"
    path.write_text("a text that is long enough to be taken for a database's header, but is none")
    recorder = Recorder(path)
    recorder.serve(1, plan)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            recorder.observe(seen(1, 3))
            await recorder.flush()
    (record,) = caplog.records
    assert "no history is kept any more" in record.getMessage()


async def test_without_a_place_nothing_is_recorded(plan, monkeypatch):
    monkeypatch.setattr(recording, "append_window", None)
    recorder = Recorder(None)
    recorder.serve(1, plan)
    recorder.observe(seen(1, 3))
    await recorder.flush()
    await recorder.run()
