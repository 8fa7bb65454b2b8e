"""Makes the image without a container engine, and tries it as an engine would run it.

    make image-check IMAGE_CHECK='--work /var/tmp/image'     (as root; takes some minutes)

`building.py` makes it. Then its command runs as its user in namespaces of its own (processes,
mounts, network), without capabilities and on a read-only root, which is what
`docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges` does. It must
become healthy, answer a question, reap orphans, hear SIGHUP, and end with 0 on SIGTERM.

What that can't show: that an engine takes the file, and the base image with its own Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.container.building import Image, Replay

_UID = 10001
_START_S = 120.0
_STOP_S = 40.0
_CONFIG = """
ensembles: {both: {members: [one, two]}}
members:
  one: {model: fake, fake: {inputs: {x: [2]}, outputs: 2, add: 1}}
  two: {model: fake, fake: {inputs: {x: [2]}, outputs: 2, add: 3}}
"""
_QUESTION = """
import json, urllib.request
tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [10, 20]}
body = json.dumps({"inputs": [tensor]}).encode()
url = "http://127.0.0.1:8000/v2/models/both/infer"
print(json.load(urllib.request.urlopen(url, body, timeout=10))["outputs"][0]["data"])
"""
_WRITES = """
import os
def tries(path):
    try:
        open(path + "/file", "w").close()
    except OSError as error:
        return error.strerror
    return "written"
for path in ("/app", "/opt/venv", "/tmp", os.environ["ENSEMBLED_CACHE"]):
    print(path, tries(path))
"""
_TITLES = """
import psutil
for process in psutil.process_iter():
    if process.pid == 1 or process.ppid() == 1 or (process.parent() or process).ppid() == 1:
        print("  ", process.pid, process.uids().real, " ".join(process.cmdline()).strip())
"""


class Container:
    """The image's command, running on a read-only root in namespaces of its own."""

    def __init__(self, image: Image, work: Path) -> None:
        self._image = image
        root = image.root
        cache = work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(mode=0o700)
        os.chown(cache, _UID, _UID)
        config = work / "config.yaml"
        config.write_text(_CONFIG)
        config.chmod(0o644)
        (root / "app/config.yaml").touch()
        script = f"""
            mount --make-rprivate /
            mount --bind {root} {root}
            mount --bind {config} {root}/app/config.yaml
            mount -t proc proc {root}/proc
            mount --rbind /dev {root}/dev
            mount -o remount,bind,ro {root}
            mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
            mount --bind {cache} {root}{image.environment["ENSEMBLED_CACHE"]}
            ip link set lo up
            exec chroot {root} /usr/bin/env -i "$@"
        """
        entry = image.last["ENTRYPOINT"].words + image.last["CMD"].words
        spaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork"]
        command = ["unshare", *spaces, "/bin/sh", "-ec", script, "sh", *self._as_user(*entry)]
        self._config = config
        self._log = work / "log.txt"
        with self._log.open("wb") as log:
            self._unshare = subprocess.Popen(command, stdout=log, stderr=log)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        while not (found := children.read_text().split()):
            assert self._unshare.poll() is None, "it has ended"
        #: The process that is number 1 within.
        self.first = int(found[0])

    def _as_user(self, *command: str) -> list[str]:
        environment = {**self._image.environment, "ENSEMBLED_CONFIG": "config.yaml"}
        variables = [f"{name}={text}" for name, text in environment.items()]
        user = ["--reuid", str(_UID), "--regid", str(_UID), "--clear-groups", "--no-new-privs"]
        drop = ["setpriv", *user, "--bounding-set=-all", "--inh-caps=-all", "--"]
        go = ["/bin/sh", "-c", f'cd {self._image.directory} && exec "$@"', "sh"]
        return [*variables, *drop, *go, *command]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command within, as its user; `docker exec`."""
        enter = ["nsenter", "--target", str(self.first), "--all", "--root", "--"]
        return subprocess.run(
            [*enter, "/usr/bin/env", "-i", *self._as_user(*command)],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def wait_healthy(self) -> None:
        """Wait until the image's own health check says so."""
        command = json.loads(self._image.last["HEALTHCHECK"].text.removeprefix("CMD "))
        deadline = time.monotonic() + _START_S
        while (result := self.execute(*command)).returncode != 0:
            assert self._unshare.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, result.stderr
        print(f"   healthy: {result.stdout.strip()}")

    def wait_reaped(self) -> None:
        """Leave processes whose parents have died, and wait until somebody has reaped them."""
        self.execute("/bin/sh", "-c", "(true &) ; (true &)")
        code = "import psutil; print(*[p for p in psutil.process_iter() if p.status() == 'zombie'])"
        deadline = time.monotonic() + _STOP_S
        while zombies := self.execute("python", "-c", code).stdout.strip():
            assert time.monotonic() < deadline, zombies

    def wait_reload(self) -> None:
        """Change the configuration, tell process 1, and wait for what the server says of it."""
        self._config.write_text(f"{_CONFIG}server: {{drain_s: 20}}")
        os.kill(self.first, signal.SIGHUP)
        deadline = time.monotonic() + _STOP_S
        while "server.drain_s has changed" not in self._log.read_text():
            assert self._unshare.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()

    def stop(self) -> int:
        """Tell process 1 to stop; its exit code."""
        os.kill(self.first, signal.SIGTERM)
        return self._unshare.wait(_STOP_S)

    def kill(self) -> None:
        """End it in any case: all processes within end with the first."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        self._unshare.wait()


def check(image: Image, work: Path) -> None:
    """Run an image, and assert what it must do."""
    print(f"== running {image.root.name}", flush=True)
    assert image.last["USER"].text == f"{_UID}:{_UID}"
    container = Container(image, work)
    try:
        container.wait_healthy()
        titles = container.execute("python", "-c", _TITLES).stdout
        print(titles, end="")
        assert titles.splitlines()[0].endswith("tini -- ensembled serve"), titles
        answer = container.execute("python", "-c", _QUESTION)
        print(f"   answer to [10, 20]: {answer.stdout.strip()}")
        assert answer.stdout.strip() == "[12.0, 22.0]", answer.stderr
        writes = container.execute("python", "-c", _WRITES).stdout
        print("".join(f"   writing to {line}\n" for line in writes.splitlines()), end="")
        words = [line.split(maxsplit=1)[1] for line in writes.splitlines()]
        assert words == ["Read-only file system"] * 2 + ["written"] * 2
        container.wait_reaped()
        print("   orphans are reaped")
        container.wait_reload()
        print("   SIGHUP is heard")
        code = container.stop()
        print(f"   exit code after SIGTERM: {code}")
        assert code == 0
    finally:
        container.kill()


def main() -> None:
    """Make a target of the Dockerfile and try it."""
    parser = argparse.ArgumentParser(description="Make the image without an engine and try it.")
    parser.add_argument("--work", type=Path, required=True, help="a directory with some GB of room")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="of this machine, for RUN: what pip needs here, such as its settings",
    )
    options = parser.parse_args()
    for tool in ("debootstrap", "chroot", "unshare", "nsenter", "setpriv", "ip"):
        if shutil.which(tool) is None:
            sys.exit(f"nothing is replayed: there is no {tool}")
    if os.geteuid() != 0:
        sys.exit("nothing is replayed: only root may change roots")
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    arguments = dict(argument.split("=", 1) for argument in options.build_arg)
    check(Replay(work, arguments, options.bind).make("cpu"), work)


if __name__ == "__main__":
    main()
