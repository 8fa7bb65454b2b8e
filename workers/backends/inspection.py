"""Inspects models: finds their signatures in child processes, which may crash.

The supervisor (and `ensembled check`) calls `inspect_models`, and imports no runtime for it: every
child reads a `ModelSource` as JSON from stdin and writes its finding to a descriptor. Earlier
findings come from the cache, without a process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from workers import backends
from workers.backends.base import installed_version
from workers.backends.files import changed_file, model_files, runtimes
from workers.runtime.cache import cache_part, write_atomically
from workers.runtime.child_main import end_with
from workers.runtime.child_process import ChildError, run_child
from workers.runtime.spec import DeviceSpec, ModelSignature, ModelSource
from workers.runtime.texts import one_line

__all__ = ["Inspected", "InspectionError", "Rejected", "inspect_models", "main"]

_TIMEOUT_S = 300.0

# Part of every cache key: to be raised when the checks or the findings change.
_REVISION = 4


class Inspected(msgspec.Struct, frozen=True, tag="found"):
    """The model can be served."""

    signature: ModelSignature


class Rejected(msgspec.Struct, frozen=True, tag="refused"):
    """The model can't be served; `error` is one line that names the member and the file."""

    error: str


Finding = Inspected | Rejected


class InspectionError(Exception):
    """Some models can't be served; `messages` has one line for each of them."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


def inspect_models(
    sources: Sequence[ModelSource], *, timeout_s: float = _TIMEOUT_S
) -> list[ModelSignature]:
    """Return the signature of every model, in order, having run each of them once on the CPU.

    Those not in the cache are inspected in parallel, a process each; `timeout_s` is for one model.

    Raises:
        InspectionError: if any of them can't be served, with all reasons.
    """
    findings: list[Finding | None] = [_inspect_early(source) for source in sources]
    pending = [index for index, finding in enumerate(findings) if finding is None]
    if pending:
        with ThreadPoolExecutor(min(len(pending), os.cpu_count() or 1)) as pool:
            children = pool.map(lambda index: _inspect_in_child(sources[index], timeout_s), pending)
            for index, finding in zip(pending, children, strict=True):
                findings[index] = finding
                if isinstance(finding, Inspected):
                    _store(sources[index], finding.signature)
    errors = [finding.error for finding in findings if isinstance(finding, Rejected)]
    if errors:
        raise InspectionError(errors)
    return [finding.signature for finding in findings if isinstance(finding, Inspected)]


def main() -> None:
    """Inspect the model that stdin describes and write the finding: the child's part."""
    source = msgspec.json.decode(sys.stdin.buffer.read(), type=ModelSource)
    end_with(msgspec.json.encode(_inspect(source)))


def _inspect(source: ModelSource) -> Finding:
    """Load a model on one core, which runs it once, and release it."""
    device = DeviceSpec("cpu:0", "cpu", memory_bytes=0)
    try:
        model = backends.load(source, device)
    except backends.ModelError as refusal:
        return Rejected(str(refusal))
    except Exception as failure:
        return Rejected(f"member {source.member} ({source.origin}): {one_line(failure)}")
    work = None
    with contextlib.suppress(Exception):  # a model that runs is served, even if it can't be counted
        work = model.count_work()
    model.close()
    return Inspected(msgspec.structs.replace(model.signature, work=work))


def _inspect_early(source: ModelSource) -> Finding | None:
    """Return the finding on a fake, or a cached one; None if that takes a process."""
    if source.backend == "fake":
        return _inspect(source)
    if source.is_users_code or changed_file(source.stamps):
        return None
    try:
        cached = _cache_file(source).read_bytes()
        return Inspected(msgspec.json.decode(cached, type=ModelSignature))
    except (OSError, msgspec.DecodeError):
        return None


def _inspect_in_child(source: ModelSource, timeout_s: float) -> Finding:
    """Inspect one model in a child; a crash or a timeout is a finding, too."""
    where = f"member {source.member} ({source.origin})"
    try:
        answer = run_child(
            f"inspection of {source.member}",
            "workers.backends.inspection",
            msgspec.json.encode(source),
            timeout_s,
        )
    except ChildError as error:
        return Rejected(f"{where}: the process that loaded it {error}")
    finding: Finding = msgspec.json.decode(answer, type=Finding)
    return finding


def _cache_file(source: ModelSource) -> Path:
    """Return the cache file of a model's signature, named by all that it depends on.

    Raises:
        OSError: if a file of the model is missing.
    """
    files = [(str(path), path.stat()) for path in model_files(source)]
    key = msgspec.json.encode(
        [
            _REVISION,
            msgspec.structs.replace(source, member="", stamps=(), links=""),
            [(name, stat.st_mtime_ns, stat.st_size) for name, stat in files],
            [installed_version(distribution) for distribution in runtimes(source)],
        ]
    )
    return cache_part("signatures") / f"{hashlib.sha256(key).hexdigest()}.json"


def _store(source: ModelSource, signature: ModelSignature) -> None:
    if source.is_users_code or changed_file(source.stamps):
        return
    # A full disk or a read-only home costs the next start a second, no more.
    with contextlib.suppress(OSError):
        write_atomically(_cache_file(source), msgspec.json.encode(signature))


if __name__ == "__main__":
    main()
