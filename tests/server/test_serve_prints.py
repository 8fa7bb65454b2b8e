"""stdout holds what a command is documented to print, and nothing of what libraries print.

A module `sitecustomize` makes an importing process print, from Python and from C, when it imports
one of some modules; a user's rule does the same while it works; so does a solver by itself.
"""

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

ENSEMBLED = str(Path(sys.executable).with_name("ensembled"))
CHATTY = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None)

    def chat(when):
        print("python", when)
        libc.puts(f"puts {when}".encode())
        os.write(1, f"write {when}\\n".encode())
"""
AT_IMPORT = """
    from chatty import chat

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name in {"numpy", "msgspec", "highspy", "zmq", "onnxruntime", "server.cli.main"}:
                chat("at import of " + name)

    sys.meta_path.insert(0, Finder())
"""
RULE = """
    import os, signal
    from chatty import chat
    chat("at import of the rule")

    def first(predictions, weights, members):
        chat("in the rule")
        if predictions.max() > 600:
            os.kill(os.getpid(), signal.SIGKILL)
        return predictions[0]

    def floods(predictions, weights, members):
        for _ in range(2000):
            chat("again")
        return predictions[0]
"""
WAYS = ("python", "puts", "write")


@pytest.fixture
def noisy(tmp_path):
    """A directory whose modules print; to be put on the path of a process."""
    for name, code in (
        ("chatty", CHATTY),
        ("sitecustomize", "import sys\n" + textwrap.dedent(AT_IMPORT)),
        ("house_rules", RULE),
    ):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    return tmp_path


def environment(noisy):
    return {**os.environ, "PYTHONPATH": str(noisy)}


def run(noisy, *arguments, **options):
    return subprocess.run(
        [ENSEMBLED, *map(str, arguments)],
        env=environment(noisy),
        capture_output=True,
        timeout=100,
        check=False,
        **options,
    )


def files(directory):
    devices = [{"name": "g", "kind": "V100", "memory_bytes": 10**10}]
    (directory / "devices.json").write_text(json.dumps({"devices": devices}))
    profile = {"member": "a", "device_kind": "V100", "batch": 1, "latency_s": 0.01}
    profile["memory_bytes"] = 10**8
    (directory / "profiles.json").write_text(json.dumps({"profiles": [profile]}))
    return "--devices", directory / "devices.json", "--profiles", directory / "profiles.json"


def test_json_is_json(noisy):
    done = run(noisy, "allocate", "--json", *files(noisy))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["members"] == ["a"]
    for way in WAYS:
        assert f"{way} at import of numpy" in done.stderr.decode()
        assert f"{way} at import of server.cli.main" in done.stderr.decode()


def test_help_and_version_are_printed(noisy):
    shown = run(noisy, "--version")
    assert shown.stdout.startswith(b"ensembled ")
    assert shown.stdout.count(b"\n") == 1
    assert run(noisy, "serve", "--help").stdout.lstrip().startswith(b"Usage: ensembled serve")
    assert b"at import" not in run(noisy, "--help").stdout


@pytest.mark.parametrize("log_format", ["human", "json"])
def test_the_first_line_is_ready_and_the_log_says_who_printed_what(serve, noisy, log_format):
    config = configuration(
        {"a": fake(1), "b": fake(2)},
        ensemble={"rule": "house_rules:first"},
        log_format=log_format,
    )
    (noisy / "allocation.json").write_text(json.dumps(config.pop("allocation", None)))
    path = noisy / "chatty.yaml"
    path.write_text(json.dumps(config))
    # Waiting for it to be ready, the fixture reads the first line of stdout.
    server = serve(path, PYTHONPATH=str(noisy))
    assert server.predict("all", [[1, 2]]).status == 200
    told = [
        f"{source} printed: {way} {when}"
        for way in WAYS
        for source, when in (
            ("combiner", "in the rule"),
            ("combiner", "at import of the rule"),
            ("combiner", "at import of zmq"),
            ("worker cpu:0", "at import of zmq"),
            ("front-end", "at import of zmq"),
            ("trial of the rule house_rules:first", "at import of the rule"),
        )
    ]
    wait_for(lambda: all(line in server.stderr for line in told), "all that was printed", 10)
    server.exits_with = (0,)
    assert server.stop() == 0
    assert server._lines.get(timeout=10) == "", "nothing follows the ready line"
    if log_format == "json":  # but for what came before there was a log
        lines = server.stderr.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("{"))
        assert all(json.loads(line)["message"] for line in lines[first:])


def test_what_a_process_printed_before_it_was_killed_is_logged(serve, noisy):
    config = configuration({"a": fake(1)}, ensemble={"rule": "house_rules:first"})
    path = noisy / "killed.yaml"
    path.write_text(json.dumps(config))
    server = serve(path, PYTHONPATH=str(noisy))
    server.predict("all", [[700, 2]], timeout=1_000_000)
    text = server.stderr
    for way in WAYS:
        assert f"combiner printed: {way} in the rule" in text
    assert "combiner died" in text


def test_a_flood_is_cut_short(serve, noisy):
    config = configuration({"a": fake(1)}, ensemble={"rule": "house_rules:floods"})
    path = noisy / "flood.yaml"
    path.write_text(json.dumps(config))
    server = serve(path, PYTHONPATH=str(noisy))
    assert server.predict("all", [[1, 2]]).status == 200
    assert server.stop() == 0
    assert 1 <= server.stderr.count("combiner printed: ") <= 200


@pytest.mark.parametrize(
    "redirect", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-", "1>/dev/null 2>&1"]
)
def test_streams_that_are_closed_harm_nobody(noisy, redirect):
    config = noisy / "config.yaml"
    config.write_text(json.dumps(configuration({"a": fake(1)})))
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" check "$1" {redirect}', ENSEMBLED, str(config)],
        env=environment(noisy), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    if "1>" not in redirect:
        assert b"the configuration is valid" in done.stdout
        assert b"at import" not in done.stdout


def test_a_reader_that_goes_ends_the_command_quietly(noisy):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [ENSEMBLED, "allocate", "--json", *map(str, files(noisy))],
        stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == 1
    assert b"Error" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_terminal_is_seen_where_stdout_is_one(noisy):
    """Tables fit the terminal as far as they can, also if stderr goes elsewhere."""
    whole = width(run(noisy, "allocate", *files(noisy)).stdout)
    parent, terminal = pty.openpty()
    subprocess.run(["stty", "cols", str(whole - 5)], stdin=terminal, check=True)
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run(
        [ENSEMBLED, "allocate", *map(str, files(noisy))],
        stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.DEVNULL,
        env=variables, timeout=60, check=True,
    )  # fmt: skip
    os.close(terminal)
    text = b""
    try:
        while data := os.read(parent, 4096):
            text += data
    except OSError:  # the other end is closed, and all is read
        pass
    os.close(parent)
    assert width(text) == whole - 5


def width(table):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", table.decode())
    return max(len(line) for line in plain.splitlines() if "│" in line)
