"""The database of windows: one SQLite file per configuration, bounded, readable by any tool.

The supervisor writes, in a thread; commands and later starts of a server read, also meanwhile. The
tables are `windows`, `models` and `instances`; counts of times and sizes are JSON arrays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from server.config import Config
from server.errors import ConfigError
from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.history.windows import Served, Window
from workers.runtime.cache import cache_part

__all__ = ["HistoryError", "append_window", "find_history", "read_served", "read_windows"]

_log = logging.getLogger(__name__)

_One = TypeVar("_One", ModelTraffic, InstanceTraffic)

#: A week of minutes.
_MOST_WINDOWS = 7 * 24 * 60
#: How long another process's transaction is waited for.
_BUSY_S = 5.0
_VERSION = 1
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS windows (
    id INTEGER PRIMARY KEY, started REAL, seconds REAL, observed_s REAL, generation INTEGER
);
CREATE TABLE IF NOT EXISTS models (
    window INTEGER REFERENCES windows ON DELETE CASCADE, name TEXT,
    requests INTEGER, rows INTEGER, refused INTEGER, degraded INTEGER, saved INTEGER,
    ended TEXT, seconds REAL, times TEXT, PRIMARY KEY (window, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
    window INTEGER REFERENCES windows ON DELETE CASCADE, device TEXT, member TEXT,
    kind TEXT, model TEXT, batches INTEGER, rows INTEGER, seconds REAL, sizes TEXT,
    PRIMARY KEY (window, device, member)
) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""


class HistoryError(ConfigError):
    """A database of windows can't be read or written; the text names it."""


def find_history(config: Config) -> Path | None:
    """Return where servers with a configuration keep their history, None if they don't."""
    chosen = config.server.history
    if chosen == "none":
        return None
    if chosen != "auto":
        return chosen
    digest = hashlib.sha256(os.fsencode(os.path.abspath(config.path))).hexdigest()
    try:
        return cache_part("history") / f"{digest[:32]}.sqlite"
    except OSError as error:
        _log.warning("no history is kept: %s", error)
        return None


def append_window(path: Path, window: Window) -> None:
    """Append a window, and forget the oldest beyond a week of minutes.

    Raises:
        HistoryError: if that can't be written.
    """
    with _opened(path, create=True) as database, database:
        traffic = window.traffic
        (id,) = database.execute(
            "INSERT INTO windows (started, seconds, observed_s, generation) "
            "VALUES (?, ?, ?, ?) RETURNING id",
            (window.started, window.seconds, traffic.seconds, traffic.generation),
        ).fetchone()
        database.executemany(
            f"INSERT INTO models VALUES ({_marks(10)})",
            ((id, name, *_values(one)) for name, one in traffic.models.items()),
        )
        database.executemany(
            f"INSERT INTO instances VALUES ({_marks(9)})",
            (
                (id, device, member, window.kinds.get(device), window.models.get(member))
                + _values(one)
                for device, instances in traffic.instances.items()
                for member, one in instances.items()
            ),
        )
        database.execute(
            "DELETE FROM windows WHERE id <= (SELECT max(id) FROM windows) - ?", (_MOST_WINDOWS,)
        )


def read_windows(path: Path, *, since: float = 0.0) -> list[Window]:
    """Return the windows that began at a Unix time or later, oldest first; none without a file.

    Raises:
        HistoryError: if the file is no database of windows.
    """
    if not path.exists():
        return []
    with _opened(path, create=False) as database:
        database.execute("BEGIN")  # all tables as they are at one moment, whoever writes meanwhile
        return list(_windows(database, since)) if _has_tables(path, database) else []


def read_served(path: Path, *, since: float = 0.0) -> list[Served]:
    """Return the sums over the windows that began at a Unix time or later; none without a file.

    For a start of a server, that is much faster than `read_windows`.

    Raises:
        HistoryError: if the file is no database of windows.
    """
    if not path.exists():
        return []
    query = (
        "SELECT device, kind, model, sum(batches), sum(rows), sum(instances.seconds) "
        "FROM instances JOIN windows ON windows.id = window "
        "WHERE started >= ? AND kind IS NOT NULL AND model IS NOT NULL "
        "GROUP BY device, kind, model"
    )
    with _opened(path, create=False) as database:
        if not _has_tables(path, database):
            return []
        return [
            Served(device, kind, model, InstanceTraffic(*sums))
            for device, kind, model, *sums in database.execute(query, (since,))
        ]


def _windows(database: sqlite3.Connection, since: float) -> Iterator[Window]:
    """Read the three tables side by side, which are all in the order of the windows."""
    wanted = (since,)
    models: defaultdict[int, dict[str, ModelTraffic]] = defaultdict(dict)
    for id, name, *values in database.execute(_select("models", "started >= ?"), wanted):
        models[id][name] = _read(ModelTraffic, values)
    found: defaultdict[int, list[tuple[str, str, str, str, InstanceTraffic]]] = defaultdict(list)
    for id, *names, batches, rows, seconds, sizes in database.execute(
        _select("instances", "started >= ?"), wanted
    ):
        device, member, kind, model = names
        one = _read(InstanceTraffic, (batches, rows, seconds, sizes))
        found[id].append((device, member, kind, model, one))
    columns = "id, started, seconds, observed_s, generation"
    query = f"SELECT {columns} FROM windows WHERE started >= ? ORDER BY id"
    for id, started, seconds, observed_s, generation in database.execute(query, wanted):
        instances: defaultdict[str, dict[str, InstanceTraffic]] = defaultdict(dict)
        members: Counter[str] = Counter()
        for device, member, _, _, one in found[id]:
            instances[device][member] = one
            members[member] += one.rows
        yield Window(
            started,
            seconds,
            Traffic(generation, observed_s, models[id], dict(members), dict(instances)),
            kinds={device: kind for device, _, kind, _, _ in found[id]},
            models={member: model for _, member, _, model, _ in found[id]},
        )


def _select(table: str, condition: str) -> str:
    return (
        f"SELECT {table}.* FROM {table} JOIN windows ON windows.id = window "
        f"WHERE windows.{condition} ORDER BY window"
    )


def _values(one: msgspec.Struct) -> tuple[object, ...]:
    """A struct's fields as columns: counts become JSON."""
    fields = msgspec.structs.astuple(one)
    return tuple(
        msgspec.json.encode(value).decode() if isinstance(value, tuple) else value
        for value in fields
    )


def _read(kind: type[_One], columns: Sequence[object]) -> _One:
    fields = (msgspec.json.decode(one) if isinstance(one, str) else one for one in columns)
    return msgspec.convert(dict(zip(kind.__struct_fields__, fields, strict=True)), kind)


def _marks(columns: int) -> str:
    return ", ".join("?" * columns)


def _has_tables(path: Path, database: sqlite3.Connection) -> bool:
    """Whether a database has the tables of windows: a new one has none, until its writer is done.

    Raises:
        HistoryError: if it has others.
    """
    version, tables = database.execute(
        "SELECT (SELECT user_version FROM pragma_user_version), count(*) FROM sqlite_master"
    ).fetchone()
    if version not in (0, _VERSION):
        raise HistoryError(f"{path}: another version of Ensembled made this history")
    if version == 0 and tables:
        raise HistoryError(f"{path}: this database is another program's, name another file")
    return bool(version)


@contextmanager
def _opened(path: Path, *, create: bool) -> Iterator[sqlite3.Connection]:
    """Open a database; what goes wrong meanwhile is a HistoryError."""
    mode = "rwc" if create else "ro"
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", _BUSY_S, uri=True)
        ) as database:
            has_tables = _has_tables(path, database)
            if create:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA foreign_keys = ON")
                if not has_tables:
                    database.executescript(_SCHEMA)
            yield database
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise HistoryError(f"{path}: {error}") from None
