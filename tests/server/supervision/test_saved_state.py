"""What a killed server leaves behind, and what the next one makes of it."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import yaml
from networks import write_linear

from server.config import read_config
from server.config.amendments import Amendments, Load, amended_by
from server.control import PlaceRequest, UnloadRequest
from server.deployment.links import Links
from server.errors import ConfigError
from server.members.probes import EACH_TIME, Probes
from server.supervision.first_state import FirstState, find_first_state, plan_first
from server.supervision.saved_state import SavedState, StateFile, state_path
from workers.backends.files import linked, stamped
from workers.runtime.spec import ModelSource

FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
DOCUMENT = {"members": {"a": FAKE, "b": FAKE}, "server": {"http_port": 1}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "config.yaml", DOCUMENT)


@pytest.fixture
def state(config):
    file = StateFile(state_path(config))
    yield file
    file.close()


def write(path, document):
    path.write_text(yaml.safe_dump(document))
    return path


def reader(path):
    return lambda document: read_config(path, document=document)


def on_disk(path):
    try:
        return read_config(path)
    except ConfigError as error:
        return error


NONE = Amendments()


def saved(path, amendments=NONE, sources=()):
    found = read_config(path)
    by_name = {source.member: source for source in sources}
    return SavedState.of(found.path, found.document, amendments, 7, by_name)


def find(config, state):
    return find_first_state(on_disk(config), reader(config), state)


def test_a_state_is_kept_for_its_owner_alone_until_it_is_removed(config, state):
    assert state.read() is None
    state.write(saved(config))
    assert stat.S_IMODE(os.stat(state.path).st_mode) == 0o600
    assert state.read() == saved(config)
    assert state.read().document == DOCUMENT
    path = state.path
    state.remove()
    assert [*path.parent.iterdir()] == []


def test_two_servers_with_one_configuration_do_not_share_a_state(config, state, caplog):
    state.write(saved(config))
    other = StateFile(state_path(config))
    assert "another server with this configuration runs" in caplog.text
    other.write(saved(config, Amendments(unloads=("a",))))
    assert (other.path, other.read()) == (None, None)
    other.remove()
    assert state.read() == saved(config)
    state.close()
    third = StateFile(state_path(config))
    assert third.read() == saved(config)
    third.close()


def test_states_of_configurations_have_files_of_their_own(config, tmp_path):
    assert state_path(config) == state_path(Path(os.path.relpath(config)))
    assert state_path(config) != state_path(tmp_path / "other.yaml")


def test_a_damaged_state_counts_for_nothing(config, state, caplog):
    state.path.write_text("{")
    assert find(config, state).base.document == DOCUMENT
    assert "can't be read" in caplog.text


def test_a_state_that_can_not_be_written_is_a_warning(config, tmp_path, caplog):
    (tmp_path / "file").touch()
    state = StateFile(tmp_path / "file/state.json")
    state.write(saved(config))
    assert state.path is None
    assert "no state is kept" in caplog.text


def test_files_of_clients_are_kept_as_long_as_their_load(config, state, tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/m.onnx").write_text("x")
    directory = state.adopt(str(tmp_path / "sent"))
    assert not (tmp_path / "sent").exists()
    state.write(saved(config, Amendments(loads={"a": Load("{}", directory)})))
    assert Path(directory, "m.onnx").read_text() == "x"
    state.write(saved(config))
    assert not Path(directory).exists()
    assert StateFile(None).adopt("somewhere") == "somewhere"


def test_the_configuration_as_it_was_is_served_like_any_other(config, state, caplog):
    state.write(saved(config))
    assert find(config, state) == FirstState(read_config(config))
    assert caplog.text == ""


def test_what_was_served_last_is_served_again(config, state, caplog):
    state.write(saved(config))
    changed = {"members": {"a": FAKE}, "server": {"http_port": 2}}
    write(config, changed)
    found = find(config, state)
    assert found.base.document == DOCUMENT
    assert found.base.server.http_port == 2  # this section is that of the file
    assert found.on_disk.document == changed
    assert "the server was killed when it served generation 7" in caplog.text
    assert str(state.path) in caplog.text


def test_what_was_served_last_is_served_instead_of_a_broken_configuration(config, state, caplog):
    state.write(saved(config))
    write(config, {"members": {}})
    found = find(config, state)
    assert (found.base.document, found.on_disk) == (DOCUMENT, None)
    assert "the configuration is wrong now" in caplog.text
    state.path.unlink()
    with pytest.raises(ConfigError, match="members: should not be empty"):
        find(config, state)


def test_what_is_not_valid_any_more_is_not_served(config, state, caplog, tmp_path):
    (tmp_path / "m.onnx").touch()
    former = write(tmp_path / "config.yaml", {"members": {"a": {"model": "m.onnx"}}})
    state.write(saved(former))
    (tmp_path / "m.onnx").unlink()
    write(config, DOCUMENT)
    assert find(config, state) == FirstState(read_config(config))
    assert "not valid any more" in caplog.text


def test_amendments_are_part_of_what_is_served_again(config, state):
    amendments = amended_by(read_config(config), Amendments(), UnloadRequest("b"))
    matrix = '{"members": ["a"], "devices": ["cpu:0"], "matrix": [[4]]}'
    amendments = amended_by(read_config(config), amendments, PlaceRequest(matrix))
    state.write(saved(config, amendments))
    first = find(config, state)
    same, plan = plan_first(first, EACH_TIME, state.links, print)
    assert same is first
    assert [*plan.config.members] == ["a"]
    assert [*plan.matrix.instances()] == [("cpu:0", "a", 4)]


def test_what_can_not_be_planned_any_more_gives_way_to_the_configuration(
    config, state, tmp_path, caplog
):
    (tmp_path / "m.onnx").write_text("broken")
    former = write(tmp_path / "config.yaml", {"members": {"a": {"model": "m.onnx"}}})
    state.write(saved(former))
    write(config, DOCUMENT)
    first, plan = plan_first(find(config, state), EACH_TIME, state.links, print)
    assert (first.base.document, [*plan.config.members]) == (DOCUMENT, ["a", "b"])
    assert "can't be served any more" in caplog.text
    config.write_text("[")
    with pytest.raises(ConfigError, match=r"m\.onnx"):
        plan_first(find(config, state), EACH_TIME, state.links, print)


def write_model(path, seed):
    """Replace a model as a deployment does, by renaming."""
    new = path.with_suffix(".new")
    write_linear(new, np.random.default_rng(seed).random((4, 2)).astype("f"))
    os.utime(new, ns=(seed, seed))
    new.replace(path)


def planned(config, state):
    return plan_first(find(config, state), Probes.remembering(), state.links, print)


def test_a_model_that_was_replaced_is_served_as_it_was(config, state, tmp_path, caplog):
    write_model(tmp_path / "m.onnx", 1)
    write(config, {"members": {"a": {"model": "m.onnx"}}})
    _, plan = planned(config, state)
    state.write(saved(config, sources=plan.models.sources))
    write_model(tmp_path / "m.onnx", 2)
    first, again = planned(config, state)
    assert "the server was killed" in caplog.text
    assert first.formers
    assert again.models.sources == plan.models.sources
    (source,) = plan.models.sources
    shutil.rmtree(source.links)
    _, last = planned(config, state)
    assert "m.onnx is not what it was when it was deployed" in caplog.text
    assert last.models.sources != plan.models.sources


def test_links_are_those_of_what_is_served_and_go_in_the_end(config, state, tmp_path):
    write_model(tmp_path / "m.onnx", 1)
    write(config, {"members": {"a": {"model": "m.onnx"}, "b": FAKE}})
    _, plan = planned(config, state)
    source, other = plan.models.sources
    assert (other.links, os.listdir(source.links)) == ("", [tmp_path.parts[1]])
    write_model(tmp_path / "m.onnx", 2)
    assert linked(source).path.startswith(source.links)
    state.links.remove_others([source])
    assert linked(source) is not None
    os.utime(linked(source).path)  # as if it were overwritten in place
    assert linked(source) is None
    state.write(saved(config, sources=plan.models.sources))
    folder = state.path.parent
    state.remove()
    assert [*folder.iterdir()] == []


def test_what_can_not_be_linked_is_served_without(config, tmp_path):
    write_model(tmp_path / "m.onnx", 1)
    (tmp_path / "file").touch()
    source = stamped(ModelSource("m", "onnx", str(tmp_path / "m.onnx")))
    assert Links(tmp_path / "file").keep(source) == source
    assert Links(None).keep(source) == source
    write_model(tmp_path / "m.onnx", 2)
    assert Links(tmp_path / "links").keep(source) == source
