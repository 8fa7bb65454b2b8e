"""Runs the code blocks of a page, in order, as a reader would.

What a block's language means:

- ``python``, ``yaml`` with a ``title``: a file of this name is written;
- ``python`` without one: the block runs as a script;
- ``sh``: the commands run; ``ensembled serve`` and ``make serve`` stay in the background;
- ``console``: the lines after ``$`` run, and their output must be like the output that is shown;
- anything else is no code.

Output is like what is shown if it is JSON with the same keys, or if each shown line occurs in this
order, numbers and spacing aside; a line ``...`` stands for any lines, as do those that follow when
the output is a table.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tests.support.serving import START_S, STOP_S, wait_for

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HTTP = "127.0.0.1:8000"
_GRPC = "127.0.0.1:8001"
_SERVES = re.compile(r"(ensembled|make) serve\b")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        line: where it begins, from 1.
        title: the name of its file, "" if it has none.
    """

    line: int
    language: str
    title: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page that have a language."""
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start()) + 1, found[1], found[2] or "", found[3])
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """Somebody who does what a page says, in a directory and with ports of their own."""

    def __init__(self, directory: Path, *, replace: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        http, grpc = _free_ports()
        self.http = f"127.0.0.1:{http}"
        self._replace = {_HTTP: self.http, _GRPC: f"127.0.0.1:{grpc}", **(replace or {})}
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ENSEMBLED_SERVER__HTTP_PORT": str(http),
            "ENSEMBLED_SERVER__GRPC_PORT": str(grpc),
            "ENSEMBLED_URL": f"http://{self.http}",
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        text = block.text
        for old, new in self._replace.items():
            text = text.replace(old, new)
        if block.title:
            (self.directory / block.title).write_text(text)
        elif block.language == "python":
            self.run(f"{sys.executable} - <<'END'\n{text}END\n")
        elif block.language == "sh":
            for command in _commands(text):
                self._do(command)
        elif block.language == "console":
            for command, shown in _dialogue(text):
                check_output(self.run(command), shown)

    def run(self, command: str) -> str:
        """Run a command of the shell, which must succeed.

        Returns:
            What it prints on stdout.
        """
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def _do(self, command: str) -> None:
        if command.startswith("pip install"):
            check_installation(command)
        elif _SERVES.match(command):
            self.serve(command)
        elif command.startswith("make "):  # which may take long, as `make test` does
            target = command.split()[1]
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        else:
            self.run(command)

    def serve(self, command: str) -> None:
        """Start a server and wait until it is ready; it is stopped at the end."""
        log = self._stack.enter_context((self.directory / "serve.log").open("w+"))
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=ROOT if command.startswith("make") else self.directory,
            env=self._environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._stack.callback(_stop, process)

        def is_ready() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            try:
                return httpx.get(f"http://{self.http}/v2/health/ready").is_success
            except httpx.TransportError:
                return False

        wait_for(is_ready, "the server of the page is ready", START_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    shell_or_server = psutil.Process(process.pid)
    is_make = shell_or_server.name() == "make"
    (shell_or_server.children()[0] if is_make else shell_or_server).terminate()
    try:
        assert process.wait(STOP_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        http, grpc = (one.getsockname()[1] for one in sockets)
        return http, grpc


def _commands(text: str) -> Iterator[str]:
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        command = re.sub(r"\s+#\s.*", "", line).strip()
        if command and not command.startswith("#"):
            yield command


def _dialogue(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        last = next(i for i, line in enumerate(lines) if not line.endswith("\\"))
        command = "\n".join(lines[: last + 1])
        yield command, "\n".join(lines[last + 1 :])


def check_output(output: str, shown: str) -> None:
    """Compare what a command printed with what the page shows."""
    if not shown.strip():
        return
    try:
        document = json.loads(shown)
    except ValueError:
        _check_lines(output, shown)
    else:
        assert _keys(json.loads(output)) == _keys(document), output


def _check_lines(output: str, shown: str) -> None:
    printed = iter([_plain(line) for line in output.splitlines()])
    for line in shown.splitlines():
        if line.strip() != "...":
            assert _plain(line) in printed, f"not printed: {line!r}\n{output}"


def _plain(line: str) -> str:
    without_numbers = re.sub(r"\d[\d,.]*", "0", line)
    return re.sub(r"[\s█░━]+", " ", without_numbers).strip()


def _keys(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _keys(value) for key, value in document.items()}
    if isinstance(document, list) and document:
        return [_keys(document[0])]
    return type(document).__name__


def check_installation(command: str) -> None:
    """Check that the extras exist that a page installs of our own distributions."""
    for words in re.findall(r"'([^']+)'|(?<=\s)([\w./]\S*)", command.removeprefix("pip install")):
        wanted = words[0] or words[1]
        path, _, extras = wanted.rstrip("]").partition("[")
        if "/" in path or path == ".":
            project = ROOT / ("clients" if path.rstrip("/").endswith("clients") else "")
            known = tomllib.loads((project / "pyproject.toml").read_text())["project"]
            missing = set(filter(None, extras.split(","))) - set(known["optional-dependencies"])
            assert not missing, f"{command}: no extra {missing}"
