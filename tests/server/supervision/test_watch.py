"""Watching real files."""

import asyncio
import contextlib
import shutil

from server.supervision.watch import FileWatch

TIMEOUT_S = 20.0


def changes(paths, *actions):
    """Do one thing after another, each when the one before was reported; return what was left."""

    async def run():
        has_looked = asyncio.Event()
        calls = []

        def watched():
            calls.append(1)
            if len(calls) > 1:  # the first look is over
                has_looked.set()
            return set(paths)

        async with contextlib.aclosing(FileWatch(watched, 0.01).bursts()) as bursts:
            for action in actions:
                burst = asyncio.ensure_future(anext(bursts))
                await asyncio.wait_for(has_looked.wait(), TIMEOUT_S)
                action()
                await asyncio.wait_for(burst, TIMEOUT_S)

    asyncio.run(run())


def test_a_file_is_written_and_replaced_and_goes_and_comes(tmp_path):
    path, other = tmp_path / "a.yaml", tmp_path / "other"
    path.write_text("1")

    def replace():
        other.write_text("3")
        other.replace(path)

    changes(
        [path],
        lambda: path.write_text("22"),
        replace,
        lambda: path.write_text("4444"),
        path.unlink,
        lambda: path.write_text("5"),
    )


def test_a_directory_vanishes_and_comes_again(tmp_path):
    directory = tmp_path / "models" / "cat"
    file = directory / "m.onnx"
    directory.mkdir(parents=True)
    file.write_text("1")

    def make():
        directory.mkdir(parents=True)
        file.write_text("22")

    changes(
        [file],
        lambda: shutil.rmtree(tmp_path / "models"),
        make,
        lambda: file.write_text("333"),
    )


def test_a_new_version_in_a_directory_and_what_is_written_there_later(tmp_path):
    def make():
        (tmp_path / "versions/2").mkdir(parents=True)

    (tmp_path / "versions/1").mkdir(parents=True)
    changes(
        [tmp_path / "versions"],
        make,
        lambda: (tmp_path / "versions/2/model.onnx").write_text("1"),
        lambda: (tmp_path / "versions/2/model.onnx").write_text("22"),
        lambda: shutil.rmtree(tmp_path / "versions/1"),
    )


def test_a_link_is_what_it_points_to(tmp_path):
    """As Kubernetes replaces the files of a ConfigMap: by renaming a link to their directory."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(name)
    (tmp_path / "data").symlink_to("one")
    (tmp_path / "config.yaml").symlink_to("data/config.yaml")

    def swap():
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").replace(tmp_path / "data")

    changes([tmp_path / "config.yaml"], swap)


def test_a_burst_is_reported_once_and_other_files_not_at_all(tmp_path):
    first, second, third = (tmp_path / name for name in ("a", "b", "other"))

    def write():
        third.write_text("1")
        first.write_text("1")
        second.write_text("1")

    async def run():
        watch = FileWatch(lambda: {first, second}, 0.05)
        seen = await watch._look()
        write()
        settled = await watch._settled(seen)
        assert settled != seen
        assert settled.keys() == {first, second}
        assert settled == await watch._look()

    asyncio.run(run())
