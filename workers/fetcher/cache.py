"""Finds files of URLs in the cache, and has a child fetch those that are missing or may be old.

Runs in the supervisor before anything else starts. Sources flow in, paths of files flow out. The
cache has contents by their hash, what was found at which URL, and directories in which contents
have their names again. A pinned content that is here needs no network; another one is compared with
its origin at each start. The content of a directory is its listing, which names its files.
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
from workers.fetcher.protocol import Failed, Fetched, FetchError, Listing, Order, Progress, Report
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
    """Return the path of each source's file or directory in the cache, or why there is none.

    A source without a pin is taken from the cache if its origin can't be asked; the log says so.
    The files in which an ONNX model keeps its weights are fetched with it. A directory is one of
    the cache, in which all its files are.

    Raises:
        OSError: if files can't be kept in the cache.
    """
    cache = _Cache(cache_part("files"))
    found = _find(cache, sources, on_progress)
    more = {
        source: cache.listed(content) if source.files else cache.external_weights(source, content)
        for source, content in found.items()
        if isinstance(content, str)
    }
    wanted = [one for each in more.values() if isinstance(each, dict) for one in each.values()]
    others = _find(cache, wanted, on_progress)
    return {
        source: content
        if isinstance(content, FetchError)
        else _put_together(cache, source, content, more[source], others)
        for source, content in found.items()
    }


def _put_together(
    cache: _Cache,
    source: FileSource,
    content: str,
    more: dict[str, FileSource] | FetchError,
    others: Mapping[FileSource, str | FetchError],
) -> Path | FetchError:
    """Return the path of a file that has its weights beside it, or of a complete directory."""
    if isinstance(more, FetchError):
        return more
    files = {} if source.files else {source.name: content}
    kind, parent = ("file", f"{source.name}/") if source.files else ("weights", "")
    for name, one in more.items():
        found = others[one]
        if isinstance(found, FetchError):
            return FetchError(f"its {kind} {name}: {found}", is_wrong=found.is_wrong)
        files[parent + name] = found
    if source.files:
        cache.keep_listing(source, content)
    return cache.directory_of(files) / source.name


def _find(
    cache: _Cache, sources: Sequence[FileSource], on_progress: OnProgress
) -> dict[FileSource, str | FetchError]:
    """Return the hash of each source's content, which is in the cache then."""
    here = {one: cache.fixed(one) for one in sources}
    found: dict[FileSource, str | FetchError] = {one: sha for one, sha in here.items() if sha}
    if pending := [one for one, sha in here.items() if not sha]:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache.directory) as new:
            found |= _fetch(cache, pending, Path(new), on_progress)
    return {one: found[one] for one in here}


class _Cache:
    """The directory of fetched files: ``contents/SHA256``, ``urls/DIGEST.json``, ``named/...``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for part in ("contents", "urls", "named"):
            (directory / part).mkdir(mode=0o700, exist_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether a content is here."""
        return self._content(sha256).is_file()

    def fixed(self, source: FileSource) -> str:
        """The hash of a content that is here and can be no other; else empty."""
        if source.sha256:
            return source.sha256 if self.has(source.sha256) else ""
        known = self.known(source) if source.is_fixed else None
        return known.sha256 if known else ""

    def known(self, source: FileSource) -> _Known | None:
        """What was last found at a URL, if that content is still here."""
        with suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(self._record(source).read_bytes(), type=_Known)
            return known if self.has(known.sha256) else None
        return None

    def keep(self, source: FileSource, new: Path, fetched: Fetched) -> None:
        """Take a new file in, or a listing, which is known by `keep_listing` only."""
        new.replace(self._content(fetched.sha256))
        if not source.files:
            self._know(source, _Known(fetched.sha256, fetched.version))

    def keep_listing(self, source: FileSource, content: str) -> None:
        """Remember what is at the URL of a directory, all files of which are here."""
        listing = self._listing(content)
        new = _Known(content, listing.version)
        if self.known(source) != new:
            self._know(source, new)
            _log.info("fetched %s, version %s", source.shown, listing.version)

    def listed(self, content: str) -> dict[str, FileSource]:
        """Where the files of a directory are, by their paths in it."""
        listing = self._listing(content)
        return {
            name: FileSource(f"{listing.url}/{name}", version=version)
            for name, version in listing.files.items()
        }

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
                os.link(self._content(content), path)
        return directory

    def _content(self, sha256: str) -> Path:
        return self.directory / "contents" / sha256

    def _listing(self, content: str) -> Listing:
        return msgspec.json.decode(self._content(content).read_bytes(), type=Listing)

    def _know(self, source: FileSource, known: _Known) -> None:
        write_atomically(self._record(source), msgspec.json.encode(known))

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
            files=source.files,
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
    if source.version not in {"", fetched.version}:
        return FetchError("has changed since its directory was listed", is_wrong=False)
    cache.keep(source, new, fetched)
    if not source.files:
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
