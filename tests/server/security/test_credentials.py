import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from certificates import Authority

from server.cli.key import make_key
from server.config import ServerConfig, load_config
from server.errors import ConfigError
from server.measurement.server import without_access_control
from server.security.credentials import read_credentials
from server.security.spec import SecuritySpec
from server.security.tls import make_context


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def read(**server):
    return read_credentials(ServerConfig.model_validate(server))


def problem(**server):
    with pytest.raises(ConfigError) as error:
        read(**server)
    (line,) = error.value.problems
    return line


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def entry(name="alice"):
    return make_key(name, ("infer",)).entry


def test_no_access_control_is_configured():
    credentials = read()
    assert credentials.spec.is_open
    assert credentials.warnings == ()


# -- keys --------------------------------------------------------------------------------------


def test_keys_come_from_the_configuration_and_from_a_file(tmp_path):
    keys = write(tmp_path / "keys.yaml", f"{entry('alice')}\n{entry('bob')}\n")
    listed = {"name": "carol", "hash": "sha256:" + "0" * 64, "scopes": ["admin"]}
    spec = read(api_keys=[listed], api_keys_file=keys).spec
    assert [key.name for key in spec.keys] == ["carol", "alice", "bob"]
    assert spec.keys[0].digest == bytes(32)
    assert spec.keys[0].scopes == ("admin",)
    assert not spec.is_open


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should be a list"),
        ("[]", "holds no keys"),
        ("SECRET", "should be a list"),
        ("- SECRET", "0: should be a mapping"),
        ("- {name: alice, hash: SECRET}", "0.hash: should be sha256: and 64 hexadecimal digits"),
        ("- {name: alice, hash: 12345678}", "0.hash: should be sha256: and 64 hexadecimal digits"),
        ("- {name: alice}", "0.hash: is required"),
        ("- {name: alice, key: SECRET}", "0.hash: is required"),
        (
            entry().replace('"infer"', '"SECRET"'),
            "0.scopes.0: should be 'infer', 'admin' or 'urgent'",
        ),
        (f"{entry()}\n{entry()}", "alice: there is a key of that name already"),
    ],
    ids=map(str, range(10)),
)
def test_invalid_key_files(tmp_path, text, message):
    path = write(tmp_path / "keys.yaml", text)
    with pytest.raises(ConfigError) as error:
        read(api_keys_file=path)
    assert any(message in line for line in error.value.problems), error.value.problems
    for told in (str(error.value), repr(error.value)):
        assert "SECRET" not in told
        assert "12345678" not in told


def test_names_and_hashes_of_keys_are_unique(tmp_path):
    one = entry()
    path = write(tmp_path / "keys.yaml", f"{one}\n{one.replace('alice', 'bob')}")
    assert "bob: there is a key with that hash already" in problem(api_keys_file=path)


def test_permissions_of_a_key_file(tmp_path):
    path = write(tmp_path / "keys.yaml", entry(), 0o644)
    (warning,) = read(api_keys_file=path).warnings
    assert "every user of this machine can read" in warning
    for mode in (0o620, 0o602):
        write(tmp_path / "keys.yaml", entry(), mode)
        assert "others can write to" in problem(api_keys_file=path)


def test_repr_shows_neither_keys_nor_certificates(tmp_path, authority):
    certificate, key = authority.sign("server")
    made = make_key("alice", ("infer",))
    path = write(tmp_path / "keys.yaml", made.entry)
    config = ServerConfig.model_validate(
        {
            "api_keys": [{"name": "bob", "hash": "sha256:" + "ab" * 32}],
            "api_keys_file": path,
            "tls": {"certificate": str(certificate), "key": str(key)},
        }
    )
    spec = read_credentials(config).spec
    told = repr(config) + repr(config.model_dump()) + config.model_dump_json() + repr(spec)
    assert "alice" in told
    for secret in ("ab" * 32, made.key, made.entry[40:90], "PRIVATE KEY", repr(bytes([0xAB] * 32))):
        assert secret not in told


# -- certificates ------------------------------------------------------------------------------


def tls(certificate, key, **more):
    return {"certificate": str(certificate), "key": str(key), **more}


def test_valid_tls_files(authority):
    spec = read(tls=tls(*authority.sign("server"), client_ca=str(authority.path))).spec
    assert not spec.is_open
    assert make_context(spec.tls).verify_mode.name == "CERT_REQUIRED"


def test_invalid_tls_files(authority, tmp_path):
    certificate, key = authority.sign("server")
    _, other = authority.sign("other")
    nothing = write(tmp_path / "nothing.pem", "nothing")
    locked = tmp_path / "locked.pem"
    command = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    wrong = {
        "server.tls.key: it is not the key of server.tls.certificate": tls(certificate, other),
        "server.tls.key: the file holds no private key (PEM)": tls(certificate, nothing),
        "server.tls.key: the key must not be encrypted": tls(certificate, locked),
        "server.tls.certificate: the file holds no certificate (PEM)": tls(nothing, key),
        "server.tls.client_ca: the file holds no certificate (PEM)": tls(
            certificate, key, client_ca=nothing
        ),
    }
    for line, given in wrong.items():
        assert problem(tls=given) == line
    swapped = problem(tls=tls(key, certificate))
    assert swapped == "server.tls.certificate: the file holds no certificate (PEM)"
    missing = problem(tls=tls(certificate, tmp_path / "none.pem"))
    assert missing.startswith("server.tls.key: cannot read")


def make_rsa(directory, bits):
    """A certificate and its RSA key."""
    certificate, key = directory / f"rsa{bits}.pem", directory / f"rsa{bits}-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-subj", "/CN=rsa"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_a_key_of_another_type(authority, tmp_path):
    certificate, key = authority.sign("server")
    rsa_certificate, rsa_key = make_rsa(tmp_path, 2048)
    line = "server.tls.key: it is not the key of server.tls.certificate"
    assert problem(tls=tls(certificate, rsa_key)) == line
    assert problem(tls=tls(rsa_certificate, key)) == line


def test_a_key_that_is_too_weak(tmp_path):
    line = problem(tls=tls(*make_rsa(tmp_path, 1024)))
    assert line == "server.tls: OpenSSL does not take the files: ee key too small"


@pytest.mark.parametrize("has_clients_ca", [False, True])
def test_warning_of_certificate_dates(authority, has_clients_ca):
    past, future = datetime(2001, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)
    more = {"client_ca": str(authority.path)} if has_clients_ca else {}
    for dates, wrong in (
        ({"not_before": past, "not_after": past + timedelta(days=1)}, "has expired"),
        ({"not_before": future, "not_after": future + timedelta(days=1)}, "is not valid yet"),
    ):
        certificate, key = authority.sign("server", **dates)
        told = read(tls=tls(certificate, key, **more)).warnings
        assert told == (f"server.tls.certificate: {certificate} {wrong}",)
    assert read(tls=tls(*authority.sign("server"), **more)).warnings == ()


def test_warning_of_a_readable_private_key(authority):
    certificate, key = authority.sign("server")
    key.chmod(0o644)
    (warning,) = read(tls=tls(certificate, key)).warnings
    assert warning.startswith("server.tls.key: every user of this machine can read")


def test_secrets_in_the_wrong_key_are_not_repeated(authority, tmp_path):
    certificate, key = authority.sign("server")
    fake = {"model": "fake", "fake": {"inputs": {"x": [1]}, "outputs": 1}}
    server = {
        "tls": {"certificate": str(certificate), "key": key.read_text()},
        "api_keys": ["ensembled_SECRET"],
        "api_keys_file": key.read_text(),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"members": {"m": fake}, "server": server}))
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert error.value.problems == (
        f"{path}: server.tls.key: should be the path of a file, not what is in it",
        f"{path}: server.api_keys.0: should be a mapping",
        f"{path}: server.api_keys_file: should be the path of a file, not what is in it",
    )


# -- reach -------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_no_warnings_on_the_loopback_address(host):
    assert read(host=host).warnings == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "inference.example.org"])
def test_warnings_of_a_server_that_others_can_reach(host, authority):
    key = {"name": "alice", "hash": "sha256:" + "0" * 64}
    certificates = tls(*authority.sign("server"))
    (open_,) = read(host=host).warnings
    assert f"listens on {host} and requires neither an API key nor" in open_
    (open_,) = read(host=host, tls=certificates).warnings
    assert "requires neither an API key nor" in open_
    (plain,) = read(host=host, api_keys=[key]).warnings
    assert "API keys can be overheard" in plain
    assert read(host=host, api_keys=[key], tls=certificates).warnings == ()
    certified = {**certificates, "client_ca": str(authority.path)}
    assert read(host=host, tls=certified).warnings == ()


def test_a_measured_server_has_no_access_control(authority, tmp_path, monkeypatch):
    certificate, key = authority.sign("server")
    fake = {"model": "fake", "fake": {"inputs": {"x": [1]}, "outputs": 1}}
    server = {
        "tls": {"certificate": str(certificate), "key": str(key)},
        "api_keys": [{"name": "alice", "hash": "sha256:" + "0" * 64}],
        "api_keys_file": write(tmp_path / "keys.yaml", entry("bob")),
        "limits": {"client_requests": 1, "queue_s": 7},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"members": {"m": fake}, "server": server}))
    assert not read_credentials(load_config(path).server).spec.is_open
    environment = {
        "ENSEMBLED_SERVER": '{"drain_s": 3}',
        "ENSEMBLED_SERVER__TLS__KEY": str(key),
        "ENSEMBLED_SERVER__MAX_IMAGE_PIXELS": "9",
    }
    for name, value in without_access_control(environment).items():
        monkeypatch.setenv(name, value)
    config = load_config(path)
    assert read_credentials(config.server).spec == SecuritySpec()
    told = (config.server.drain_s, config.server.max_image_pixels, config.server.limits.queue_s)
    assert told == (3, 9, 7)  # what is not about that stays
