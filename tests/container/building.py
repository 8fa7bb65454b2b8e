"""Follows the Dockerfile's steps in directories: the file in, a root directory per stage out.

The base image is played by a minimal Debian of the release that its tag names, made by
debootstrap, with that release's Python in the place of the image's own. Each stage is made in a
copy of what it is made from; its RUN instructions run there by chroot, in a mount namespace of
their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.container.dockerfile import Instruction, Stage, expand, read_dockerfile

__all__ = ["PROJECT", "Image", "Replay"]

PROJECT = Path(__file__).parents[2]
#: What pip and TLS need to get through from this machine is its own, not the image's.
_HOSTS_VARIABLES = re.compile(r"PIP_(CERT|.*TIMEOUT|FIND_LINKS|INDEX_URL)|SSL_\w+|\w+_PROXY", re.I)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Image:
    """What a stage has become: its directory, its environment, and each instruction's last use."""

    root: Path
    environment: dict[str, str]
    last: dict[str, Instruction] = field(default_factory=dict)

    @property
    def directory(self) -> str:
        """The working directory, as seen within."""
        return self.last["WORKDIR"].text if "WORKDIR" in self.last else "/"

    def path(self, name: str) -> Path:
        """A path within, relative ones in the working directory, as seen from here."""
        return self.root / os.path.join(self.directory, name).lstrip("/")


class Replay:
    """The making of the stages of the Dockerfile.

    Args:
        work: where their directories go.
        arguments: what `docker build --build-arg` would get.
        binds: files and directories of this machine that RUN instructions see as well.
    """

    def __init__(self, work: Path, arguments: dict[str, str], binds: list[Path]) -> None:
        self._work = work
        self._arguments = arguments
        self._binds = [Path("/dev"), Path("/proc"), Path("/etc/hosts"), Path("/etc/resolv.conf")]
        self._binds += [bind.absolute() for bind in binds]
        defaults, self._stages = read_dockerfile(PROJECT / "Dockerfile")
        self._base_image = defaults["PYTHON_IMAGE"]
        self._images: dict[str, Image] = {}

    def make(self, name: str) -> Image:
        """Make a stage, and before it all that it needs."""
        if name in self._images:
            return self._images[name]
        stage = self._stages[name]
        for needed in _needed(stage):
            self.make(needed)
        base = self.make(stage.base) if stage.base in self._stages else self._debian()
        print(f"== {name}, from {base.root.name}", flush=True)
        root = self._work / name
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", base.root, root], check=True)
        image = self._images[name] = Image(root, dict(base.environment), dict(base.last))
        for instruction in stage.instructions:
            print(f"   {instruction.word} {instruction.text}"[:100], flush=True)
            self._follow(instruction, image)
        return image

    def _debian(self) -> Image:
        release = self._base_image.rpartition("-")[2]
        root = self._work / release
        if not root.exists():
            print(f"== Debian {release} in the place of {self._base_image}", flush=True)
            packages = "--include=python3,python3-venv,ca-certificates"
            command = ["debootstrap", "--variant=minbase", packages, release, str(root)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        return Image(root, {"PATH": _PATH, "LANG": "C.UTF-8"})

    def _follow(self, instruction: Instruction, image: Image) -> None:
        text = instruction.text
        if instruction.word != "RUN":  # there the shell does it
            text = expand(text, image.environment)
        expanded = Instruction(instruction.word, instruction.flags, text)
        match instruction.word:
            case "ARG":
                for name, default in expanded.pairs.items():
                    image.environment[name] = self._arguments.get(name, default)
            case "ENV":
                image.environment.update(expanded.pairs)
            case "COPY":
                self._copy(expanded, image)
            case "RUN":
                self._run(expanded, image)
            case "WORKDIR":
                (image.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        image.last[instruction.word] = expanded

    def _copy(self, copy: Instruction, image: Image) -> None:
        origin = self._images[copy.flags["from"]].root if "from" in copy.flags else PROJECT
        ignored = shutil.ignore_patterns("__pycache__") if origin == PROJECT else None
        *sources, target = copy.words
        for source in sources:
            path, to = origin / source.lstrip("/"), image.path(target)
            if path.is_dir():
                shutil.copytree(path, to, symlinks=True, ignore=ignored, dirs_exist_ok=True)
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)

    def _run(self, run: Instruction, image: Image) -> None:
        mounts = {bind: str(bind) for bind in self._binds}
        if "mount" in run.flags:
            flag = dict(part.split("=") for part in run.flags["mount"].split(","))
            assert flag["type"] == "bind", flag
            mounts[self._images[flag["from"]].path(flag["source"])] = flag["target"]
        script, made = "", []
        for source, target in mounts.items():
            to = image.root / target.lstrip("/")
            if not to.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                to.mkdir() if source.is_dir() else to.touch()
                made.append(to)
            script += f"mount --rbind {source} {to}\n"
        script += f'exec chroot {image.root} /bin/sh -c "cd {image.directory} && $1"'
        hosts = {name: text for name, text in os.environ.items() if _HOSTS_VARIABLES.match(name)}
        command = ["unshare", "--mount", "/bin/sh", "-ec", script, "sh", run.text]
        subprocess.run(command, check=True, env={**hosts, **image.environment})
        for to in made:
            to.rmdir() if to.is_dir() else to.unlink()


def _needed(stage: Stage) -> list[str]:
    """The stages that files are taken from."""
    flags = [instruction.flags for instruction in stage.instructions]
    copied = [flag["from"] for flag in flags if "from" in flag]
    mounted = [re.findall(r"from=([\w-]+)", flag.get("mount", "")) for flag in flags]
    return copied + [name for names in mounted for name in names]
