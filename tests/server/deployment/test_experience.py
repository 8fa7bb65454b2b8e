"""Placement knows how fast members were in production."""

import time
from dataclasses import dataclass

import pytest
import yaml

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from server.config import load_config
from server.deployment.experience import corrected_by, read_experience
from server.following.traffic import InstanceTraffic, Traffic
from server.history.database import append_window, read_served
from server.history.windows import Window, model_key
from workers.runtime.spec import ModelSource


@dataclass
class Member:
    name: str
    source: ModelSource


MEMBERS = [Member(name, ModelSource(name, "onnx", f"{name}.onnx")) for name in "ab"]
PROBLEM = Problem(
    ("a", "b"),
    (Device("cpu:0", "cpu-1", 100), Device("cpu:1", "cpu-1", 100)),
    Profiles(
        Profile(member, "cpu-1", batch, batch / 100, 10) for member in "ab" for batch in (1, 4)
    ),
)


def window(kind="cpu-1", batches=1000, **slower):
    """Members that took so many times as long as profiled, in batches of 4."""
    instances = {
        member: InstanceTraffic(batches, 4 * batches, factor * 0.04 * batches)
        for member, factor in slower.items()
    }
    keys = {member.name: model_key(member.source) for member in MEMBERS}
    return Window(
        time.time(), 60.0, Traffic(1, 60.0, instances={"cpu:0": instances}), {"cpu:0": kind}, keys
    )


@pytest.fixture
def served(tmp_path):
    """What a history of some windows has of them."""

    def read(*windows):
        path = tmp_path / "served.sqlite"
        path.unlink(missing_ok=True)
        for one in windows:
            append_window(path, one)
        return read_served(path)

    return read


def latency_s(problem, member):
    return problem.profiles.of(member, "cpu-1")[4].latency_s


def test_a_member_is_as_slow_as_it_was(served):
    problem, notes = corrected_by(served(window(a=1.1, b=2.0)), PROBLEM, MEMBERS)
    assert latency_s(problem, "a") == 0.04
    assert latency_s(problem, "b") == pytest.approx(0.08, rel=0.06)
    (note,) = notes
    assert note.startswith("b on cpu-1 takes 2.0")


def test_another_name_of_the_same_model_counts(served):
    renamed = [MEMBERS[0], Member("b", MEMBERS[0].source)]
    problem, notes = corrected_by(served(window(a=2.0)), PROBLEM, renamed)
    assert latency_s(problem, "a") == latency_s(problem, "b") > 0.07
    assert len(notes) == 2


def test_what_is_of_another_model_or_device_or_rare_says_nothing(served):
    other = [Member(name, ModelSource(name, "onnx", f"new-{name}.onnx")) for name in "ab"]
    for windows, members in (
        ([window(b=2.0)], other),
        ([window(kind="cpu-2", b=2.0)], MEMBERS),
        ([window(batches=20, b=2.0)], MEMBERS),
        ([], MEMBERS),
    ):
        assert corrected_by(served(*windows), PROBLEM, members) == (PROBLEM, [])
    many = [window(batches=20, b=2.0)] * 30
    assert corrected_by(served(*many), PROBLEM, MEMBERS)[1] != []


def test_a_damaged_history_is_told_and_planning_goes_on(tmp_path, caplog):
    path = tmp_path / "history.sqlite"
    fake = {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}}
    document = {"members": {"a": fake}, "server": {"history": "history.sqlite"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    config = load_config(tmp_path / "config.yaml")
    assert read_experience(config) == []
    append_window(path, window(a=2.0))
    assert [one.traffic.rows for one in read_experience(config)] == [4000]
    path.write_text("a text that is long enough to be taken for a database's header, but is none")
    assert read_experience(config) == []
    assert "planning without the history" in caplog.text
