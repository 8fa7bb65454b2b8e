"""Makes the next release: `python .ci/release.py 0.2.0` (or `make release VERSION=0.2.0`).

Both distributions get the version, the section "Unreleased" of CHANGELOG.md becomes that of the
release, everything is committed and tagged, and the wheels are built into `dist/`. Nothing is
published: push the tag and upload the wheels when continuous integration has passed.
"""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
#: Where the version stands, by file; the group before and after it stay.
PLACES = {
    "pyproject.toml": [r'(^version = ")[^"]+(")', r'("ensembled-client[^"=]*==)[^"]+(")'],
    "clients/pyproject.toml": [r'(^version = ")[^"]+(")'],
    "Dockerfile": [r'(org\.opencontainers\.image\.version=")[^"]+(")'],
    "docs/deployment.md": [r"(image: registry\.example/ensembled:)\S+()"],
}
UNRELEASED = "## Unreleased\n"


class ReleaseError(Exception):
    """A release can't be made of this."""


def with_version(text: str, patterns: list[str], version: str) -> str:
    """Return a file's text with another version.

    Raises:
        ReleaseError: if a pattern does not occur.
    """
    for pattern in patterns:
        text, count = re.subn(pattern, rf"\g<1>{version}\g<2>", text, flags=re.MULTILINE)
        if not count:
            raise ReleaseError(f"no version at {pattern}")
    return text


def released(changelog: str, version: str, day: datetime.date) -> str:
    """Return the changelog with what is unreleased under a version, and nothing unreleased.

    Raises:
        ReleaseError: if nothing is unreleased, or there is such a version already.
    """
    head, found, rest = changelog.partition(UNRELEASED)
    if not found or not rest.split("\n## ")[0].strip():
        raise ReleaseError("CHANGELOG.md has nothing that is unreleased")
    if f"\n## {version} " in changelog:
        raise ReleaseError(f"CHANGELOG.md has {version} already")
    return f"{head}{UNRELEASED}\n## {version} ({day})\n{rest}"


def main(version: str) -> None:
    """Make the release.

    Raises:
        ReleaseError: if the version or the working tree is not fit for it.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"no version: {version!r}; like 0.2.0 or 0.2.0rc1")
    if _git("status", "--porcelain"):
        raise ReleaseError("there are uncommitted changes")
    texts = {
        name: with_version((ROOT / name).read_text(), patterns, version)
        for name, patterns in PLACES.items()
    }
    changelog = (ROOT / "CHANGELOG.md").read_text()
    texts["CHANGELOG.md"] = released(changelog, version, datetime.date.today())
    for name, text in texts.items():
        (ROOT / name).write_text(text)
    _git("commit", "--all", "--message", f"Release {version}")
    _git("tag", "--annotate", f"v{version}", "--message", f"Ensembled {version}")
    subprocess.run(["make", "wheels"], cwd=ROOT, check=True)
    print(f"tagged v{version}; the wheels are in dist/")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ReleaseError, TypeError) as error:
        sys.exit(f"error: {error}")
