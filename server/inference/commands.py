"""The messages between supervisor and front-end: commands, and reports of what became of them.

Each is a line of JSON: commands on the front-end's stdin, after its spec, reports on its status
channel.
"""

from __future__ import annotations

import msgspec

from server.control import Answer, Ask
from server.following.traffic import Traffic
from server.inference.spec import ChangeCounts, DeploymentSpec
from server.security.spec import SecuritySpec
from workers.runtime.spec import Attach, Detach

__all__ = [
    "Changes",
    "Command",
    "Drain",
    "Drained",
    "Held",
    "Hold",
    "Prepare",
    "Prepared",
    "Release",
    "Released",
    "Reload",
    "Report",
    "Resume",
    "Switch",
    "Switched",
    "WorkerDown",
    "WorkerReaped",
    "WorkerStarted",
]


class WorkerStarted(msgspec.Struct, frozen=True, tag=True):
    """A worker is starting."""

    device: str
    incarnation: int


class WorkerReaped(msgspec.Struct, frozen=True, tag=True):
    """A worker has died and was reaped; `executing` is the job it was running, or 0."""

    device: str
    incarnation: int
    executing: int


class WorkerDown(msgspec.Struct, frozen=True, tag=True):
    """A worker keeps dying at its start and is given up."""

    device: str


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Refuse new requests, answer accepted ones, then exit."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Apply the parts of a reloaded configuration that need no restart."""

    security: SecuritySpec
    log_level: str


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Make everything ready to serve a deployment; no request goes to it yet."""

    deployment: DeploymentSpec


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: that generation can be switched to, if there is no error."""

    generation: int
    error: str = ""


class Switch(msgspec.Struct, frozen=True, tag=True):
    """Have all new requests go to a generation that is prepared."""

    generation: int


class Switched(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: no new request goes to another generation."""

    generation: int


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: no request and no open job of a former generation is left."""

    generation: int


class Release(msgspec.Struct, frozen=True, tag=True):
    """Nothing of that generation is needed any more, if it is known at all."""

    generation: int


class Released(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: nothing of that generation is left."""

    generation: int


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Let go of what must make room for a generation that comes.

    Attributes:
        generation: the one that comes.
        models: internal names of those whose new requests wait until the switch.
        members: internal names of those that requests accepted from now on do without.
    """

    generation: int
    models: tuple[str, ...]
    members: tuple[str, ...]


class Held(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: no request, open job or pending row needs what is held."""

    generation: int


class Resume(msgspec.Struct, frozen=True, tag=True):
    """What is held is served again: there will be no switch."""


class Changes(msgspec.Struct, frozen=True, tag=True):
    """A change of what is served is over."""

    counts: ChangeCounts


Command = (
    WorkerStarted
    | WorkerReaped
    | WorkerDown
    | Attach
    | Detach
    | Drain
    | Reload
    | Prepare
    | Switch
    | Release
    | Hold
    | Resume
    | Changes
    | Answer
)
Report = Prepared | Switched | Drained | Released | Held | Ask | Traffic
