"""Wheels hold all that their packages need at run time, and run where nothing else of ours is."""

import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.container.building import PROJECT

PROJECTS = {".": ("server", "allocator", "workers"), "clients": ("ensembled_client",)}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheels")
    return {
        project: next(
            WheelBuilder(str(PROJECT / project)).build(
                directory=str(directory), versions=["standard"]
            )
        )
        for project in PROJECTS
    }


@pytest.mark.parametrize(("project", "packages"), PROJECTS.items())
def test_a_wheel_holds_every_file_of_its_packages(project, packages, wheels):
    held = set(zipfile.ZipFile(wheels[project]).namelist())
    files = {
        str(path.relative_to(PROJECT / project))
        for package in packages
        for path in (PROJECT / project / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files
    assert files <= held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == set(packages)


def test_the_client_holds_the_protocols_messages(wheels):
    held = zipfile.ZipFile(wheels["clients"]).namelist()
    assert "ensembled_client/wire/open_inference.binpb" in held


@pytest.fixture(scope="module")
def environment(wheels, tmp_path_factory):
    """An environment with both wheels. Of this one it has the dependencies, but nothing of ours:
    what is installed here to be edited is found by .pth files, which count only where they are."""
    directory = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", directory)
    here = sysconfig.get_path("purelib")
    packages = sysconfig.get_path("purelib", vars={"base": str(directory)})
    (directory / "dependencies.pth").write_text(here)
    os.replace(directory / "dependencies.pth", os.path.join(packages, "dependencies.pth"))
    python = str(directory / "bin/python")
    found = run(python, "-c", "import numpy, importlib.util as u; print(u.find_spec('server'))")
    assert found == "None\n"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-index", "--no-deps", "--ignore-installed", *wheels.values())
    return directory


def run(*command):
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=clean, cwd="/", timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_modules_come_from_the_wheels(environment):
    packages = [package for packages in PROJECTS.values() for package in packages]
    names = ", ".join(packages)
    code = f"import {names}; print(*(package.__file__ for package in ({names})))"
    paths = run(environment / "bin/python", "-c", code).split()
    assert len(paths) == len(packages)
    assert all(path.startswith(str(environment)) for path in paths)


@pytest.mark.parametrize("script", ["ensembled", "ensembled-load"])
def test_the_commands_run(script, environment):
    assert "Usage" in run(environment / "bin" / script, "--help").title()


def test_the_server_finds_the_client_that_it_needs(environment):
    code = (
        "from importlib.metadata import requires, version; "
        "print(version('ensembled-client'), *requires('ensembled'), sep='\\n')"
    )
    version, *requirements = run(environment / "bin/python", "-c", code).splitlines()
    assert f"ensembled-client=={version}" in requirements
