"""Fetches files: ``workers.fetcher FD``, the child of `workers.fetcher.cache`.

`Order`s flow in on stdin, so that no credentials in URLs are on a command line; the files are
written, and a JSON line per `Report` goes to the descriptor. Libraries print and log nothing here,
because their messages repeat URLs and headers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from workers.fetcher import stores, web
from workers.fetcher.protocol import Failed, Fetched, FetchError, Order, Progress, Report, Unchanged
from workers.fetcher.source import redacted, scheme_of
from workers.runtime.texts import one_line

_AT_ONCE = 4
_REPORT_S = 0.2


def main(fd: int) -> None:
    """Fetch what stdin orders, and report to a descriptor."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Order])
    with os.fdopen(fd, "wb", buffering=0) as reports, ThreadPoolExecutor(_AT_ONCE) as pool:

        def send(report: Report) -> None:
            reports.write(msgspec.json.encode(report) + b"\n")  # short: written in one piece

        for index, order in enumerate(orders):
            pool.submit(_fetch_and_report, index, order, send)


def _fetch_and_report(index: int, order: Order, send: Callable[[Report], None]) -> None:
    send(_fetch(index, order, send))


def _fetch(index: int, order: Order, send: Callable[[Report], None]) -> Report:
    """Fetch one file or listing; what goes wrong is a report, too."""
    reported = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= _REPORT_S:
            reported = now
            send(Progress(index, done, total))

    fetch = web.fetch if scheme_of(order.url) in {"http", "https"} else stores.fetch
    path = Path(order.path)
    try:
        if order.files:
            version = stores.fetch_listing(order.url, order.version, path, order.files)
        else:
            version = fetch(order.url, order.version, path, report)
        if version is None:
            return Unchanged(index)
        with path.open("rb") as file:
            return Fetched(index, hashlib.file_digest(file, "sha256").hexdigest(), version)
    except FetchError as error:
        return Failed(index, str(error), error.is_wrong)
    except Exception as error:
        return Failed(index, redacted(one_line(error)), is_wrong=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
