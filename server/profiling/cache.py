"""Keeps what was measured, in files named by all that it depends on.

Runs in the process that profiles. Pairs flow in, the fingerprints of what their measurements
depend on flow out; under these, what is known goes to the cache directory and comes back.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from allocator.host import cpu_model
from server.profiling.known import Known
from server.profiling.pairs import Pair
from workers.runtime.cache import cache_part, write_atomically

__all__ = ["fingerprints", "recall", "remember"]

#: Part of every fingerprint: raise it when what is measured, or how, changes.
_REVISION = 2


def fingerprints(pairs: Iterable[Pair]) -> dict[tuple[str, str], str]:
    """Return what stands for all that the measurements of each pair depend on.

    Those of pairs that would be measured alike are equal. A pair of which nothing is to be
    measured, or whose model can't be read, has none.

    Args:
        pairs: the pairs.
    """
    content = cache(_content)  # each file is read once, whatever it is used for
    found: dict[tuple[str, str], str] = {}
    for pair in pairs:
        if pair.instance is not None:
            with suppress(OSError):
                digests = content(Path(pair.instance.source.path))
                found[pair.key] = _fingerprint(pair, digests)
    return found


def recall(pair: Pair, fingerprint: str | None) -> Known:
    """Return what the cache knows, nothing if its file is missing or damaged.

    Args:
        pair: what it should be about.
        fingerprint: of the pair, None if it has none.
    """
    if fingerprint is None:
        return Known()
    try:
        known = msgspec.json.decode(_file(fingerprint).read_bytes(), type=Known)
    except (OSError, msgspec.MsgspecError):
        return Known()
    batches = tuple(one.batch for one in known.measured)
    plausible = (
        batches == pair.batches[: len(batches)]
        and (known.ended or len(batches) < len(pair.batches))
        and all(one.latency_s > 0 and one.memory_bytes >= 0 for one in known.measured)
        and known.colocation >= 1
        and all(size in batches and error >= 0 for size, error in known.noise.items())
    )
    return known if plausible else Known()


def remember(known: Known, fingerprint: str) -> None:
    """Keep what is known; if that does not work, it is lost.

    Args:
        known: what is known.
        fingerprint: of the pair it is about.
    """
    with suppress(OSError):  # a full disk costs the next start its time, no more
        write_atomically(_file(fingerprint), msgspec.json.encode(known))


def _file(fingerprint: str) -> Path:
    return cache_part("profiles") / f"{fingerprint}.json"


def _fingerprint(pair: Pair, content: list[str]) -> str:
    assert pair.arena is not None
    assert pair.instance is not None
    device, source = pair.devices[0], pair.instance.source
    runtime = ("torch",) if source.backend == "torch" else ("onnxruntime", "onnxruntime-gpu")
    key = msgspec.json.encode(
        [
            _REVISION,
            content,
            source.backend,
            source.output_name,
            source.declared,
            pair.arena.views,
            pair.instance.bindings,
            pair.instance.meaning,
            device.kind,
            len(device.cores),
            "" if device.is_cuda else cpu_model() or platform.processor() or platform.machine(),
            [_version(distribution) for distribution in (*runtime, "numpy")],
            [*pair.batches, *([pair.too_big] if pair.too_big else [])],
        ]
    )
    return hashlib.sha256(key).hexdigest()


def _content(path: Path) -> list[str]:
    """The hashes of a model's file and of its external data, which lies beside it."""
    beside = sorted(one for one in path.parent.glob("*data") if one.name.startswith(path.stem))
    digests = []
    for part in (path, *beside):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
