"""Trains: runs one trial whenever it is told to, in a process that a user's function may end.

Runs as a child of `ensembled grow`, which holds it as a `Worker` (`server.growth.workers`). A
`WorkerSpec` and then a line per trial flow in on stdin, messages flow out on the status channel.
What a trial came to is in the storage before it is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import msgspec
import optuna

from server.growth.judging import judge
from server.growth.library import Library
from server.growth.training import NotTrainable, Pruned, Run, Trained, TrialFailed, train
from server.growth.trials import Failure, StudySpec, Trials
from workers.runtime.bootstrap import (
    Started,
    StatusChannel,
    bind_to_device,
    follow_supervisor,
    run_role,
)
from workers.runtime.importing import ImportFailed, describe_failure, import_function
from workers.runtime.logs import ProcessName
from workers.runtime.spec import DeviceSpec

__all__ = ["Asked", "Ended", "Metric", "Unusable", "WorkerSpec", "main", "member_name"]

_SPACE = "space"


class WorkerSpec(msgspec.Struct, frozen=True):
    """The child's first line.

    Attributes:
        function: ``package.module:NAME`` or ``FILE.py:NAME``.
        imports: the directory in which modules are looked up, too.
        fixed: entries of every configuration.
        data: an .npz file of validation rows, "" if there is none; `digest` is that of its content.
    """

    index: int
    device: DeviceSpec
    function: str
    imports: str
    library: str
    study: StudySpec
    fixed: dict[str, Any] = {}
    data: str = ""
    digest: str = ""


class Asked(msgspec.Struct, frozen=True, tag=True):
    """A trial has begun."""

    number: int


class Metric(msgspec.Struct, frozen=True, tag=True):
    """The running trial has yielded a metric, the `step`-th."""

    step: int
    value: float


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The running trial has ended, in one of three ways."""

    number: int
    outcome: str  # complete, pruned, failed
    failure: Failure | None = None


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """The user's functions can't be used for any trial; the process ends."""

    error: str


class _Trainer:
    """The user's functions, and the trials."""

    def __init__(self, spec: WorkerSpec, status: StatusChannel) -> None:
        self._spec = spec
        self._status = status
        self._library = Library(Path(spec.library))
        self._train = import_function(spec.function, spec.imports)
        where, _, _ = spec.function.rpartition(":")
        self._space = import_function(f"{where}:{_SPACE}", spec.imports)
        self._trials = Trials(spec.study, spec.index)

    def run_trial(self) -> None:
        """Ask for a trial, run it, and tell what came of it.

        Raises:
            NotTrainable: if the user's functions can't be used for any trial.
        """
        trial = self._trials.ask()
        number = trial.number
        self._status.send(Asked(number))
        failure = None
        try:
            trained = self._train_one(trial)
            self._trials.complete(trial, trained)
            self._status.send(Ended(number, "complete"))
            return
        except NotTrainable:
            self._trials.lose([self._spec.index])
            raise
        except Pruned:
            self._library.remove(number)
            self._trials.prune(trial)
            self._status.send(Ended(number, "pruned"))
            return
        except TrialFailed as error:
            failure = self._failure(number, error.kind, str(error), trial.params, error)
        except BaseException as error:  # of the user's code: SystemExit, too
            text = describe_failure(error)
            failure = self._failure(number, type(error).__name__, text, trial.params, error)
        self._library.remove(number)
        self._trials.fail(number, failure)
        self._status.send(Ended(number, "failed", failure))

    def _train_one(self, trial: optuna.Trial) -> Trained:
        spec, number = self._spec, trial.number
        config = self._space(trial)
        if not isinstance(config, Mapping):
            raise NotTrainable(f"{_SPACE} should return a mapping, the configuration")
        directory = self._library.trial(number)
        self._library.remove(number)
        directory.mkdir()

        def on_metric(step: int, value: float) -> bool:
            trial.report(value, step)
            self._status.send(Metric(step, value))
            return step < spec.study.budget and trial.should_prune()

        run = Run(
            number=number,
            budget=spec.study.budget,
            directory=directory,
            device="cuda" if spec.device.is_cuda else "cpu",
            cores=len(spec.device.cores),
            seed=_seed(spec.study.seed, number),
        )
        trained = train(
            self._train, {**config, **spec.fixed}, run, self._library.directory, on_metric
        )
        judge(
            member_name(number),
            trained.member,
            self._library.directory,
            Path(spec.data) if spec.data else None,
            self._library.predictions(number, spec.digest),
        )
        return trained

    def _failure(
        self, number: int, kind: str, message: str, config: Mapping[str, Any], error: BaseException
    ) -> Failure:
        """Return the failure, after writing its traceback to a file if the disk has space."""
        file = self._library.failure(number)
        with contextlib.suppress(OSError):
            text = "".join(traceback.format_exception(error))
            file.write_text(f"{dict(config)}\n\n{text}", encoding="utf-8", errors="replace")
        return Failure(kind, message, str(file.relative_to(self._library.directory)))


def member_name(number: int) -> str:
    """Return the name of the member that a trial gives."""
    return f"trial-{number:04}"


def _seed(seed: int, number: int) -> int:
    """Return a trial's seed, 31 bits, as every library takes it."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def main() -> None:
    """Entry point of the child."""

    def run(spec: WorkerSpec, commands: BinaryIO, status: StatusChannel) -> None:
        bind_to_device(spec.device)
        turns: SimpleQueue[bytes] = SimpleQueue()
        follow_supervisor(commands, turns.put)
        try:
            trainer = _Trainer(spec, status)
            status.send(Started())
            while turns.get():
                trainer.run_trial()
        except (ImportFailed, NotTrainable) as error:
            status.send(Unusable(str(error)))
            raise

    run_role(lambda spec: ProcessName("trainer", str(spec.index)), WorkerSpec, run)


if __name__ == "__main__":
    main()
