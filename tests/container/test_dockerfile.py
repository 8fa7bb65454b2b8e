"""What the Dockerfile says agrees with the project; `replay.py` runs it."""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from server.cli.main import app
from server.config import ServerConfig
from tests.container.building import PROJECT
from tests.container.dockerfile import expand, read_dockerfile

ARGUMENTS, STAGES = read_dockerfile(PROJECT / "Dockerfile")
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
TARGETS = ("cpu", "gpu")
COMMANDS = typer.main.get_group(app).commands


def instructions(stage, *words):
    """Those of a stage and of all that it is made from, the first ones first."""
    above = instructions(STAGES[stage].base, *words) if STAGES[stage].base in STAGES else []
    return above + [each for each in STAGES[stage].instructions if each.word in words]


def environment(stage):
    values = {}
    for instruction in instructions(stage, "ENV"):
        values.update(instruction.pairs)
    return values


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file through to the engine: its last pattern that fits rules."""
    sent = True
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line.startswith(("#", " ")) and line:
            names = [path, *map(str, Path(path).parents)]
            if line.removeprefix("!").startswith("**/"):
                names += Path(path).parts
            if any(fnmatch.fnmatch(name, pattern) for name in names):
                sent = line.startswith("!")
    return sent


def test_what_is_copied_is_there_and_sent():
    copied = [
        (stage.name, source)
        for stage in STAGES.values()
        for instruction in stage.instructions
        if instruction.word == "COPY" and "from" not in instruction.flags
        for source in instruction.words[:-1]
    ]
    assert copied
    for stage, source in copied:
        path = PROJECT / source
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        assert any(is_sent(str(file.relative_to(PROJECT))) for file in files), (stage, source)
    assert not is_sent("server/engine/__pycache__/slots.cpython-311.pyc")
    assert not is_sent("tests/conftest.py")
    assert not is_sent(".git/config")


def test_the_clients_package_is_sent_and_nothing_else_of_it():
    assert is_sent("clients/ensembled_client/wire/open_inference.binpb")
    assert not is_sent("clients/load_test.py")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_the_recipes_beside_the_configurations_that_name_them(target):
    copied = [each.text for each in instructions(target, "COPY")]
    assert {"configs configs", "examples examples"} <= set(copied)
    for path in (PROJECT / "configs").glob("*.yaml"):
        for member in yaml.safe_load(path.read_text())["members"].values():
            file = (path.parent / member["model"]["recipe"].partition(":")[0]).resolve()
            assert file.is_file()
            assert is_sent(str(file.relative_to(PROJECT)))


def test_files_come_from_stages_that_are_there():
    for stage in STAGES.values():
        for instruction in stage.instructions:
            origin = instruction.flags.get("from")
            mounted = re.findall(r"from=([\w-]+)", instruction.flags.get("mount", ""))
            assert {name for name in [origin, *mounted] if name} <= STAGES.keys()


def test_the_base_image_has_a_version_and_a_release():
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", ARGUMENTS["PYTHON_IMAGE"])
    minor = re.match(r"python:(3\.\d+)", ARGUMENTS["PYTHON_IMAGE"])[1]
    assert f"Programming Language :: Python :: {minor}" in PYPROJECT["classifiers"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_the_server_as_a_user_behind_tini(target):
    last = {each.word: each for each in instructions(target, "USER", "ENTRYPOINT", "CMD")}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"].text)  # Kubernetes wants to see a number
    assert last["ENTRYPOINT"].words == ["tini", "--", "ensembled"]
    command = last["CMD"].words
    assert command[0] in COMMANDS
    assert PYPROJECT["scripts"] == {"ensembled": "server.cli.entry:main"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_health_check_is_a_command_of_ours(target):
    (check,) = instructions(target, "HEALTHCHECK")
    assert check.flags.keys() == {"interval", "timeout", "start-period", "retries"}
    command = json.loads(check.text.removeprefix("CMD "))
    assert command == ["ensembled", "health"]
    assert "health" in COMMANDS


@pytest.mark.parametrize("target", TARGETS)
def test_the_environment_says_what_the_server_reads(target):
    values = environment(target)
    keys = {name.removeprefix("ENSEMBLED_SERVER__").lower()
            for name in values if name.startswith("ENSEMBLED_SERVER__")}  # fmt: skip
    assert keys
    assert keys <= ServerConfig.model_fields.keys()
    assert (PROJECT / values["ENSEMBLED_CONFIG"]).is_file()
    (volume,) = instructions(target, "VOLUME")
    assert volume.text == values["ENSEMBLED_CACHE"]
    (ports,) = instructions(target, "EXPOSE")
    server = ServerConfig()
    assert ports.text.split() == [str(server.http_port), str(server.grpc_port)]


def test_the_label_names_the_version():
    (labels,) = instructions("runtime", "LABEL")
    assert labels.pairs["org.opencontainers.image.version"] == PYPROJECT["version"]
    assert labels.pairs["org.opencontainers.image.licenses"] == PYPROJECT["license"]


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_come_before_sources_and_from_a_lock(target):
    stage = STAGES[f"{target}-dependencies"]
    assert stage.base == "tools"
    copied = [each.text for each in instructions(stage.name, "COPY")]
    assert copied == ["configs/locks configs/locks"]
    (lock,) = [
        each.pairs["LOCK"] for each in instructions(stage.name, "ARG") if "LOCK" in each.pairs
    ]
    assert (PROJECT / f"configs/locks/{lock}.txt").is_file()


def test_everything_that_is_installed_has_a_version():
    """By a hash, or by the constraints of torch; our own wheels come without dependencies."""
    installed = [
        command
        for stage in STAGES.values()
        for each in stage.instructions
        if each.word == "RUN"
        for command in re.findall(r"pip (?:install|wheel)[^&;]*", each.text)
    ]
    assert len(installed) >= 8
    for command in installed:
        assert re.search(
            r"--require-hashes --no-deps|--constraint configs/locks/torch.txt|--no-index --no-deps"
            r"|--no-deps --no-build-isolation",
            command,
        ), command


def test_variables_are_expanded():
    assert expand("a${B}c $D/e $F", {"B": "b", "D": "d"}) == "abc d/e "
