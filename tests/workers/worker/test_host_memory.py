from workers.worker import host_memory
from workers.worker.host_memory import HUGE_PAGE_BYTES, private_ranges, use_huge_pages

MAPS = """\
00400000-01400000 r-xp 00000000 08:01 1234 /usr/bin/python3
01500000-02500000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000500000-7f0000600000 rw-p 00000000 00:00 0
7f0000700000-7f0000c00000 rw-s 00000000 00:01 7 /memfd:arena (deleted)
7f0001000000-7f0001400000 ---p 00000000 00:00 0
7f0002000000-7f0002400000 rw-p 00000000 08:01 99 /usr/lib/libc.so.6
7ffc00000000-7ffc00400000 rw-p 00000000 00:00 0 [stack]
"""


def test_only_whole_pages_of_private_memory_without_a_file_are_meant():
    assert list(private_ranges(MAPS.splitlines())) == [
        (0x1600000, 0xE00000),
        (0x7F0000000000, 0x400000),
    ]


def test_where_huge_pages_are_not_wanted_nothing_changes(tmp_path, monkeypatch):
    setting = tmp_path / "enabled"
    monkeypatch.setattr(host_memory, "_SETTING", setting)
    assert use_huge_pages() == 0
    setting.write_text("always madvise [never]\n")
    assert use_huge_pages() == 0


def test_what_lies_there_stays_as_it_is():
    before = bytearray(range(256)) * (4 * HUGE_PAGE_BYTES // 256)
    content = bytes(before)
    assert use_huge_pages() >= 0
    assert before == content
