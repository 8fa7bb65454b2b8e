"""The real server for process tests: started as users do, watched, stopped, checked for leaks.

`serve` (per test) starts `ensembled serve` on a configuration and gives a `Server`. Waits have a
deadline; nothing is synchronised by sleeping. At the end of a test every server is stopped by
SIGTERM, must exit with 0, and must leave nothing behind: no child, no socket, no shared memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

START_S = 100.0
STOP_S = 15.0
_TITLE = "ensembled"


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """Poll until `condition()` is true and return what it gave."""
    deadline = time.monotonic() + deadline_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return result


def title(process: psutil.Process) -> str:
    """What the process calls itself, "" if it is gone."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


class Answer:
    """A response to an infer request."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        length = response.headers.get("inference-header-content-length")
        content = response.content
        self.json = json.loads(content if length is None else content[: int(length)])
        self.raw = b"" if length is None else content[int(length) :]

    @property
    def values(self) -> np.ndarray:
        """The combined output, [rows, ...]."""
        assert self.status == 200, self.json
        (output,) = self.json["outputs"]
        dtype = {"FP32": np.float32, "FP64": np.float64}[output["datatype"]]
        flat = output.get("data") or np.frombuffer(self.raw, dtype)
        return np.array(flat, dtype).reshape(output["shape"])

    @property
    def members(self) -> list[str]:
        return self.json["parameters"]["members"].split(",")

    @property
    def error(self) -> str:
        assert self.status >= 400
        assert set(self.json) == {"error"}, self.json
        return self.json["error"]


class Client:
    """A connection pool of one thread."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60.0, trust_env=False)

    def predict(
        self,
        model: str,
        x: np.ndarray,
        *,
        binary: bool = True,
        name: str = "x",
        **parameters: Any,
    ) -> Answer:
        """Ask a model about rows of one FP32 tensor; binary or JSON both ways."""
        x = np.ascontiguousarray(x, np.float32)
        tensor: dict[str, Any] = {"name": name, "shape": x.shape, "datatype": "FP32"}
        document = {"inputs": [tensor], "parameters": parameters}
        headers = {}
        if binary:
            tensor["parameters"] = {"binary_data_size": x.nbytes}
            parameters["binary_data_output"] = True
            body = json.dumps(document).encode()
            headers["Inference-Header-Content-Length"] = str(len(body))
            body += x.tobytes()
        else:
            tensor["data"] = x.ravel().tolist()
            body = json.dumps(document).encode()
        return self.post(f"/v2/models/{model}/infer", body, headers)

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        return Answer(self.http.post(path, content=body, headers=headers or {}))

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def close(self) -> None:
        self.http.close()


def ask(server: Server, model: str, x: Any, **options: Any) -> Answer:
    """Ask a model on a connection of its own."""
    client = Client(server.url)
    try:
        return client.predict(model, np.asarray(x, np.float32), **options)
    finally:
        client.close()


def post_outputs(
    server: Server, model: str, names: Sequence[str], x: np.ndarray, **parameters: Any
) -> Answer:
    """Ask a model for these outputs in JSON."""
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    document = {
        "inputs": [tensor],
        "outputs": [{"name": name} for name in names],
        "parameters": parameters,
    }
    return server.client.post(f"/v2/models/{model}/infer", json.dumps(document).encode())


def ask_outputs(
    server: Server, model: str, names: Sequence[str], x: np.ndarray, **parameters: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The parameters of the answer to `post_outputs`, and its arrays by name.

    All are floats, so that what is no number in JSON (null) is NaN.
    """
    answer = post_outputs(server, model, names, x, **parameters)
    assert answer.status == 200, answer.error
    arrays = {
        output["name"]: np.array(output["data"], float).reshape(output["shape"])
        for output in answer.json["outputs"]
    }
    assert list(arrays) == list(names) or not names
    return answer.json["parameters"], arrays


class Server:
    """A running server.

    Attributes:
        url: of its HTTP API.
        grpc: address of its gRPC API, HOST:PORT.
        process: the supervisor.
        temporary: where its temporary files are.
        client: for the test's own thread.
        exits_with: what the exit status may be in the end.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.exits_with: tuple[int, ...] = (0,)
        self._known: dict[int, psutil.Process] = {}
        with log.open("wb") as stderr:
            self._popen = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        self.process = psutil.Process(self._popen.pid)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line)
        self._lines.put("")

    def wait_ready(self) -> None:
        """Wait for the line that says that the server takes traffic."""
        try:
            line = self._lines.get(timeout=START_S)
        except queue.Empty:
            there = [title(child) for child in self.children()]
            raise AssertionError(
                f"not ready within {START_S} s: {there}; stderr: {self.stderr}"
            ) from None
        assert line.startswith("ready http="), f"{line!r}; stderr: {self.stderr}"
        addresses = dict(part.split("=") for part in line.split()[1:])
        address, self.grpc = addresses["http"], addresses["grpc"]
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.url = f"http://{address}"
        self.client = Client(self.url)

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    @property
    def stderr(self) -> str:
        return self.log.read_text()

    # -- processes ----------------------------------------------------------------------------

    def children(self) -> list[psutil.Process]:
        """The living children; all that were ever seen are checked in the end."""
        try:
            children = self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._known.update((child.pid, child) for child in children)
        return [child for child in children if title(child)]

    def child(self, role: str) -> psutil.Process:
        """The process that plays a role now, e.g. "combiner" or "worker cpu:0"; waits for it."""
        return wait_for(
            lambda: next(
                (child for child in self.children() if title(child) == f"{_TITLE} {role}"), None
            ),
            f"a process {role}",
        )

    def kill(self, role: str, number: int = signal.SIGKILL) -> psutil.Process:
        """Send a signal to the process that plays a role; a killed one is waited for."""
        child = self.child(role)
        child.send_signal(number)
        if number == signal.SIGKILL:
            wait_for(lambda: not title(child), f"the end of {role}")
        return child

    # -- requests -----------------------------------------------------------------------------

    def predict(self, model: str, x: Any, **options: Any) -> Answer:
        return self.client.predict(model, np.asarray(x, np.float32), **options)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    # -- the end ------------------------------------------------------------------------------

    def wait_end(self, deadline_s: float = STOP_S) -> int:
        """Wait for the supervisor's end; its exit status."""
        return self._popen.wait(deadline_s)

    def stop(self) -> int:
        """Tell it to stop, and wait."""
        self.children()
        self._popen.send_signal(signal.SIGTERM)
        return self.wait_end()

    def close(self) -> None:
        """Stop it, and check its exit status and that no process is left."""
        if hasattr(self, "client"):
            self.client.close()
        try:
            if self._popen.poll() is None:
                self.stop()
            assert self._popen.returncode in self.exits_with, self.stderr
            wait_for(lambda: not any(map(title, self._known.values())), "the children's end", 10)
        finally:
            self._popen.kill()
            self._popen.wait()
            for child in self._known.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            assert self._popen.stdout is not None
            self._popen.stdout.close()


@contextmanager
def running(
    config: dict[str, Any] | Path,
    directory: Path,
    *,
    arguments: tuple[str, ...] = (),
    ready: bool = True,
    redirect: str = "",
    **environment: str,
) -> Iterator[Server]:
    """A server, and the check that it leaves nothing behind.

    Args:
        config: the configuration, or the path of its file.
        directory: where files of this server go.
        arguments: more of the command line.
        ready: whether to wait until it takes traffic.
        redirect: the shell's words for where its standard streams go instead.
        environment: more variables.
    """
    if isinstance(config, dict):
        if isinstance(config.get("allocation"), dict):
            (directory / "allocation.json").write_text(json.dumps(config["allocation"]))
            config = {**config, "allocation": "allocation.json"}
        path = directory / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        config = path
    # Short, because a socket's path must be.
    temporary = Path(tempfile.mkdtemp(prefix="et-"))
    before = set(os.listdir("/dev/shm"))
    console_script = str(Path(sys.executable).with_name("ensembled"))
    command = [console_script, "serve", str(config), "--http-port", "0", "--grpc-port", "0"]
    if redirect:
        command = ["sh", "-c", f'exec "$0" "$@" {redirect}', *command]
    root = str(Path(__file__).parents[2])
    server = Server(
        [*command, *arguments],
        {
            **os.environ,
            "PYTHONPATH": root,
            "TMPDIR": str(temporary),
            "ENSEMBLED_SERVER__HISTORY": str(temporary / "history.sqlite"),
            **environment,
        },
        directory / "stderr.txt",
    )
    server.temporary = temporary
    try:
        if ready:
            server.wait_ready()
        yield server
        server.close()
        left = list(temporary.glob("ensembled*"))  # a runtime may leave a file of its own
        assert left == [] or server.exits_with == (-signal.SIGKILL,)
        wait_for(lambda: set(os.listdir("/dev/shm")) <= before, "nothing left in /dev/shm", 5)
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            server.close()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server: `serve(config, **options)`, see `running`."""
    with ExitStack() as stack:

        def start(config: dict[str, Any] | Path, **options: Any) -> Server:
            directory = tmp_path / f"server-{len(os.listdir(tmp_path))}"
            directory.mkdir()
            return stack.enter_context(running(config, directory, **options))

        yield start


def canary(server: Server, model: str = "all", add: float = 3.0) -> None:
    """The server is right again, on every connection."""
    x = np.array([[41.0, 1.0], [42.0, 2.0]], np.float32)
    wait_for(server.is_ready, "readiness")
    answer = server.predict(model, x)
    assert answer.status == 200, answer.json
    np.testing.assert_array_equal(answer.values, x + np.float32(add))


def post(server: Server, model: str, x: np.ndarray) -> socket.socket:
    """Send a request on a connection of its own, and return that without reading the answer."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    connection = socket.create_connection((server.host, server.port))
    connection.sendall(
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: t\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


# -- configurations ----------------------------------------------------------------------------


def devices(count: int) -> list[dict[str, Any]]:
    """So many CPU devices, a core each (fewer on a smaller machine)."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    return [{"name": f"cpu:{i}", "cores": [core]} for i, core in enumerate(cores)]


def with_absolute_recipes(path: Path) -> dict[str, Any]:
    """The document of a configuration file, fit to be written to another directory."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for member in document["members"].values():
        member["model"]["recipe"] = str(path.parent / member["model"]["recipe"])
    return document


def fake(add: float = 0.0, *, inputs: int = 2, outputs: Any = 2, **options: Any) -> dict[str, Any]:
    """A member that answers with its input plus `add`."""
    batch = {"batch_size": options.pop("batch_size")} if "batch_size" in options else {}
    shape = {"x": [inputs]}
    return {
        "model": "fake",
        "fake": {"inputs": shape, "outputs": outputs, "add": add, **options},
        **batch,
    }


def configuration(
    members: dict[str, Any],
    *,
    ensemble: dict[str, Any] | None = None,
    on: int = 1,
    where: dict[str, int] | None = None,
    **server: Any,
) -> dict[str, Any]:
    """An ensemble `all` of these members, on so many devices; `where` binds each to one of them."""
    config = {
        "members": members,
        "ensembles": {"all": {"members": list(members), **(ensemble or {})}},
        "devices": devices(on),
        "server": {"grpc_port": 0, **server},
    }
    if where is not None and len(config["devices"]) == on:
        batches = {name: member.get("batch_size", 8) for name, member in members.items()}
        config["allocation"] = {
            "members": list(members),
            "devices": [device["name"] for device in config["devices"]],
            "matrix": [
                [batch if where[name] == device else 0 for name, batch in batches.items()]
                for device in range(on)
            ],
        }
    return config


#: An arena of a few dozen rows at most: little more than what is left for alignment.
TINY = {"arena_bytes": (64 << 10) + 2000, "max_waiting_requests": 1}
