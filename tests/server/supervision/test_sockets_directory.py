"""The directory of sockets: who may look into it, and what becomes of those of dead servers."""

import os
import tempfile
from pathlib import Path

import pytest

from server.errors import StartError
from server.supervision.sockets import UPLOADS, socket_directory
from workers.runtime.sockets import COMBINER, FRONT_END, WORKERS


@pytest.fixture
def temporary(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="et-") as directory:  # a socket's path must be short
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def test_each_server_has_its_own(temporary):
    with socket_directory() as first, socket_directory() as second:
        assert first != second
        for path in map(Path, (first, second)):
            assert path.stat().st_mode & 0o777 == 0o700
            (path / "x.ipc").touch()
    assert list(temporary.iterdir()) == []


def test_what_a_dead_server_has_left_is_removed_and_nothing_else(temporary):
    dead, full, file, link = (
        temporary / f"ensembled-sockets-{name}" for name in ("dead", "full", "file", "link")
    )
    empty = temporary / "ensembled"
    for directory in (dead, full, empty):
        directory.mkdir()
    for name in (WORKERS, FRONT_END, COMBINER):
        (dead / name).touch()
    (dead / UPLOADS / "load" / "1").mkdir(parents=True)
    (full / "mine").touch()
    file.touch()
    link.symlink_to(empty)
    with socket_directory():
        assert not dead.exists()
    assert set(temporary.iterdir()) == {full, file, link, empty}
    assert (full / "mine").exists()


@pytest.mark.parametrize("step", [(tempfile, "mkdtemp"), (os, "open")], ids=lambda step: step[1])
def test_a_directory_that_is_taken_for_a_dead_ones_is_made_again(temporary, monkeypatch, step):
    do = getattr(*step)

    def do_and_lose(*arguments, **options):
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        done = do(*arguments, **options)
        with socket_directory():  # another server starts just now
            assert len(list(temporary.iterdir())) == 1
        return done

    monkeypatch.setattr(*step, do_and_lose)
    with socket_directory() as made:
        assert [str(path) for path in temporary.iterdir()] == [made]
    assert list(temporary.iterdir()) == []


def test_a_name_that_is_too_long_for_sockets_is_told(temporary, monkeypatch):
    long = temporary / ("x" * 107)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(StartError, match="too long a name for sockets: set TMPDIR"):
        socket_directory().__enter__()
    assert list(long.iterdir()) == []
