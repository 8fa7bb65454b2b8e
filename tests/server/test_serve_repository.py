"""The model repository and reloads, from outside: clients change what a server serves."""

import asyncio

import numpy as np
import pytest
import yaml
from ensembled_client import AsyncEnsembleClient, EnsembleClient, RequestRejected
from networks import write_linear
from serving import configuration, fake, running
from typer.testing import CliRunner

from server.cli.main import app

pytestmark = pytest.mark.process

X = np.array([[1, 2], [3, 4]], np.float32)
FILE = "file:1/model.onnx"


def write_network(path, factor):
    """A network that multiplies by a factor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_linear(path, factor * np.eye(2, dtype=np.float32))


class Changeable:
    """A server, its files and its clients."""

    def __init__(self, server, directory):
        self.server, self.directory = server, directory
        self.path = directory / "config.yaml"
        self.http = EnsembleClient(server.url)
        self.grpc = EnsembleClient(f"grpc://{server.grpc}")
        self.first = self.path.read_text()

    def change(self, change):
        """Rewrite the configuration's file."""
        document = yaml.safe_load(self.path.read_text())
        change(document)
        self.path.write_text(yaml.safe_dump(document))

    def apply(self, *options, path=None):
        return CliRunner().invoke(
            app, ["apply", str(path or self.path), "--url", self.server.url, *options]
        )

    def factor(self, model="net", version=""):
        """What a model multiplies its input with."""
        path = f"{model}/versions/{version}" if version else model
        answer = self.server.predict(path, X)
        (factor,) = {*(answer.values / X).ravel().tolist()}
        return factor

    def states(self):
        """The state of each version of each model."""
        return {(one.name, one.version): one.state for one in self.http.models()}

    def uploads(self):
        (sockets,) = self.server.temporary.glob("ensembled-sockets-*")
        return list(sockets.glob("uploads/*"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("repository")
    write_network(directory / "net/1/model.onnx", 1)
    write_network(directory / "other.onnx", 3)
    repository = {"control": "explicit", "overrides": True}
    config = configuration(
        {"net": {"model": {"versions": "net"}}, "other": {"model": "other.onnx"}, "spare": fake(0)},
        repository=repository,
    )
    config["ensembles"] = {"both": {"members": ["net", "other"]}}
    with running(config, directory) as server:
        changeable = Changeable(server, directory)
        with changeable.http, changeable.grpc:
            yield changeable


@pytest.fixture
def changeable(shared):
    """The server as it was started, also for the next test."""
    yield shared
    shared.path.write_text(shared.first)
    shared.http.reload()
    assert shared.factor("both") == 2
    assert "Traceback" not in shared.server.stderr


def test_unload_and_load(changeable):
    served = dict.fromkeys([("both", "1"), ("net", "1"), ("other", "1"), ("spare", "1")], "READY")
    for client in (changeable.http, changeable.grpc):
        assert changeable.states() == served
        with pytest.raises(RequestRejected, match="both"):
            client.unload_model("other")  # which an ensemble needs
        client.unload_model("both")
        assert changeable.states() == served | {("both", "1"): "UNAVAILABLE"}
        assert changeable.server.predict("both", X).status == 404
        assert changeable.factor() == 1
        client.load_model("both")
        client.unload_model("both", unload_dependents=True)
        gone = dict.fromkeys([("both", "1"), ("net", "1"), ("other", "1")], "UNAVAILABLE")
        assert changeable.states() == served | gone
        with pytest.raises(RequestRejected, match="this is the last"):
            client.unload_model("spare")
        client.load_model("both")
        assert changeable.states() == served


def test_a_new_version_is_loaded_from_the_repository(changeable):
    folder = changeable.directory / "net/2"
    write_network(folder / "model.onnx", 5)
    changeable.http.load_model("net")
    assert changeable.factor() == 5
    assert changeable.factor("both") == 4
    states = changeable.states()
    assert (states["net", "2"], states["net", "1"]) == ("READY", "UNAVAILABLE")
    (folder / "model.onnx").unlink()
    folder.rmdir()
    changeable.http.load_model("net")
    assert changeable.factor() == 1


def test_a_file_that_has_changed_is_loaded_again(changeable):
    write_network(changeable.directory / "other.onnx", 7)
    changeable.http.load_model("other")
    assert changeable.factor("other") == 7
    write_network(changeable.directory / "other.onnx", 3)
    changeable.grpc.load_model("other")
    assert changeable.factor("other") == 3


def test_files_and_configurations_of_a_client(changeable, tmp_path):
    write_network(tmp_path / "ten.onnx", 10)
    files = {FILE: (tmp_path / "ten.onnx").read_bytes()}
    for client in (changeable.http, changeable.grpc):
        client.load_model("net", {"backend": "onnxruntime", "max_batch_size": 4}, files)
        assert (changeable.factor(), changeable.factor("both")) == (10, 6.5)
        client.load_model("fresh", {"ensembled": fake(0)})
        assert changeable.factor("fresh") == 1
        ensemble = {"members": ["fresh", "net"], "rule": "median"}
        client.load_model("more", {"ensembled": ensemble})
        assert changeable.factor("more") == 5.5
        client.unload_model("more", unload_dependents=False)
        client.unload_model("fresh")
        client.load_model("net")
        assert changeable.factor() == 1
        assert ("fresh", "1") not in changeable.states()


@pytest.mark.parametrize(
    ("config", "files", "problem"),
    [
        (None, {FILE: b"no network"}, "net"),
        ({"optimization": {}}, None, "net: optimization: has no meaning here"),
        ({"ensembled": {"model": "nothing.onnx"}}, None, "nothing.onnx"),
        ({"ensembled": fake(0, inputs=3)}, None, "both"),  # which would not agree any more
        ({"ensembled": {"modell": "x.onnx", "model": "x.onnx"}}, None, "modell: unknown key"),
    ],
)
def test_what_is_refused_changes_nothing(changeable, config, files, problem):
    before = changeable.uploads()
    for client in (changeable.http, changeable.grpc):
        with pytest.raises(RequestRejected, match=problem):
            client.load_model("net", config, files)
    assert changeable.factor("both") == 2
    assert changeable.uploads() == before


def test_reload(changeable):
    changeable.http.unload_model("both")
    dry = changeable.http.reload(changeable.path, dry_run=True)
    assert any("both" in line for line in dry.changes)
    assert ("both", "1") not in {
        key for key, state in changeable.states().items() if state == "READY"
    }
    change = changeable.http.reload(changeable.path)
    assert change.generation > dry.generation
    assert change.changes == dry.changes
    assert changeable.factor("both") == 2
    assert changeable.http.reload() == type(change)(change.generation)  # nothing more


def test_apply(changeable):
    changeable.change(lambda config: config["members"].update(new=fake(0)))
    shown = changeable.apply("--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "new" in shown.stdout
    assert changeable.server.predict("new", X).status == 404
    applied = changeable.apply()
    assert applied.exit_code == 0, applied.output
    assert applied.stdout.splitlines()[:-1] == shown.stdout.splitlines()[:-1]
    assert changeable.factor("new") == 1


def test_apply_refuses_what_is_wrong_and_the_old_state_serves(changeable, tmp_path):
    changeable.change(lambda config: config["members"]["net"].update(modle="x"))
    refused = changeable.apply()
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "members.net.modle: unknown key" in refused.stderr
    changeable.path.write_text("members: [")
    assert changeable.apply().exit_code == 2
    assert changeable.factor("both") == 2
    changeable.path.write_text(changeable.first)
    other = tmp_path / "config.yaml"
    other.write_text(changeable.first)
    refused = changeable.apply(path=other)
    assert refused.exit_code == 2
    assert str(other) in refused.stderr


def test_clients_wait_for_their_change_together(changeable):
    async def run():
        async with AsyncEnsembleClient(changeable.server.url) as client:
            await client.unload_model("both")
            changes = (client.load_model("both"), client.reload(), client.load_model("other"))
            await asyncio.gather(*changes)
            return await client.predict("both", X)

    prediction = asyncio.run(run())
    assert prediction.values.tolist() == (2 * X).tolist()
    assert prediction.generation == changeable.http.reload(dry_run=True).generation
