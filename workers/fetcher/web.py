"""Fetches a file over HTTP.

Runs in the child that fetches files. A URL flows in, the file is written. A redirect may change
neither to a less safe scheme nor from a public address to one behind the firewall, where it could
make this machine ask what its sender can't (the metadata service of a cloud, for instance). A
connection that breaks is continued where it broke.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp

from workers.fetcher.protocol import FetchError
from workers.fetcher.source import redacted

__all__ = ["fetch"]

_CHUNK_BYTES = 1 << 20
_MAX_REDIRECTS = 10
_MAX_BREAKS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
#: Of a connection, and of a server that sends nothing; a download as a whole may take long.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)


def fetch(url: str, version: str, path: Path, report: Callable[[int, int], None]) -> str | None:
    """Write the file at a URL to a path; return its version (an ETag) or None if that is unchanged.

    `report` gets the bytes that are here and in all, 0 if that is unknown.

    Raises:
        FetchError: if the server refuses, or the redirect.
        aiohttp.ClientError, OSError: if it can't be reached, or the connection breaks.
    """
    with path.open("wb") as file:
        return asyncio.run(_fetch(url, version, file, report))


async def _fetch(
    url: str, version: str, file: BinaryIO, report: Callable[[int, int], None]
) -> str | None:
    headers = {"If-None-Match": version} if version else {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=True) as session:
        for breaks in range(_MAX_BREAKS + 1):
            async with await _get(session, url, headers) as response:
                if response.status == 304:
                    return None
                _check(response)
                version = response.headers.get("ETag", "")
                try:
                    await _write(response, file, report)
                    break
                except (aiohttp.ClientError, TimeoutError):
                    # Without a strong ETag, the rest may be that of another file.
                    if breaks == _MAX_BREAKS or not version.startswith('"'):
                        raise
                    headers = {"Range": f"bytes={file.tell()}-", "If-Range": version}
    return version


async def _write(
    response: aiohttp.ClientResponse, file: BinaryIO, report: Callable[[int, int], None]
) -> None:
    """Write what a response sends: the rest of the file that was asked for, or a whole one."""
    if response.status != 206:
        file.seek(0)
        file.truncate()
    total = file.tell() + (response.content_length or 0)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        file.write(chunk)
        report(file.tell(), total)


async def _get(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str]
) -> aiohttp.ClientResponse:
    first = url
    for _ in range(_MAX_REDIRECTS):
        response = await session.get(
            url, headers={"Accept-Encoding": "identity", **headers}, allow_redirects=False
        )
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return response
        response.release()
        url = urljoin(url, location)
        await _check_redirect(first, url)
    raise FetchError("is redirected again and again", is_wrong=True)


async def _check_redirect(first: str, target: str) -> None:
    before, after = urlsplit(first), urlsplit(target)
    if after.scheme not in {"https", before.scheme}:
        raise FetchError(
            f"is redirected to {redacted(target)}, which is not followed", is_wrong=True
        )
    if await _is_inside(after.hostname) and not await _is_inside(before.hostname):
        raise FetchError(
            f"is redirected to {redacted(target)}, a private address, which is not followed",
            is_wrong=True,
        )


async def _is_inside(host: str | None) -> bool:
    """Whether an address of a host is private, of this machine, or of this network."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return False  # only a proxy knows it
    return not all(ipaddress.ip_address(address[4][0]).is_global for address in found)


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in {200, 206}:
        if response.content_type == "text/html":
            raise FetchError("is a web page, not a file", is_wrong=True)
        return
    hint = " (credentials can be in ~/.netrc or in the URL)" if status in {401, 403} else ""
    raise FetchError(
        f"the server answered {status} {response.reason}{hint}", is_wrong=400 <= status < 500
    )
