"""The locks in configs/locks agree with the ranges of pyproject.toml, and hold all that is needed.

A test that fails here after pyproject.toml has changed is put right by `make lock`.
"""

import importlib.metadata
import re
import runpy
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "configs/locks"
RENEW = runpy.run_path(str(LOCKS / "renew.py"))
SERVER = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT = tomllib.loads((ROOT / "clients/pyproject.toml").read_text())["project"]
PROJECTS = {"server": SERVER, "client": CLIENT} | {each["name"]: each for each in (SERVER, CLIENT)}
ENVIRONMENTS = {"dev": RENEW["DEV"], **RENEW["IMAGES"]}
HASHED = sorted(path for path in LOCKS.rglob("*.txt") if path.name != "torch.txt")
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
MACHINES = ("x86_64", "aarch64")
PLATFORMS = [
    {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in PYTHONS
    for machine in MACHINES
]


def holds(marker: Marker | None, platform, extra: str = "") -> bool:
    return marker is None or marker.evaluate({**platform, "extra": extra})


def locked(path: Path, platform) -> dict[str, str]:
    """Versions by name, of what is meant for a platform."""
    versions = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", " ")):
            requirement = Requirement(line.removesuffix("\\"))
            if holds(requirement.marker, platform):
                name = canonicalize_name(requirement.name)
                assert name not in versions, f"{path.name} has two versions of {name}"
                (specifier,) = requirement.specifier
                assert specifier.operator == "=="
                versions[name] = specifier.version
    return versions


def environment(name: str, platform) -> dict[str, str]:
    """What a lock installs, with torch and CUDA where it wants them."""
    return locked(LOCKS / "torch.txt", platform) | locked(LOCKS / f"{name}.txt", platform)


def wanted(requirement: Requirement):
    """What a requirement of ours comes down to, or itself."""
    project = PROJECTS.get(requirement.name)
    if project is None:
        yield requirement
        return
    lines = list(project["dependencies"])
    for extra in requirement.extras:
        lines += project["optional-dependencies"][extra]
    for line in lines:
        yield from wanted(Requirement(line))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda each: f"{each['python_version']}")
def test_a_lock_satisfies_the_ranges(name, platform):
    versions = environment(name, platform)
    for line in ENVIRONMENTS[name]:
        for requirement in wanted(Requirement(line)):
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{name}: {requirement}: {version}"


def test_the_server_needs_the_client_of_its_own_version():
    (pin,) = [line for line in SERVER["dependencies"] if line.startswith(CLIENT["name"])]
    assert pin == f"{CLIENT['name']}=={CLIENT['version']}"
    assert SERVER["version"] == CLIENT["version"]


def test_neither_distribution_of_ours_is_looked_for_in_an_index():
    names = {canonicalize_name(project["name"]) for project in (SERVER, CLIENT)}
    for path in HASHED:
        for platform in PLATFORMS:
            assert not names & locked(path, platform).keys()


def test_every_extra_has_a_lock():
    covered = {
        extra
        for lines in ENVIRONMENTS.values()
        for line in lines
        for extra in extras_of(Requirement(line))
    }
    # Libraries that need an environment of their own are pinned where `make test-doors` tries them.
    doors = {path.stem: path for path in (ROOT / "tests/doors/requirements").glob("*.txt")}
    for extra in doors.keys() & SERVER["optional-dependencies"].keys():
        ranges = map(Requirement, SERVER["optional-dependencies"][extra])
        (library,) = [one for one in ranges if one.name == extra]
        pin = Requirement(doors[extra].read_text(encoding="utf-8").strip())
        assert pin.name == extra
        assert library.specifier.contains(str(pin.specifier).removeprefix("=="))
        covered.add((SERVER["name"], extra))
    assert covered == {
        (project["name"], extra)
        for project in (SERVER, CLIENT)
        for extra in project["optional-dependencies"]
    }


def extras_of(requirement: Requirement):
    project = PROJECTS.get(requirement.name)
    for extra in requirement.extras if project else ():
        yield project["name"], extra
        for line in project["optional-dependencies"][extra]:
            yield from extras_of(Requirement(line))


def test_the_lock_holds_what_its_packages_need():
    """By their own metadata, as far as they are installed here in the lock's version."""
    here = {**PLATFORMS[0], "python_version": "3.11"}
    versions = environment("dev", here)
    waiting = [each for line in ENVIRONMENTS["dev"] for each in wanted(Requirement(line))]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{requirement} is missing"
        for extra in {"", *requirement.extras} - {extra for one, extra in seen if one == name}:
            seen.add((name, extra))
            waiting += [
                each for each in needs(name, versions[name]) if holds(each.marker, here, extra)
            ]
    assert len(seen) >= len(ENVIRONMENTS["dev"])


def needs(name: str, version: str) -> list[Requirement]:
    try:
        if importlib.metadata.version(name) != version:  # newer or older than the lock
            return []
    except importlib.metadata.PackageNotFoundError:  # CUDA's, with a torch for CPUs
        return []
    return list(map(Requirement, importlib.metadata.requires(name) or []))


def test_the_images_have_the_versions_that_the_tests_run_with():
    for platform in PLATFORMS:
        tested = locked(LOCKS / "dev.txt", platform)
        for name in RENEW["IMAGES"]:
            image = locked(LOCKS / f"{name}.txt", platform)
            assert {each: tested.get(each, version) for each, version in image.items()} == image


@pytest.mark.parametrize("path", HASHED, ids=lambda path: path.stem)
def test_everything_else_has_hashes_and_no_index(path):
    text = path.read_text()
    entries = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.search(r"\n    --hash=sha256:[0-9a-f]{64}( \\)?\n", entry), entry
    assert not re.search(r"https?:|file:|index|find-links|@", text)


def test_torch_and_cuda_are_bound_by_version_alone():
    lines = (LOCKS / "torch.txt").read_text().splitlines()
    names = [Requirement(line).name for line in lines if not line.startswith("#")]
    assert all(before < after for before, after in pairwise(names))
    assert "torch" in names
    assert all(RENEW["IS_UNHASHED"].match(f"{name}==") for name in names)
    for path in HASHED:
        if path.stem in ENVIRONMENTS:
            assert not re.search(rf"^({'|'.join(names)})==", path.read_text(), re.MULTILINE)


PREFLIGHT = runpy.run_path(str(LOCKS / "preflight.py"))


@pytest.mark.parametrize(
    ("version", "has_venv", "free", "said"),
    [
        ((3, 11), True, 10**10, ""),
        ((3, 14), True, 10**10, ""),
        ((3, 9), True, 10**10, "Python 3.9 is too old"),
        ((3, 12), False, 10**10, "apt install python3.12-venv"),
        ((3, 12), True, 10**9, "1.0 GB are free here"),
    ],
)
def test_setup_says_in_a_line_what_is_wrong(version, has_venv, free, said):
    problem = PREFLIGHT["problem"](version, has_venv, free)
    assert said in problem
    assert bool(problem) == bool(said)
    assert "\n" not in problem
