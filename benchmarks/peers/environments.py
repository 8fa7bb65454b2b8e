"""The peers' virtual environments, one for each: made when it is needed, kept until it changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.peers.registry import Peer

__all__ = ["REQUIREMENTS", "python_for", "version_of"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_ENVIRONMENTS = _ROOT / ".venv-peers"
_STAMP = ".installed"
_INSTALL_S = 900

#: Where a peer's lock is, by its name.
REQUIREMENTS = str(_ROOT / "configs/locks/peers/{name}.txt")
_LOCKED = ("--require-hashes", "--no-deps", "--only-binary", ":all:")


def python_for(peer: Peer) -> Path:
    """Return the interpreter that runs a peer; make its environment if it is not there as listed.

    Raises:
        BenchmarkError: if it can't be installed.
    """
    if peer.package is None:
        return Path(sys.executable)
    requirements = Path(REQUIREMENTS.format(name=peer.name))
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    home = _ENVIRONMENTS / peer.name
    python, stamp = home / "bin/python", home / _STAMP
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return python
    print(f"{peer.name}: making its environment ...", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    _run([str(python), "-m", "pip", "install", "--quiet", *_LOCKED, "-r", str(requirements)])
    stamp.write_text(wanted, encoding="ascii")
    return python


def _run(command: list[str]) -> None:
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"can't be installed; {error}") from None
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        raise BenchmarkError(f"can't be installed; {lines[-1] if lines else 'pip says nothing'}")


def version_of(peer: Peer, python: Path) -> str:
    """Return the version that is installed of a peer."""
    package = peer.package or peer.name
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    ended = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return ended.stdout.strip()
