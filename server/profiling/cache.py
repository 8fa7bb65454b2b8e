"""Caches profile records in files named by a fingerprint of all that they depend on.

Runs in the process that profiles. Targets flow in, fingerprints flow out; records are stored under
these in the cache directory, and loaded from there.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from allocator.host import cpu_model
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey
from workers.backends.base import installed_version
from workers.backends.files import changed_file, model_files, runtimes
from workers.runtime.cache import cache_part, write_atomically

__all__ = ["content_digest", "fingerprints", "load_record", "store_record"]

#: Part of every fingerprint: raise it when what is measured, or how, changes.
_REVISION = 3


def fingerprints(targets: Iterable[ProfileTarget]) -> dict[TargetKey, str]:
    """Return a hash of everything that each target's measurements depend on.

    Targets with equal hashes need one measurement. A target of which nothing is to be measured, or
    whose model can't be read or is not on the disk as it was stamped, has none.
    """
    found: dict[TargetKey, str] = {}
    for target in targets:
        if target.instance is not None and not changed_file(target.instance.source.stamps):
            with suppress(OSError):
                content = [content_digest(path) for path in model_files(target.instance.source)]
                found[target.key] = _fingerprint(target, content)
    return found


def load_record(target: ProfileTarget, fingerprint: str | None) -> ProfileRecord:
    """Return a target's record, empty if its file is missing or damaged, or has no fingerprint."""
    if fingerprint is None:
        return ProfileRecord()
    try:
        record = msgspec.json.decode(_file(fingerprint).read_bytes(), type=ProfileRecord)
    except (OSError, msgspec.MsgspecError):
        return ProfileRecord()
    batches = tuple(one.batch for one in record.measured)
    is_plausible = (
        batches == tuple(batch for batch in target.batches if batch in batches)
        and (record.ended or len(batches) < len(target.batches))
        and all(one.latency_s > 0 and one.memory_bytes >= 0 for one in record.measured)
        and record.colocation >= 1
        and all(one.latency_s > 0 and one.batch in batches for one in record.lengths)
        and (record.energy is None or all(one > 0 for one in record.energy.joules.values()))
        and all(size in batches and error >= 0 for size, error in record.noise.items())
    )
    return record if is_plausible else ProfileRecord()


def store_record(record: ProfileRecord, fingerprint: str) -> None:
    """Store a record; a failure is ignored."""
    with suppress(OSError):  # with a full disk the next start measures again, no more
        write_atomically(_file(fingerprint), msgspec.json.encode(record))


def _file(fingerprint: str) -> Path:
    return cache_part("profiles") / f"{fingerprint}.json"


def _fingerprint(target: ProfileTarget, content: list[str]) -> str:
    assert target.arena is not None
    assert target.instance is not None
    device, source = target.devices[0], target.instance.source
    key = msgspec.json.encode(
        [
            _REVISION,
            content,
            source.backend,
            source.outputs,
            source.declared,
            source.python,
            target.arena.views,
            target.instance.bindings,
            target.instance.outputs,
            target.instance.augmentation,
            device.kind,
            len(device.cores),
            "" if device.is_cuda else cpu_model() or platform.processor() or platform.machine(),
            [installed_version(distribution) for distribution in (*runtimes(source), "numpy")],
            [*target.batches, *([target.batch_limit] if target.batch_limit else [])],
            *([[one.sizes for one in target.lengths]] if target.lengths else []),
        ]
    )
    return hashlib.sha256(key).hexdigest()


def content_digest(path: Path) -> str:
    """Return the SHA-256 of a file, which is read once as long as it does not change."""
    status = path.stat()
    return _content_digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)  # each file is read once, however many targets and plans use it
def _content_digest(path: Path, _nbytes: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
