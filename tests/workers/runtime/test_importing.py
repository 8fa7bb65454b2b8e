"""What a user's module raises, in a line that says where."""

import pytest

from workers.runtime.importing import ImportFailed, describe_failure, import_object


def test_a_file_replaces_no_installed_module(tmp_path):
    (tmp_path / "json.py").write_text("MINE = 1")
    assert import_object(f"{tmp_path}/json.py:MINE", "") == 1
    assert import_object("json:loads", str(tmp_path))("1") == 1
    with pytest.raises(ImportFailed, match=r"^module json \(.*\) has no 'MINE'$"):
        import_object("json:MINE", str(tmp_path))


def test_a_file_is_imported_once(tmp_path):
    (tmp_path / "once.py").write_text("class Once: pass")
    reference = f"{tmp_path}/once.py:Once"
    assert import_object(reference, "") is import_object(reference, "")
    other = tmp_path / "other"
    other.mkdir()
    (other / "once.py").write_text("class Once: pass")
    assert import_object(f"{other}/once.py:Once", "") is not import_object(reference, "")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ImportFailed, match=f"^there is no file {tmp_path}/absent.py$"):
        import_object(f"{tmp_path}/absent.py:Net", "")


def test_a_file_that_failed_is_tried_again(tmp_path):
    file = tmp_path / "again.py"
    file.write_text("1 / 0")
    with pytest.raises(ImportFailed, match=r"division by zero \(again.py, line 1\)$"):
        import_object(f"{file}:NUMBER", "")
    file.write_text("NUMBER = 12")
    assert import_object(f"{file}:NUMBER", "") == 12


def test_a_long_message_keeps_both_ends():
    told = describe_failure(ValueError("begin " + "x" * 1000 + "\n end"))
    assert told.startswith("ValueError: begin x")
    assert told.endswith("x end")
    assert len(told) < 700
