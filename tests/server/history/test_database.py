import sqlite3

import pytest

from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.history import database
from server.history.database import HistoryError, append_window, find_history, read_windows
from server.history.windows import Window


def window(started, rows=30):
    traffic = Traffic(
        3,
        58.0,
        {
            "e": ModelTraffic(10, rows, 1, 2, 4, (20, 10), 0.5, (0, 9, 1)),
            "m": ModelTraffic(refused=1),
        },
        {"a": 25},
        {
            "cpu:0": {"a": InstanceTraffic(5, 20, 0.25, (0, 0, 5))},
            "cpu:1": {"a": InstanceTraffic(1, 5, 0.1, (1,))},
        },
    )
    return Window(started, 60.0, traffic, {"cpu:0": "cpu-1", "cpu:1": "cpu-1"}, {"a": "0123"})


def test_windows_come_back_as_they_were(tmp_path):
    path = tmp_path / "history.sqlite"
    assert read_windows(path) == []
    for started in (100.0, 160.0):
        append_window(path, window(started))
    assert read_windows(path) == [window(100.0), window(160.0)]
    assert read_windows(path, since=160.0) == [window(160.0)]


def test_the_oldest_go_first_with_all_that_belongs_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_MOST_WINDOWS", 2)
    path = tmp_path / "history.sqlite"
    for started in range(5):
        append_window(path, window(float(started), rows=started))
    assert [one.started for one in read_windows(path)] == [3.0, 4.0]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchone() == (4,)
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (4,)
    connection.close()


def test_what_is_no_history_is_told_and_left_alone(tmp_path):
    path = tmp_path / "history.sqlite"
    path.write_text("a text that is long enough to be taken for a database's header, but is none")
    for attempt in (lambda: append_window(path, window(1.0)), lambda: read_windows(path)):
        with pytest.raises(HistoryError, match="history.sqlite: file is not a database"):
            attempt()
    assert path.read_text().startswith("a text")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(HistoryError, match="another version"):
        append_window(other, window(1.0))
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE trials (number INTEGER)")
    connection.close()
    before = foreign.read_bytes()
    for attempt in (lambda: append_window(foreign, window(1.0)), lambda: read_windows(foreign)):
        with pytest.raises(HistoryError, match="another program's"):
            attempt()
    assert foreign.read_bytes() == before
    with pytest.raises(HistoryError, match="unable to open"):
        append_window(tmp_path / "missing" / "history.sqlite", window(1.0))


def test_a_history_is_empty_until_its_writer_has_made_the_tables(tmp_path):
    path = tmp_path / "history.sqlite"
    path.touch()
    assert read_windows(path) == []


def test_what_is_written_while_somebody_reads_is_not_half_there(tmp_path, monkeypatch):
    path = tmp_path / "history.sqlite"
    append_window(path, window(1.0))
    read = database._read

    def write_first(*arguments):
        monkeypatch.setattr(database, "_read", read)
        append_window(path, window(2.0))
        return read(*arguments)

    monkeypatch.setattr(database, "_read", write_first)
    assert read_windows(path) == [window(1.0)]
    assert read_windows(path) == [window(1.0), window(2.0)]


def test_counts_that_are_none_are_told(tmp_path):
    path = tmp_path / "history.sqlite"
    append_window(path, window(1.0))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE models SET times = 'often'")
    connection.close()
    with pytest.raises(HistoryError, match="history.sqlite"):
        read_windows(path)


def test_each_configuration_has_its_own_unless_it_says_otherwise(tmp_path, monkeypatch, config_of):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    first, second = config_of("a.yaml"), config_of("b.yaml")
    assert find_history(first) != find_history(second)
    assert find_history(first).parent == tmp_path / "cache/history"
    assert find_history(config_of("c.yaml", history="none")) is None
    assert find_history(config_of("d.yaml", history="h.sqlite")) == tmp_path / "h.sqlite"
    monkeypatch.setenv("ENSEMBLED_CACHE", "/dev/null/cache")
    assert find_history(first) is None
