"""What the supervisor and the child that fetches files tell each other, as JSON.

`Order`s flow to the child's stdin; a line per `Report` flows back.
"""

from __future__ import annotations

import msgspec

__all__ = ["Failed", "FetchError", "Fetched", "Listing", "Order", "Progress", "Report", "Unchanged"]


class FetchError(Exception):
    """A file can't be fetched; the text is one line, without the location.

    Attributes:
        is_wrong: whether what the configuration says must change; otherwise another try may help.
    """

    def __init__(self, message: str, *, is_wrong: bool) -> None:
        super().__init__(message)
        self.is_wrong = is_wrong


class Order(msgspec.Struct, frozen=True):
    """A file to fetch, or the listing of a directory.

    Attributes:
        url: of the file, or the directory.
        path: where to write the file, or the `Listing` as JSON.
        version: of the copy in the cache, which need not be fetched again; may be empty.
        files: of a directory, which files to list, see `FileSource`; empty for a file.
    """

    url: str
    path: str
    version: str = ""
    files: str = ""


class Listing(msgspec.Struct, frozen=True):
    """The files of a directory at one time.

    Attributes:
        url: of the directory at that time, if its store remembers it.
        version: of the directory: a commit, or what the versions of the files amount to.
        files: their versions, by their paths in the directory.
    """

    url: str
    version: str
    files: dict[str, str]


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """So many bytes of an order's file are here; `total` is 0 if it is unknown."""

    order: int
    done: int
    total: int


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """The whole file is written; `version` identifies its content at its location, if it can."""

    order: int
    sha256: str
    version: str


class Unchanged(msgspec.Struct, frozen=True, tag="unchanged"):
    """The file has the version that the order names."""

    order: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """There is no file, see `FetchError`."""

    order: int
    reason: str
    is_wrong: bool


Report = Progress | Fetched | Unchanged | Failed
