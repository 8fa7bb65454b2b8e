import hashlib

import pytest
import yaml
from typer.testing import CliRunner

from server.cli.main import app
from server.config import Config
from server.security.credentials import read_credentials

MEMBERS = {"m": {"model": "fake", "fake": {"inputs": {"x": [1]}, "outputs": 1}}}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_entry_goes_to_the_file_and_the_key_to_the_person(tmp_path):
    entries, keys = [], []
    for name, *scopes in (("alice",), ("bob", "--scope", "admin", "--scope", "infer")):
        made = run("key", name, *scopes)
        assert made.exit_code == 0
        keys.append(made.stderr.rpartition(": ")[2].strip())
        assert made.stderr == f"the key, which is shown only now: {keys[-1]}\n"
        assert keys[-1] not in made.stdout
        entries.append(made.stdout)
    assert len({*keys}) == 2
    assert min(map(len, keys)) >= 32 * 4 / 3  # of 32 random bytes
    path = tmp_path / "keys.yaml"
    path.write_text("".join(entries))
    path.chmod(0o600)
    config = Config.model_validate({"members": MEMBERS, "server": {"api_keys_file": str(path)}})
    found = read_credentials(config.server).spec.keys
    assert [(key.name, key.scopes) for key in found] == [
        ("alice", ("infer",)),
        ("bob", ("admin", "infer")),
    ]
    assert [key.digest for key in found] == [hashlib.sha256(key.encode()).digest() for key in keys]


@pytest.mark.parametrize("arguments", [("a b",), ("alice", "--scope", "everything"), ()])
def test_what_makes_no_key(arguments):
    made = run("key", *arguments)
    assert made.exit_code == 2
    assert made.stdout == ""


def test_check_finds_what_is_wrong_with_keys_and_warns_of_what_is_open(tmp_path):
    path = tmp_path / "config.yaml"

    def check(**server):
        path.write_text(yaml.safe_dump({"members": MEMBERS, "server": server}))
        return run("check", path)

    found = check(host="0.0.0.0")
    assert found.exit_code == 0
    assert "\nwarning: the server listens on 0.0.0.0 and requires neither" in found.stdout
    assert "warning" not in check().stdout
    (tmp_path / "no.pem").write_text("no")
    found = check(tls={"certificate": "no.pem", "key": "no.pem"})
    assert found.exit_code == 2
    line = "error: server.tls.certificate: the file holds no certificate (PEM)\n"
    assert found.stderr == line
    found = check(tls={"certificate": "none.pem", "key": "no.pem"}, api_keys_file="none.yaml")
    assert found.exit_code == 2
    assert found.stderr.splitlines() == [
        f"error: {path}: server.tls.certificate: there is no file {tmp_path / 'none.pem'}",
        f"error: {path}: server.api_keys_file: there is no file {tmp_path / 'none.yaml'}",
    ]
