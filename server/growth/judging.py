"""Has a trial's model checked, and its predictions of the validation rows written.

Runs in a process that trains, or in the command; the child (`server.growth.judging_process`), which
may crash, shares the messages. A member's section flows in, predictions flow into a file in the
trial's directory: whole numbers if they are classes, else numbers, [rows, ...].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from server.growth.training import TrialFailed
from workers.runtime.child_process import ChildError, run_child

__all__ = ["UNUSABLE", "Judgement", "Question", "judge"]

#: The kind of failure of a model that can't be loaded or run.
UNUSABLE = "model can't be served"
_TIMEOUT_S = 600.0


class Question(msgspec.Struct, frozen=True):
    """The member `name` of a library, and where its predictions of the rows of `data` go to."""

    name: str
    member: dict[str, Any]
    library: str
    data: str = ""
    output: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What is wrong with the model, empty if nothing is."""

    kind: str = ""
    problem: str = ""


def judge(
    name: str,
    member: dict[str, Any],
    library: Path,
    data: Path | None = None,
    output: Path | None = None,
) -> None:
    """Check that a model can be served; with `data` (.npz), write its predictions to `output`.

    Args:
        name: of the member.
        member: its section, paths relative to the library.
        library: the directory.
        data: rows that clients could send.
        output: of the predictions, .npy.

    Raises:
        TrialFailed: if it can't be loaded, fails, or can't predict the data.
    """
    question = Question(name, member, str(library), str(data or ""), str(output or ""))
    try:
        answer = run_child(
            f"check of {name}",
            "server.growth.judging_process",
            msgspec.json.encode(question),
            _TIMEOUT_S,
        )
    except ChildError as error:
        raise TrialFailed(UNUSABLE, f"the process that loaded it {error}") from None
    found = msgspec.json.decode(answer, type=Judgement)
    if found.kind:
        raise TrialFailed(found.kind, found.problem)
