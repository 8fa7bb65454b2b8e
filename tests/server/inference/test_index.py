from types import SimpleNamespace

from server.inference.index import repository_index
from server.inference.spec import UnservedModel
from server.versions import ModelName


def deployment(generation, *names, unserved=()):
    endpoints = {
        f"{name}@{version}": SimpleNamespace(model=SimpleNamespace(public=ModelName(name, version)))
        for name, version in names
    }
    spec = SimpleNamespace(unserved=tuple(UnservedModel(*one) for one in unserved))
    return SimpleNamespace(generation=generation, endpoints=endpoints, spec=spec)


def index(current, *others, down=()):
    entries = repository_index(current, others, lambda one: one.model.public not in down)
    assert all({*entry} == {"name", "version", "state", "reason"} for entry in entries)
    return {(one["name"], one["version"]): (one["state"], one["reason"]) for one in entries}


def test_models_are_ready_or_not():
    current = deployment(1, ("cat", "1"), ("cat", "2"), ("dog", "1"))
    assert index(current, down={("cat", "2")}) == {
        ("cat", "1"): ("READY", ""),
        ("cat", "2"): ("UNAVAILABLE", "too few of its members are up for its quorum"),
        ("dog", "1"): ("READY", ""),
    }


def test_models_come_and_go_and_are_left_out():
    unserved = [("cat", "1", "other versions of it are served"), ("cow", "1", "it is not loaded")]
    current = deployment(5, ("cat", "2"), ("dog", "1"), unserved=unserved)
    going = deployment(4, ("cat", "1"), ("cat", "2"))
    coming = deployment(6, ("cat", "2"), ("cow", "1"), ("hen", "3"))
    states = {name: state for name, (state, _) in index(current, going, coming).items()}
    assert states == {
        ("cat", "2"): "READY",
        ("dog", "1"): "READY",
        ("cat", "1"): "UNLOADING",
        ("cow", "1"): "LOADING",
        ("hen", "3"): "LOADING",
    }
    assert index(current)["cow", "1"] == ("UNAVAILABLE", "it is not loaded")
