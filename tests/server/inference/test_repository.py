import asyncio
import json

import pytest
from repositories import PlayedControl, files_below, repository

from server.control import ChangeResult, LoadRequest, ReloadRequest, UnloadRequest
from server.errors import ChangeFailed, Forbidden, InvalidRequest, QueueFull

FILES = {"file:1/model.onnx": [b"weights"], "file:2/data/model.onnx": [b"more ", b"weights"]}


def uploads(tmp_path):
    directory = tmp_path / "uploads"
    return files_below(directory) if directory.exists() else {}


def test_a_load_is_asked_for_as_it_is(tmp_path):
    control = PlayedControl()
    result = asyncio.run(repository(control, tmp_path).load("m", "", {}))
    assert result == control.result
    assert control.asked == [LoadRequest("m")]


def test_a_configuration_is_passed_on_without_its_white_space(tmp_path):
    control = PlayedControl()
    asyncio.run(repository(control, tmp_path).load("m", '{ "name":\n "é" }', {}))
    assert control.asked == [LoadRequest("m", '{"name":"\\u00e9"}')]


def test_files_are_on_disk_and_private_when_the_supervisor_is_asked_and_stay(tmp_path):
    control = PlayedControl()
    asyncio.run(repository(control, tmp_path).load("m", "{}", FILES))
    (request,) = control.asked
    assert control.files == {"1/model.onnx": b"weights", "2/data/model.onnx": b"more weights"}
    assert files_below(request.directory) == control.files
    for path in (tmp_path / "uploads", tmp_path / request.directory):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (ChangeResult(1, error="members.m: no", is_wrong=True), InvalidRequest),
        (ChangeResult(1, error="worker cpu:0: no room"), ChangeFailed),
        (QueueFull("full"), QueueFull),
    ],
)
def test_files_of_a_load_that_is_refused_go(tmp_path, result, error):
    control = PlayedControl(result)
    with pytest.raises(error, match=getattr(result, "error", "full")):
        asyncio.run(repository(control, tmp_path).load("m", "{}", FILES))
    assert control.files
    assert uploads(tmp_path) == {}
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "file:model.onnx",
        "file:/etc/passwd",
        "file:../1/model.onnx",
        "file:1/../../model.onnx",
        "file:1/..",
        "file:1/.hidden",
        "file:1//model.onnx",
        "file:1/",
        "file:one/model.onnx",
        "file:1/a\\b",
        "file:1/a\0b",
        "file:1/a\n",
        "file:-1/model.onnx",
        "file:1/a/b/c/d/e",
        f"file:1/{'x' * 200}",
        "file:",
        "model.onnx",
        "",
    ],
)
def test_a_file_lies_below_the_directory_of_a_version(tmp_path, name):
    control = PlayedControl()
    with pytest.raises(InvalidRequest, match="file:VERSION/NAME"):
        asyncio.run(repository(control, tmp_path).load("m", "{}", {name: [b"x"]}))
    assert control.asked == []
    assert uploads(tmp_path) == {}


def test_no_file_is_a_directory_as_well(tmp_path):
    for names in (("file:1/a", "file:1/a/b"), ("file:1/a/b", "file:1/a")):
        files = dict.fromkeys(names, [b"x"])
        with pytest.raises(InvalidRequest, match="is a file and a directory"):
            asyncio.run(repository(PlayedControl(), tmp_path).load("m", "{}", files))
    assert uploads(tmp_path) == {}


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("{", "config is not JSON"),
        ("[" * 100_000, "config is not JSON"),
        ("[]", "config should be a JSON object"),
        (json.dumps({"x": "y" * 30_000}), "at most 24576 are taken"),
    ],
)
def test_configurations_that_are_none(tmp_path, config, error):
    control = PlayedControl()
    with pytest.raises(InvalidRequest, match=error):
        asyncio.run(repository(control, tmp_path).load("m", config, {}))
    assert control.asked == []


def test_there_are_not_too_many_files(tmp_path):
    files = {f"file:1/{number}": [b""] for number in range(257)}
    with pytest.raises(InvalidRequest, match="257 files are too many, at most 256"):
        asyncio.run(repository(PlayedControl(), tmp_path).load("m", "{}", files))


def test_what_the_operator_does_not_permit_is_refused(tmp_path):
    control = PlayedControl()
    none = repository(control, tmp_path, allows_control=False, allows_overrides=False)
    for change in (none.load("m", "", {}), none.unload("m", dependents=True)):
        with pytest.raises(Forbidden, match=r"server\.repository\.control is none"):
            asyncio.run(change)
    own = repository(control, tmp_path, allows_overrides=False)
    for config, files in (("{}", {}), ("", FILES)):
        with pytest.raises(Forbidden, match=r"server\.repository\.overrides: true"):
            asyncio.run(own.load("m", config, files))
    assert control.asked == []
    asyncio.run(own.load("m", "", {}))
    asyncio.run(none.reload("", dry_run=True))
    assert control.asked == [LoadRequest("m"), ReloadRequest(dry_run=True)]


@pytest.mark.parametrize("name", ["", "a/b", "é", "a\n", "x" * 300, ".x"])
def test_a_name_that_no_model_has(tmp_path, name):
    control = PlayedControl()
    there = repository(control, tmp_path)
    for change in (there.load(name, "", {}), there.unload(name, dependents=False)):
        with pytest.raises(InvalidRequest, match="there is no model"):
            asyncio.run(change)
    assert control.asked == []


@pytest.mark.parametrize("path", ["/a\0", "/" + "x" * 5000, "/a\n"])
def test_a_path_that_no_file_has(tmp_path, path):
    control = PlayedControl()
    with pytest.raises(InvalidRequest, match="path is no path"):
        asyncio.run(repository(control, tmp_path).reload(path, dry_run=True))
    assert control.asked == []


def test_unload_and_reload(tmp_path):
    control = PlayedControl()
    there = repository(control, tmp_path)
    asyncio.run(there.unload("m", dependents=False))
    asyncio.run(there.unload("all", dependents=True))
    assert asyncio.run(there.reload("/a.yaml", dry_run=False)) == control.result
    assert control.asked == [
        UnloadRequest("m"),
        UnloadRequest("all", True),
        ReloadRequest("/a.yaml"),
    ]


def test_a_change_whose_client_has_gone_is_made(tmp_path):
    class SlowControl(PlayedControl):
        async def ask(self, request):
            await may_answer.wait()
            return await super().ask(request)

    async def run():
        task = asyncio.create_task(repository(control, tmp_path).load("m", "{}", FILES))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_answer.set()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    may_answer = asyncio.Event()
    control = SlowControl(ChangeResult(1, error="no", is_wrong=True))
    with pytest.raises(InvalidRequest):
        asyncio.run(run())
    assert control.files
    assert uploads(tmp_path) == {}
