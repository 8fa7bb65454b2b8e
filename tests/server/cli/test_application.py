import errno
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

import server.supervision
from server.cli.main import app
from server.errors import StartError
from tests.workers.model_files import write_onnx

CONFIG = "members: {a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}}}\n"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def launch(monkeypatch):
    module = ModuleType("server.supervision.launch")
    module.serve = lambda config: 0
    module.check = lambda config: "all is well"
    monkeypatch.setitem(sys.modules, "server.supervision.launch", module)
    monkeypatch.setattr(server.supervision, "launch", module, raising=False)
    return module


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_help_and_version_import_no_server():
    assert invoke("--help").exit_code == 0
    assert "--http-port" in invoke("serve", "--help").output
    assert invoke("--version").stdout == f"ensembled {version('ensembled')}\n"


def test_check_reports_on_stdout(launch, config):
    result = invoke("check", config)
    assert (result.exit_code, result.stdout) == (0, "all is well\n")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_file(command, tmp_path):
    result = invoke(command, str(tmp_path / "absent.yaml"))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "absent.yaml: cannot read the file" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_key_and_its_suggestion(config):
    with open(config, "a") as file:
        file.write("sever: {}\nserver: {htp_port: 1}\n")
    result = invoke("check", config)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {config}: server.htp_port: unknown key, did you mean 'http_port'?",
        f"error: {config}: sever: unknown key, did you mean 'server'?",
    ]


def test_options_override_the_file(launch, config):
    seen = []
    launch.serve = lambda _, read, **__: seen.append(read(None).server) or 7
    result = invoke("serve", config, "--host", "::1", "--http-port", "0", "--grpc-port", "0")
    assert result.exit_code == 7
    assert (seen[0].host, seen[0].http_port, seen[0].grpc_port) == ("::1", 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("nonsense",),
        ("serve", "x", "--http-port", "65536"),
        ("serve", "x", "--nonsense"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_options_that_clash(config):
    result = invoke("serve", config, "--http-port", "8001")
    assert result.exit_code == 2
    assert "command line: http_port and grpc_port are both 8001" in result.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StartError("the port is taken"), "error: the port is taken"),
        (KeyError("x"), "error: KeyError: 'x' (see --debug)"),
    ],
)
def test_what_fails_at_run_time_exits_with_1(launch, config, error, line):
    def fail(*_, **__):
        raise error

    launch.serve = fail
    result = invoke("serve", config)
    assert result.exit_code == 1
    assert result.stderr == line + "\n"
    debugged = invoke("serve", config, "--debug")
    assert debugged.exception is error


def test_a_path_that_is_not_utf_8_is_said_as_what_it_is(tmp_path):
    directory = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(directory)
    shutil.copy(write_onnx(tmp_path / "m.onnx"), os.fsdecode(directory))
    config = os.fsdecode(directory + b"/c.yaml")
    Path(config).write_text("members: {a: {model: m.onnx}}\nensembles: {e: {members: [a]}}\n")
    result = invoke("check", config)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert r"caf\udce9/m.onnx is not UTF-8" in line


def test_names_that_are_not_utf_8_do_no_harm_where_nobody_else_needs_them(tmp_path):
    config = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.yaml")
    Path(config).write_text(CONFIG)
    assert invoke("check", config).exit_code == 0


def test_too_few_descriptors_are_said_as_what_they_are(launch, config):
    def fail(config):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    launch.check = fail
    result = invoke("check", config)
    assert result.exit_code == 1
    assert "Too many open files: the limit of file descriptors is" in result.stderr
    assert "raise it (ulimit -n)" in result.stderr
