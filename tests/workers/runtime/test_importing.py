"""What a user's module raises, in a line that says where."""

import os
import sys

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


def write_as_old(file, text):
    """Write a file that looks as if it were still the one of before to whoever asks for seconds."""
    before = file.stat()
    file.write_text(text)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))


def test_code_that_changed_is_imported_anew_and_what_was_made_before_keeps_its_own(tmp_path):
    (tmp_path / "layers.py").write_text("SIZE = 1")
    (tmp_path / "net_of_layers.py").write_text(
        "import layers\n\ndef size():\n    return layers.SIZE"
    )
    reference = f"{tmp_path}/net_of_layers.py:size"
    before = import_object(reference, str(tmp_path))
    assert import_object(reference, str(tmp_path)) is before, "nothing has changed"
    write_as_old(tmp_path / "layers.py", "SIZE = 2")
    after = import_object(reference, str(tmp_path))
    assert (before(), after()) == (1, 2)
    write_as_old(
        tmp_path / "net_of_layers.py", "import layers\n\ndef size():\n    return layers.side"
    )
    with pytest.raises(AttributeError, match="side"):
        import_object(reference, str(tmp_path))()
    assert (before(), after()) == (1, 2)


def test_packages_are_imported_anew_with_or_without_a_file(tmp_path):
    for package in ("whole_package", "bare_package"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "part.py").write_text("SIZE = 1")
        (tmp_path / package / "net.py").write_text(
            f"from {package} import part\n\ndef size():\n    return part.SIZE"
        )
    (tmp_path / "whole_package" / "__init__.py").write_text("from . import part")
    references = ("whole_package.net:size", "bare_package.net:size")
    before = [import_object(one, str(tmp_path)) for one in references]
    for package in ("whole_package", "bare_package"):
        write_as_old(tmp_path / package / "part.py", "SIZE = 2")
    after = [import_object(one, str(tmp_path)) for one in references]
    assert [size() for size in (*before, *after)] == [1, 1, 2, 2]


def test_what_is_installed_beside_a_configuration_is_never_imported_anew(tmp_path, monkeypatch):
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "installed_thing.py").write_text("SIZE = 1")
    monkeypatch.syspath_prepend(installed)
    (tmp_path / "user_thing.py").write_text("import installed_thing\nSIZE = 1")
    import_object("user_thing:SIZE", str(tmp_path))
    library = sys.modules["installed_thing"]
    write_as_old(installed / "installed_thing.py", "SIZE = 2")
    write_as_old(tmp_path / "user_thing.py", "import installed_thing\nSIZE = 2")
    assert import_object("user_thing:SIZE", str(tmp_path)) == 2
    assert sys.modules["installed_thing"] is library


def test_a_new_file_is_found_at_once(tmp_path):
    with pytest.raises(ImportFailed, match="no module 'late_comer'"):
        import_object("late_comer:SIZE", str(tmp_path))
    (tmp_path / "late_comer.py").write_text("SIZE = 1")
    assert import_object("late_comer:SIZE", str(tmp_path)) == 1
