"""Fetches a file, or a listing, from object storage or a model hub, through fsspec.

Runs in the child that fetches files. A URL flows in, the file is written. Credentials, endpoints
and proxies are where the store's own tools look for them: ``AWS_*`` and ``~/.aws``, ``HF_TOKEN``.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import msgspec
from fsspec.callbacks import Callback

from workers.fetcher.protocol import FetchError, Listing
from workers.fetcher.source import scheme_of

__all__ = ["fetch", "fetch_listing"]

#: What identifies a file's content: of S3, of Hugging Face.
_VERSIONS = ("ETag", "blob_id")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or FSSPEC_S3_ANON=true",
    "hf": "HF_TOKEN",
}


def fetch(url: str, version: str, path: Path, report: Callable[[int, int], None]) -> str | None:
    """Write the file at a URL to a path; return its version, or None if that is unchanged.

    `report` gets the bytes that are here and in all.

    Raises:
        FetchError: if there is no such file, or no right to read it.
        Exception: any other of the store's library.
    """

    def hook(size: int | None, value: int, **_: object) -> None:
        report(value, size or 0)

    with _store_of(url, "file") as store:
        info = store.info(url)
        if info["type"] != "file":
            raise FetchError("is a directory, name a file in it", is_wrong=True)
        found = _version(info)
        if found and found == version:
            return None
        store.get_file(url, str(path), callback=Callback(hooks={"": hook}))
    if (size := path.stat().st_size) != info["size"]:
        raise FetchError(f"only {size} of {info['size']} bytes arrived", is_wrong=False)
    return found


def fetch_listing(url: str, version: str, path: Path, files: str) -> str | None:
    """Write the `Listing` of a directory to a path; return its version, or None if unchanged.

    `files` is a regular expression for the paths of the files in it.

    Raises:
        FetchError: if there are no such files, or no right to read them.
        Exception: any other of the store's library.
    """
    with _store_of(url, "directory") as store:
        commit = ""
        if scheme_of(url) == "hf":
            url, commit = _at_commit(store, url)
            if commit == version:
                return None
        infos = _files_below(store, url)
    found = {name: _version(one) for name, one in infos.items() if re.fullmatch(files, name)}
    if not found:
        raise FetchError(
            f"has no files like {files}, or there is no such directory, or it is private "
            f"{_credentials(url)}",
            is_wrong=True,
        )
    if outside := [name for name in found if {"", ".", ".."}.intersection(name.split("/"))]:
        raise FetchError(f"has a file {outside[0]!r}, which is no path in it", is_wrong=True)
    commit = commit or hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()
    if commit == version:
        return None
    path.write_bytes(msgspec.json.encode(Listing(url, commit, found)))
    return commit


def _files_below(store: Any, url: str) -> dict[str, Mapping[str, Any]]:
    """Return what the store knows of each file below a URL, by its path from there."""
    root = f"{store._strip_protocol(url)}/"
    return {
        name.removeprefix(root): info
        for name, info in store.find(url, detail=True).items()
        # Tools for object stores mark a directory by a name that ends in a slash.
        if info["type"] == "file" and name.startswith(root) and not name.endswith("/")
    }


def _at_commit(store: Any, url: str) -> tuple[str, str]:
    """Return the URL of a directory of a hub at the commit that its revision is now, and that."""
    place = store.resolve_path(url)
    # Not imported above, as the other stores don't need it.
    hub = importlib.import_module("huggingface_hub").HfApi(store.endpoint, token=store.token)
    known = hub.repo_info(place.repo_id, revision=place.revision, repo_type=place.repo_type)
    fixed = replace(place, revision=known.sha, _raw_revision=None)
    return f"hf://{fixed.unresolve()}", known.sha


def _credentials(url: str) -> str:
    return f"(credentials: {_CREDENTIALS[scheme_of(url)]})"


@contextmanager
def _store_of(url: str, kind: str) -> Iterator[Any]:
    """Open the store of a URL, that of a `kind`; the usual errors become `FetchError`s."""
    credentials = _credentials(url)
    try:
        yield fsspec.filesystem(scheme_of(url), use_listings_cache=False)
    except FileNotFoundError:
        raise FetchError(
            f"there is no such {kind}, or it is private {credentials}", is_wrong=True
        ) from None
    except PermissionError:
        raise FetchError(f"access is denied {credentials}", is_wrong=True) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)  # of the hub
        if status not in {401, 403} and type(error).__name__ != "NoCredentialsError":
            raise
        raise FetchError(f"needs credentials {credentials}", is_wrong=True) from None


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
