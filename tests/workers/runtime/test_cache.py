import os
import stat

import pytest

from workers.runtime.cache import cache_part, write_atomically


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_owner_alone_reads_it(cache):
    before = os.umask(0)
    try:
        part = cache_part("models")
        write_atomically(part / "file", b"data")
    finally:
        os.umask(before)
    assert part == cache / "models"
    assert [mode(path) for path in (cache, part, part / "file")] == [0o700, 0o700, 0o600]


def test_what_others_could_read_is_closed(cache):
    (cache / "models").mkdir(parents=True)
    (cache / "models").chmod(0o777)
    assert mode(cache_part("models")) == 0o700


def test_what_belongs_to_somebody_else_is_refused(cache, monkeypatch, tmp_path):
    cache_part("models")
    (cache / "signatures").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="is not a directory of this user"):
        cache_part("signatures")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="is not a directory of this user"):
        cache_part("models")
