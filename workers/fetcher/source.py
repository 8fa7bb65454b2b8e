"""What a configuration names instead of a plain path: a URL, or a file whose content is pinned.

Runs where configurations are read, and in what fetches files; pure. Text flows in, a `FileSource`
flows out. A URL may hold credentials, so only `shown` may be printed.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote, urlsplit

import msgspec

__all__ = ["SCHEMES", "FileSource", "redacted", "scheme_of"]

#: The schemes of URLs, and the packages that each needs.
SCHEMES = {
    "https": ("aiohttp", "fsspec"),
    "http": ("aiohttp", "fsspec"),
    "s3": ("aiohttp", "fsspec", "s3fs"),
    "hf": ("aiohttp", "fsspec", "huggingface_hub"),
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_URL = re.compile(
    r"(?P<scheme>\w+://)(?:[^\s/?#'\"]*@)?(?P<rest>[^\s?#'\"]*)(?P<query>[?#][^\s'\"]*)?"
)
_COMMIT = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")
_REVISION = re.compile(r"(?<=^hf://)([^@]*)@[^/]*")
_UNUSUAL = re.compile(r"[^\w.+-]")


class FileSource(msgspec.Struct, frozen=True):
    """A file, or a directory, that is fetched, or checked, before it is used.

    Attributes:
        url: where it is; an absolute path, if `sha256` is all there is to check.
        sha256: of its content, in hexadecimal digits; empty if any content will do.
        version: that its store must give it; empty if any will do.
        files: of a directory, which files to fetch: a regular expression for their paths in it.
    """

    url: str
    sha256: str = ""
    version: str = ""
    files: str = ""

    def __repr__(self) -> str:
        return f"FileSource({self.shown!r})"

    @property
    def scheme(self) -> str:
        """``https``, ``s3`` and the like; empty for a path."""
        return scheme_of(self.url)

    @property
    def shown(self) -> str:
        """The location without what may be secret: user, password, query."""
        return redacted(self.url) if self.scheme else self.url

    @property
    def name(self) -> str:
        """The name of the file, with its suffix."""
        last = unquote(urlsplit(self.url).path).rpartition("/")[2]
        return _UNUSUAL.sub("_", last).lstrip(".") or "file"

    @property
    def digest(self) -> str:
        """A name for the location in the cache."""
        # The version of a file in a hub is a hash of its content, the same in all commits.
        url = _REVISION.sub(r"\1", self.url) if self.version else self.url
        parts = filter(None, (url, self.version, self.files))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def is_fixed(self) -> bool:
        """Whether its store always gives the same content, which need not be asked for again."""
        return bool(self.version or _COMMIT.match(self.url))

    def beside(self, name: str) -> FileSource:
        """Return the file of a relative path from this one's directory, with the same query."""
        if self.scheme not in {"http", "https"}:
            return FileSource(f"{self.url.rpartition('/')[0]}/{name}")
        parts = urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{quote(name)}"
        return FileSource(parts._replace(path=path).geturl())


def scheme_of(location: str) -> str:
    """Return the scheme of a URL in lower case, empty if it is none."""
    found = _SCHEME.match(location)
    return found[1].lower() if found else ""


def redacted(text: str) -> str:
    """Return a text without the secret parts of the URLs in it."""
    return _URL.sub(lambda m: m["scheme"] + m["rest"] + ("?..." if m["query"] else ""), text)
