"""The next deployment of a running server, what changes, and whether both fit into the memory."""

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from networks import write_linear

from allocator.matrix import AllocationMatrix
from allocator.profiles import Profile, Profiles
from server.config import load_config
from server.deployment import replan as replanning
from server.deployment.difference import describe_change
from server.deployment.exchange import Exchange, plan_exchange
from server.deployment.plan import make_plan
from server.deployment.replan import replan
from server.errors import ConfigError
from server.members.probes import Probes
from workers.backends import inspection

RULE = "def mean(predictions, *_):\n    return "


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    return tmp_path


def fake(**options):
    return {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2, **options}}


def part(name, memory="1GiB"):
    return {"name": name, "part_of": "cpu", "cores": [0], "memory_bytes": memory}


def loaded(folder, **sections):
    document = {
        "members": {"a": fake(), "b": fake(add=1)},
        "ensembles": {"both": {"members": ["a", "b"]}},
        "devices": [part("cpu:0"), part("cpu:1")],
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_config(path)


def first(folder, **sections):
    """The plan that is served, and the probes that made it."""
    probes = Probes.remembering()
    return make_plan(loaded(folder, **sections), profile_s=0.0, probes=probes), probes


def refuse(*_, **__):
    raise AssertionError("that should not have happened")


def write_model(path: Path, seed: int, shape=(4, 2)):
    write_linear(path, np.random.default_rng(seed).random(shape).astype("f"))
    os.utime(path, ns=(seed, seed))


def test_the_same_configuration_is_the_same_deployment(folder, monkeypatch):
    plan, probes = first(folder)
    monkeypatch.setattr(replanning, "place", refuse)
    again = replan(loaded(folder), plan, probes=probes)
    assert again.composition == plan.composition
    assert describe_change(plan, again) == []


def test_numbers_go_on(folder):
    plan, probes = first(folder)
    again = replan(loaded(folder), plan, probes=probes, first_arena=7, first_instance=40)
    assert [arena.index for arena in again.composition.arenas] == [7]
    ids = [one.id for many in again.composition.instances.values() for one in many]
    assert sorted(ids) == list(range(40, 40 + len(ids)))
    assert describe_change(plan, again) == []


def test_a_changed_model_costs_one_process_and_no_search(folder, monkeypatch):
    members = {name: {"model": f"{name}.onnx"} for name in "ab"}
    for name in "ab":
        write_model(folder / f"{name}.onnx", 1)
    plan, probes = first(folder, members=members)
    inspected = []
    in_child = inspection._inspect_in_child

    def noted(source, timeout_s):
        inspected.append(source.member)
        return in_child(source, timeout_s)

    monkeypatch.setattr(inspection, "_inspect_in_child", noted)
    monkeypatch.setattr(replanning, "place", refuse)
    write_model(folder / "a.onnx", 2)
    again = replan(loaded(folder, members=members), plan, probes=probes)
    assert describe_change(plan, again) == ["member a: a.onnx changed"]
    assert again.matrix is plan.matrix
    assert inspected == ["a"]
    write_model(folder / "b.onnx", 2)
    pinned = replan(loaded(folder, members=members), plan, probes=probes, refreshed={"a"})
    assert describe_change(plan, pinned) == ["member a: a.onnx changed"]


def test_a_changed_model_keeps_its_former_profile(folder):
    write_model(folder / "a.onnx", 1)
    plan, probes = first(folder, members={"a": {"model": "a.onnx"}}, ensembles={})
    measured = replace(
        plan.found,
        profiles=Profiles([Profile("a", "cpu-1", 8, 0.5, 12345)]),
        noise={("a", "cpu-1"): {8: 0.01}},
        estimated=(),
    )
    plan = replace(plan, found=measured)
    write_model(folder / "a.onnx", 2)
    config = loaded(folder, members={"a": {"model": "a.onnx"}}, ensembles={})
    kept = replan(config, plan, probes=probes).found
    assert [*kept.profiles] == [*measured.profiles]
    assert (kept.noise, kept.estimated) == (measured.noise, ())
    write_model(folder / "a.onnx", 3, shape=(4, 500))
    other = replan(config, plan, probes=probes)
    assert other.found.estimated == (("a", "cpu-1"),)


@pytest.mark.parametrize(
    ("sections", "lines"),
    [
        (
            {"members": {"a": fake(), "b": fake(add=1), "c": fake(add=2)}},
            ["member c: new", "cpu:0: + c x1", "cpu:1: + c x1"],
        ),
        (
            {"members": {"a": fake()}, "ensembles": {}},
            ["member b: removed", "ensemble both: removed", "cpu:0: - b x1", "cpu:1: - b x1"],
        ),
        (
            {"devices": [part("cpu:0")]},
            ["device cpu:1: removed", "cpu:1: - a x1, - b x1"],
        ),
    ],
)
def test_other_members_or_devices_are_placed_anew(folder, sections, lines):
    placement = {"batch_sizes": [1]}
    plan, probes = first(folder, placement=placement)
    again = replan(loaded(folder, placement=placement, **sections), plan, probes=probes)
    assert describe_change(plan, again) == lines


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"members": {"a": fake(), "b": fake(add=2)}}, "member b: fake "),
        (
            {"ensembles": {"both": {"members": ["a", "b"], "rule": "median", "quorum": 1}}},
            "ensemble both: rule mean -> median; quorum none -> 1",
        ),
        (
            {"ensembles": {"both": {"members": ["a"], "weights": None}}},
            "ensemble both: members a, b -> a",
        ),
        (
            {"ensembles": {"both": {"members": ["a", "b"]}, "alone": {"members": ["a"]}}},
            "ensemble alone: new (a by mean)",
        ),
    ],
)
def test_what_does_not_move_members_moves_none(folder, monkeypatch, sections, line):
    plan, probes = first(folder)
    monkeypatch.setattr(replanning, "place", refuse)
    (found,) = describe_change(plan, replan(loaded(folder, **sections), plan, probes=probes))
    assert found.startswith(line)


def test_roll_outs_have_a_line_each(folder):
    def member(**rollout):
        section = {"version": "2", "mode": "canary", **rollout}
        versions = {"model": {"versions": {"1": "fake", "2": "fake"}}}
        return {**fake(), **versions, **({"rollout": section} if rollout else {})}

    sections = [
        {"members": {"a": one, "b": fake()}, "ensembles": {"both": {"members": ["a@1", "b"]}}}
        for one in (
            member(),
            member(percent=10),
            member(percent=30),
            member(percent=30, rollback={"max_error_rate": 0.1}),
        )
    ]
    plan, probes = first(folder, **sections[0])
    lines = []
    for change in (*sections[1:], sections[0]):
        again = replan(loaded(folder, **change), plan, probes=probes)
        lines += describe_change(plan, again)
        plan = again
    assert lines == [
        "roll-out of a: new (version 2 as canary of 10%)",
        "roll-out of a: version 2 as canary of 10% -> version 2 as canary of 30%",
        "roll-out of a: its limits",
        "roll-out of a: over",
    ]


def test_labels_and_rules_are_told_by_their_content(folder):
    (folder / "labels.txt").write_text("cat\ndog\n")
    (folder / "rules_of_mine.py").write_text(f"{RULE}predictions[0]\n")
    labelled = {**fake(), "output": "probabilities", "labels": "labels.txt"}
    sections = {
        "members": {"a": labelled, "b": labelled},
        "ensembles": {"both": {"members": ["a", "b"], "rule": "rules_of_mine:mean"}},
    }
    plan, probes = first(folder, **sections)
    (folder / "labels.txt").write_text("cat\ncow\n")
    (folder / "rules_of_mine.py").write_text(f"{RULE}predictions[1]\n")
    again = replan(loaded(folder, **sections), plan, probes=probes)
    assert describe_change(plan, again) == [
        "member a: the labels in its files",
        "member b: the labels in its files",
        "ensemble both: its rule in rules_of_mine.py",
    ]
    (folder / "rules_of_mine.py").write_text(f"{RULE}'broken'\n")
    with pytest.raises(ConfigError, match="ensembles.both.rule: rules_of_mine:mean"):
        replan(loaded(folder, **sections), plan, probes=probes)


def test_a_matrix_is_followed_if_it_fits(folder):
    plan, probes = first(folder)
    moved = AllocationMatrix(("a", "b"), ("cpu:0", "cpu:1"), ((4, 0), (0, 4)))
    again = replan(loaded(folder), plan, probes=probes, matrix=moved)
    assert again.matrix == moved
    # It stays until something makes another one necessary.
    assert replan(loaded(folder), again, probes=probes).matrix == moved
    unknown = AllocationMatrix(("a", "b"), ("cpu:7",), ((4, 4),))
    with pytest.raises(ConfigError, match="matrix: device 'cpu:7' is not there"):
        replan(loaded(folder), plan, probes=probes, matrix=unknown)


def exchanged(folder, memory, new_members, **sections):
    """What is exchanged if members are replaced on two devices; fakes take a mebibyte each."""
    devices = [part("cpu:0", memory), part("cpu:1", memory)]
    plan, probes = first(folder, devices=devices, **sections)
    config = loaded(folder, devices=devices, **{**sections, "members": new_members})
    return plan_exchange(plan, replan(config, plan, probes=probes))


def test_what_is_in_both_deployments_counts_once(folder):
    changed = {"a": fake(), "b": fake(add=5)}
    assert not exchanged(folder, "3500KiB", changed)


def test_without_room_models_wait_or_are_answered_by_quorum(folder):
    changed = {"a": fake(), "b": fake(add=5)}
    found = exchanged(folder, "2500KiB", changed)
    assert found == Exchange(("cpu:0", "cpu:1"), ("b",), ("both", "b"), ())
    assert list(found.describe()) == [
        "cpu:0, cpu:1: no room for both, so what goes is unloaded before what comes is loaded",
        "meanwhile: requests to both, b wait",
    ]
    quorum = {"ensembles": {"both": {"members": ["a", "b"], "quorum": 1}}}
    found = exchanged(folder, "2500KiB", changed, **quorum)
    assert found == Exchange(("cpu:0", "cpu:1"), ("b",), ("b",), ("both",))
    assert "meanwhile: both answered by quorum without b" in found.describe()


def test_a_member_that_stays_elsewhere_is_not_missed(folder):
    plan, probes = first(folder, devices=[part("cpu:0", "2500KiB"), part("cpu:1")])
    config = loaded(
        folder,
        devices=[part("cpu:0", "2500KiB"), part("cpu:1")],
        members={"a": fake(), "b": fake(add=5)},
    )
    assert plan_exchange(plan, replan(config, plan, probes=probes)) == Exchange(("cpu:0",))


def test_the_arenas_of_both_need_room_in_the_ram(folder):
    plan, probes = first(folder, devices="auto")
    again = replan(loaded(folder, devices="auto"), plan, probes=probes)
    assert not plan_exchange(plan, again)
    arena = msgspec.structs.replace(again.composition.arenas[0], offset=1 << 50)
    large = replace(again, composition=replace(again.composition, arenas=(arena,)))
    with pytest.raises(ConfigError, match="the new instances and arenas take .* there is .* for"):
        plan_exchange(plan, large)
