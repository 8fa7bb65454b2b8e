"""Wheels hold all that their packages need at run time."""

import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.container.building import PROJECT


@pytest.mark.parametrize(
    ("project", "packages"),
    [(".", ("server", "allocator", "workers")), ("clients", ("ensembled_client",))],
)
def test_a_wheel_holds_every_file_of_its_packages(project, packages, tmp_path):
    (wheel,) = WheelBuilder(str(PROJECT / project)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(PROJECT / project))
        for package in packages
        for path in (PROJECT / project / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert any(name.endswith(".binpb") for name in files)
    assert files <= held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == set(packages)
