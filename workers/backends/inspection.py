"""Finds out the signatures of models, in child processes that may crash and pay for the runtimes.

The supervisor (and `ensembled check`) calls `inspect_models`; it sends every child a JSON list of
`ModelSource` on stdin and gets a JSON list of findings, in order, through a descriptor. What was
found before is taken from the cache, without a process.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from workers import backends
from workers.backends.base import one_line, weights_bytes
from workers.runtime.cache import cache_part, write_atomically
from workers.runtime.child_process import ask_child
from workers.runtime.spec import DeviceSpec, ModelSignature, ModelSource

__all__ = ["Found", "InspectionError", "Refused", "inspect_models", "main"]

_TIMEOUT_S = 300.0

# Part of every cache key: raise it when what inspection checks or finds changes.
_REVISION = 1


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The model can be served."""

    signature: ModelSignature


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model can't be served; `error` is one line that names the member and the file."""

    error: str


Finding = Found | Refused


class InspectionError(Exception):
    """Some models can't be served.

    Attributes:
        messages: one line for each of them.
    """

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def inspect_models(
    sources: Sequence[ModelSource], *, timeout_s: float = _TIMEOUT_S
) -> list[ModelSignature]:
    """Return the signature of every model, in order, having run each of them once on the CPU.

    Args:
        sources: the models; those not in the cache are inspected in parallel, a process each.
        timeout_s: how long one model may take to load and to answer.

    Raises:
        InspectionError: if any of them can't be served, with all the reasons at once.
    """
    findings: list[Finding | None] = [_known(source) for source in sources]
    pending = [index for index, finding in enumerate(findings) if finding is None]
    if pending:
        with ThreadPoolExecutor(min(len(pending), os.cpu_count() or 1)) as pool:
            children = pool.map(lambda index: _ask_child(sources[index], timeout_s), pending)
            for index, finding in zip(pending, children, strict=True):
                findings[index] = finding
                if isinstance(finding, Found):
                    _remember(sources[index], finding.signature)
    errors = [finding.error for finding in findings if isinstance(finding, Refused)]
    if errors:
        raise InspectionError(errors)
    return [finding.signature for finding in findings if isinstance(finding, Found)]


def main() -> None:
    """Inspect the models that stdin lists and write the findings: the child's part."""
    sources = msgspec.json.decode(sys.stdin.buffer.read(), type=list[ModelSource])
    findings = [_inspect(source) for source in sources]
    with os.fdopen(int(sys.argv[1]), "wb") as answer:
        answer.write(msgspec.json.encode(findings))


def _inspect(source: ModelSource) -> Finding:
    """Load a model on one core, which runs it once, and let it go."""
    device = DeviceSpec("cpu:0", "cpu", memory_bytes=0)
    try:
        model = backends.load(source, device)
    except backends.ModelError as refusal:
        return Refused(str(refusal))
    except Exception as failure:
        return Refused(f"member {source.member} ({source.path}): {one_line(failure)}")
    signature = model.signature
    model.close()
    return Found(signature)


def _known(source: ModelSource) -> Finding | None:
    """Return what can be told without a process: fakes, missing files and cached signatures."""
    if source.backend == "fake":
        return _inspect(source)
    try:
        cached = _cache_file(source).read_bytes()
        return Found(msgspec.json.decode(cached, type=ModelSignature))
    except (OSError, msgspec.DecodeError):
        return None


def _ask_child(source: ModelSource, timeout_s: float) -> Finding:
    """Inspect one model in a process of its own; its death or silence is a finding, too."""
    where = f"member {source.member} ({source.path})"
    try:
        child = ask_child(
            f"inspection of {source.member}",
            "workers.backends.inspection",
            msgspec.json.encode([source]),
            timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Refused(f"{where}: did not load and answer within {timeout_s:g} s")
    if child.code < 0:
        died_of = signal.Signals(-child.code).name
        return Refused(f"{where}: the process that loaded it died of {died_of}")
    try:
        (finding,) = msgspec.json.decode(child.answer, type=list[Finding])
    except (msgspec.DecodeError, ValueError):
        last = child.last_line or "no message"
        return Refused(f"{where}: the process that loaded it exited {child.code}: {last}")
    return finding


def _cache_file(source: ModelSource) -> Path:
    """Return where a model's signature is kept: named by all that it depends on.

    Raises:
        OSError: if the model file is missing or there is no cache.
    """
    path = Path(source.path).absolute()
    runtime = ("torch",) if source.backend == "torch" else ("onnxruntime", "onnxruntime-gpu")
    key = msgspec.json.encode(
        [
            _REVISION,
            str(path),
            path.stat().st_mtime_ns,
            weights_bytes(path),
            source.backend,
            source.output_name,
            source.declared,
            [_version(distribution) for distribution in runtime],
        ]
    )
    return cache_part("signatures") / f"{hashlib.sha256(key).hexdigest()}.json"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _remember(source: ModelSource, signature: ModelSignature) -> None:
    try:
        write_atomically(_cache_file(source), msgspec.json.encode(signature))
    except OSError:
        # A full disk or a read-only home costs the next start a second, no more.
        return


if __name__ == "__main__":
    main()
