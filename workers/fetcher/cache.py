"""Finds files of URLs in the cache, and has a child fetch those that are missing or may be old.

Runs in the supervisor before anything else starts. Sources flow in, paths of files flow out. The
cache has contents by their hash, what was found at which URL, and directories in which contents
have their names again. A pinned content that is here needs no network; another one is compared with
its origin at each start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from workers.backends.onnx_file import OnnxFileError, external_files
from workers.fetcher.protocol import Failed, Fetched, FetchError, Order, Progress, Report
from workers.fetcher.source import FileSource
from workers.runtime.cache import cache_part, write_atomically
from workers.runtime.child_process import OutputReader, describe_exit, start_child

__all__ = ["OnProgress", "fetch_files"]

_log = logging.getLogger(__name__)

#: Gets a location as it may be shown, the bytes that are here, and all of them or 0.
OnProgress = Callable[[str, int, int], None]


class _Known(msgspec.Struct, frozen=True):
    """What was at a URL when it was last fetched."""

    sha256: str
    version: str


def fetch_files(
    sources: Sequence[FileSource], on_progress: OnProgress
) -> dict[FileSource, Path | FetchError]:
    """Return the path of each source's file in the cache, or why there is none.

    A source without a pin is taken from the cache if its origin can't be asked; the log says so.
    The files in which an ONNX model keeps its weights are fetched with it.

    Raises:
        OSError: if files can't be kept in the cache.
    """
    cache = _Cache(cache_part("files"))
    found = _find(cache, sources, on_progress)
    beside = {
        source: cache.external_weights(source, content)
        for source, content in found.items()
        if isinstance(content, str)
    }
    wanted = [one for each in beside.values() if isinstance(each, dict) for one in each.values()]
    weights = _find(cache, wanted, on_progress)
    return {
        source: content
        if isinstance(content, FetchError)
        else _put_together(cache, source, content, beside[source], weights)
        for source, content in found.items()
    }


def _put_together(
    cache: _Cache,
    source: FileSource,
    content: str,
    beside: dict[str, FileSource] | FetchError,
    weights: Mapping[FileSource, str | FetchError],
) -> Path | FetchError:
    """Return the path of a file that has its weights beside it."""
    if isinstance(beside, FetchError):
        return beside
    files = {source.name: content}
    for name, one in beside.items():
        found = weights[one]
        if isinstance(found, FetchError):
            return FetchError(f"its weights {name}: {found}", is_wrong=found.is_wrong)
        files[name] = found
    return cache.directory_of(files) / source.name


def _find(
    cache: _Cache, sources: Sequence[FileSource], on_progress: OnProgress
) -> dict[FileSource, str | FetchError]:
    """Return the hash of each source's content, which is in the cache then."""
    is_here = {one: bool(one.sha256) and cache.has(one.sha256) for one in sources}
    found: dict[FileSource, str | FetchError] = {
        one: one.sha256 for one, here in is_here.items() if here
    }
    if pending := [one for one, here in is_here.items() if not here]:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache.directory) as new:
            found |= _fetch(cache, pending, Path(new), on_progress)
    return {one: found[one] for one in is_here}


class _Cache:
    """The directory of fetched files: ``contents/SHA256``, ``urls/DIGEST.json``, ``named/...``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for part in ("contents", "urls", "named"):
            (directory / part).mkdir(mode=0o700, exist_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether a content is here."""
        return (self.directory / "contents" / sha256).is_file()

    def known(self, source: FileSource) -> _Known | None:
        """What was last found at a URL, if that content is still here."""
        with suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(self._record(source).read_bytes(), type=_Known)
            return known if self.has(known.sha256) else None
        return None

    def keep(self, source: FileSource, new: Path, fetched: Fetched) -> None:
        """Take a new file in."""
        new.replace(self.directory / "contents" / fetched.sha256)
        record = _Known(fetched.sha256, fetched.version)
        write_atomically(self._record(source), msgspec.json.encode(record))

    def external_weights(
        self, source: FileSource, content: str
    ) -> dict[str, FileSource] | FetchError:
        """Where the files are that an ONNX model expects beside it, by their relative paths."""
        if not source.name.lower().endswith(".onnx"):
            return {}
        contents = self.directory / "contents"
        try:
            files = external_files(contents / content)
        except OnnxFileError as error:
            return FetchError(str(error), is_wrong=True)
        names = [str(path.relative_to(contents)) for path in files]
        if names and source.sha256:
            return FetchError(
                f"keeps its weights in {', '.join(names)}, which its sha256 says nothing about: "
                "leave sha256 out (the commit in hf://ORG/REPO@COMMIT/FILE pins them, too)",
                is_wrong=True,
            )
        return {name: source.beside(name) for name in names}

    def directory_of(self, files: Mapping[str, str]) -> Path:
        """Return a directory in which contents, given by hash, have these relative paths."""
        key = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        directory = self.directory / "named" / key
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.link(self.directory / "contents" / content, path)
        return directory

    def _record(self, source: FileSource) -> Path:
        return self.directory / "urls" / f"{source.digest}.json"


def _fetch(
    cache: _Cache, sources: Sequence[FileSource], new: Path, on_progress: OnProgress
) -> dict[FileSource, str | FetchError]:
    known = {source: cache.known(source) for source in sources if not source.sha256}
    orders = [
        Order(
            source.url,
            str(new / str(index)),
            version=one.version if (one := known.get(source)) else "",
        )
        for index, source in enumerate(sources)
    ]
    ends = _run_child(
        orders, lambda one: on_progress(sources[one.order].shown, one.done, one.total)
    )
    found: dict[FileSource, str | FetchError] = {}
    for index, (source, order) in enumerate(zip(sources, orders, strict=True)):
        end, before = ends[index], known.get(source)
        if isinstance(end, Fetched):
            found[source] = _accept(cache, source, Path(order.path), end)
        elif isinstance(end, Failed) and (end.is_wrong or before is None):
            found[source] = FetchError(end.reason, is_wrong=end.is_wrong)
        else:
            assert before is not None, "only a known version can be unchanged"
            if isinstance(end, Failed):
                _log.warning(
                    "%s can't be asked for a newer version, the cached one is used: %s",
                    source.shown,
                    end.reason,
                )
            found[source] = before.sha256
    return found


def _accept(cache: _Cache, source: FileSource, new: Path, fetched: Fetched) -> str | FetchError:
    if source.sha256 not in {"", fetched.sha256}:
        return FetchError(
            f"its content has the sha256 {fetched.sha256}, not the pinned {source.sha256}",
            is_wrong=True,
        )
    cache.keep(source, new, fetched)
    _log.info("fetched %s, sha256 %s", source.shown, fetched.sha256)
    return fetched.sha256


def _run_child(
    orders: Sequence[Order], on_progress: Callable[[Progress], None]
) -> Sequence[Report]:
    """Run the child, and return how each order ended."""
    ends: dict[int, Report] = {}
    printed = OutputReader("the fetching of files", logging.INFO)
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as reports,
        start_child(
            "workers.fetcher", writer, inherited=(writer,), output=printed, stdin=subprocess.PIPE
        ) as child,
    ):
        assert child.stdin is not None
        with child.stdin as stdin, suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode(orders))
        for line in reports:
            report: Report = msgspec.json.decode(line, type=Report)
            if isinstance(report, Progress):
                on_progress(report)
            else:
                ends[report.order] = report
        code = child.wait()
    reason = f"the process that fetches files {describe_exit(code, printed.last_line())}"
    return [ends.get(index, Failed(index, reason, is_wrong=False)) for index in range(len(orders))]
