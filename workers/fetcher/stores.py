"""Fetches a file from object storage or a model hub, through fsspec.

Runs in the child that fetches files. A URL flows in, the file is written. Credentials, endpoints
and proxies are where the store's own tools look for them: ``AWS_*`` and ``~/.aws``, ``HF_TOKEN``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback

from workers.fetcher.protocol import FetchError
from workers.fetcher.source import scheme_of

__all__ = ["fetch"]

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

    credentials = f"(credentials: {_CREDENTIALS[scheme_of(url)]})"
    try:
        store = fsspec.filesystem(scheme_of(url), use_listings_cache=False)
        info = store.info(url)
        if info["type"] != "file":
            raise FetchError("is a directory, name a file in it", is_wrong=True)
        found = _version(info)
        if found and found == version:
            return None
        store.get_file(url, str(path), callback=Callback(hooks={"": hook}))
    except FileNotFoundError:
        raise FetchError(
            f"there is no such file, or it is private {credentials}", is_wrong=True
        ) from None
    except PermissionError:
        raise FetchError(f"access is denied {credentials}", is_wrong=True) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)  # of the hub
        if status not in {401, 403} and type(error).__name__ != "NoCredentialsError":
            raise
        raise FetchError(f"needs credentials {credentials}", is_wrong=True) from None
    if (size := path.stat().st_size) != info["size"]:
        raise FetchError(f"only {size} of {info['size']} bytes arrived", is_wrong=False)
    return found


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
