"""Plans of changes, one after another."""

import json
import signal

import pytest
import yaml

from server.config import read_config
from server.config.amendments import Amendments
from server.control import (
    LoadRequest,
    PlaceRequest,
    ReloadRequest,
    RolloutRequest,
    UnloadRequest,
)
from server.errors import ConfigError
from server.members.probes import Probes
from server.supervision.changes import ChangePlanner
from server.supervision.config_reloader import ConfigReloader
from server.supervision.first_state import FirstState, plan_first
from server.supervision.saved_state import StateFile, state_path


def fake(add=0.0):
    return {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2, "add": add}}


DEVICE = {"name": "cpu:0", "part_of": "cpu", "cores": [0], "memory_bytes": "1GiB"}


@pytest.fixture(autouse=True)
def _keep_the_handler():
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


class Served:
    """A configuration's file, and the planner of what is served of it."""

    def __init__(self, folder):
        self.path = folder / "config.yaml"
        self.document = {
            "members": {"a": fake(), "b": fake(1)},
            "ensembles": {"ab": {"members": ["a", "b"]}},
            "devices": [DEVICE],
            "placement": {"batch_sizes": [4]},
        }

    def start(self):
        self.write()
        base = read_config(self.path)
        reloader = ConfigReloader(base, lambda document: read_config(self.path, document=document))
        probes = Probes.remembering()
        self.state = StateFile(state_path(self.path))
        first, plan = plan_first(FirstState(base), probes, self.state.links, print)
        self.planner = ChangePlanner(
            base, first.amendments, plan, probes=probes, reloader=reloader, state=self.state
        )
        return self

    def write(self, **sections):
        self.document |= sections
        self.path.write_text(yaml.safe_dump(self.document))

    def plan(self, request):
        return self.planner.plan(request)

    def change(self, request, generation=2):
        change = self.plan(request)
        self.planner.came_up(change, generation)
        return change


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    made = Served(tmp_path).start()
    yield made
    made.state.close()


def numbers(plan):
    ids = [one.id for many in plan.composition.instances.values() for one in many]
    return {arena.index for arena in plan.composition.arenas}, set(ids)


def test_a_reload_of_the_same_changes_nothing(served):
    change = served.change(ReloadRequest())
    assert (change.is_new, change.lines, change.warnings) == (False, (), ())
    assert change.reload.log_level == "info"
    assert not change.exchange


def test_numbers_of_arenas_and_instances_never_come_again(served):
    seen = [numbers(served.planner.current)]
    for add in (2, 3, 4):
        served.write(members={"a": fake(), "b": fake(add)})
        seen.append(numbers(served.plan(ReloadRequest()).plan))  # this one fails to come up
        seen.append(numbers(served.change(ReloadRequest()).plan))
        assert numbers(served.plan(ReloadRequest()).plan) == seen[-1]
    arenas, instances = zip(*seen, strict=True)
    for sets in (arenas, instances):
        assert sum(map(len, sets)) == len(set().union(*sets))


def test_what_needs_a_restart_is_named_and_stays_as_it_is(served):
    served.write(server={"arena_bytes": "64MiB", "log_level": "debug"}, members={"a": fake(7)})
    served.write(ensembles={})
    change = served.change(ReloadRequest())
    assert change.warnings == ("server.arena_bytes has changed, which requires a restart",)
    assert change.reload.log_level == "debug"
    assert change.plan.config.server.arena_bytes is None
    assert change.lines[1:] == ("member b: removed", "ensemble ab: removed", "cpu:0: - b x4")


def test_a_wrong_configuration_changes_nothing(served):
    served.write(members={"a": fake(), "b": {"model": "b.onnx"}})
    with pytest.raises(ConfigError, match=r"members.b.model: there is no file"):
        served.plan(ReloadRequest())
    served.write(members={"a": fake(), "b": fake(1)}, server={"api_keys_file": "keys.yaml"})
    with pytest.raises(ConfigError, match="api_keys_file"):
        served.plan(ReloadRequest())
    served.write(server={})
    assert not served.plan(ReloadRequest()).is_new


def test_only_the_own_configuration_is_reloaded(served, tmp_path):
    link = tmp_path / "link.yaml"
    link.symlink_to(served.path)
    assert not served.plan(ReloadRequest(str(link))).is_new
    with pytest.raises(ConfigError, match=r"other.yaml: this server was started with .*config"):
        served.plan(ReloadRequest(str(tmp_path / "other.yaml")))


def test_loads_and_unloads_last_until_a_reload_and_are_kept(served):
    section = json.dumps(fake(9))
    change = served.change(LoadRequest("c", section), 2)
    assert change.lines == ("member c: new", "cpu:0: + c x4")
    assert change.reload is None
    change = served.change(UnloadRequest("ab", dependents=True), 3)
    assert change.lines == (
        "member a: removed",
        "member b: removed",
        "ensemble ab: removed",
        "cpu:0: - a x4, - b x4",
    )
    saved = served.state.read()
    assert saved.generation == 3
    assert [*saved.amendments.loads] == ["c"]
    assert saved.amendments.unloads == ("a", "b", "ab")
    change = served.change(ReloadRequest(), 4)
    assert [*change.plan.config.members] == ["a", "b"]
    assert served.state.read().amendments == Amendments()


def test_a_load_reads_the_section_of_its_model_again_and_no_other(served):
    served.write(members={"a": fake(7), "b": fake(8), "c": fake(9)})
    change = served.change(LoadRequest("a"))
    assert (change.plan.config.members["a"].fake.add, change.base.document["members"]["b"]) == (
        7,
        fake(1),
    )
    assert list(served.change(LoadRequest("c")).plan.config.members) == ["a", "b", "c"]
    served.write(members={"a": fake(7), "d": fake()}, ensembles={"ad": {"members": ["a", "d"]}})
    assert {*served.change(LoadRequest("ad")).plan.config.members} == {"a", "b", "c", "d"}
    served.write(members={"a": {"model": "nothing.onnx"}}, ensembles={})
    with pytest.raises(ConfigError, match=r"members.a.model: there is no file"):
        served.plan(LoadRequest("b"))


def test_files_of_a_load_go_if_it_does_not_come_up(served, tmp_path):
    def upload(content):
        directory = tmp_path / "sent"
        (directory / "1").mkdir(parents=True)
        (directory / "1" / "model.onnx").write_bytes(content)
        return str(directory)

    with pytest.raises(ConfigError, match="can't load it"):
        served.plan(LoadRequest("new", directory=upload(b"no network")))
    uploads = served.state.path.parent / f"{served.state.path.name}.uploads"
    assert len(list(uploads.iterdir())) == 1
    served.planner.give_up()
    assert not uploads.exists()


def test_a_request_that_is_refused_leaves_no_trace(served):
    with pytest.raises(ConfigError, match="members.a: the ensemble ab needs it"):
        served.plan(UnloadRequest("a"))
    served.plan(LoadRequest("c", json.dumps(fake(9))))  # does not come up
    assert not served.plan(ReloadRequest()).is_new
    with pytest.raises(ConfigError, match="there is no model 'c'"):
        served.plan(UnloadRequest("c"))


def test_another_allocation(served):
    matrix = {"members": ["a", "b"], "devices": ["cpu:0"], "matrix": [[2, 8]]}
    change = served.change(PlaceRequest(json.dumps(matrix)))
    assert change.lines == ("cpu:0: a x4 -> x2, b x4 -> x8",)
    for wrong, words in (("{", "matrix: "), (json.dumps(matrix | {"devices": ["x"]}), "'x'")):
        with pytest.raises(ConfigError, match=words):
            served.plan(PlaceRequest(wrong))
    assert not served.change(ReloadRequest()).is_new


def test_roll_outs_end_and_stay_so_as_long_as_the_file_says_the_same(served):
    versions = {"1": fake(1), "2": fake(2)}
    rollout = {"version": "2", "mode": "canary", "percent": 10}
    member = {"model": {"versions": versions}, "rollout": rollout}
    served.write(members={"a": member, "b": fake()})
    change = served.change(ReloadRequest())
    assert change.plan.config.ensembles["ab"].members == ("a@1", "b")
    change = served.change(RolloutRequest("a", "percent", 50.0))
    assert [one.percent for one in change.plan.rollouts] == [50.0]
    promoted = served.plan(RolloutRequest("a", "promote"))
    assert promoted.plan.config.ensembles["ab"].members == ("a@2", "b")
    assert promoted.plan.rollouts == ()
    change = served.change(RolloutRequest("a", "rollback"))
    assert [*change.plan.config.members] == ["a@1", "b"]
    assert not served.change(ReloadRequest()).is_new
    served.write(members={"a": member | {"rollout": rollout | {"percent": 20}}, "b": fake()})
    assert [one.percent for one in served.change(ReloadRequest()).plan.rollouts] == [20.0]


def test_what_is_watched(served, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "mine.py").write_text("def rule(predictions, *_):\n    return predictions[0]\n")
    labelled = fake() | {"output": "probabilities", "labels": "labels.txt"}
    ensembles = {"ab": {"members": ["a", "b"], "rule": "mine:rule"}}
    served.write(members={"a": labelled, "b": labelled}, ensembles=ensembles)
    served.change(ReloadRequest())
    names = {path.relative_to(tmp_path).as_posix() for path in served.planner.watched_files()}
    assert names == {"config.yaml", "labels.txt", "mine.py"}
