"""The trials of a library in Optuna's storage: what is tried next, what came of it, what was lost.

Runs in the command and in the processes that train, which share the storage, a database. A
`StudySpec` flows in. A trial is *settled* once its end is known; one that was lost with its process
is put back, and settled by the trial that repeats it.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from server.errors import ConfigError
from server.growth.training import Trained
from workers.runtime.texts import one_line

__all__ = [
    "Failure",
    "Pruning",
    "StudySpec",
    "Trials",
    "failure_of",
    "is_settled",
    "member_of",
    "was_put_back",
]

Pruning = Literal["hyperband", "asha", "none"]

#: How long a process waits for SQLite while others write.
_SQLITE_TIMEOUT_S = 60.0
_MEMBER, _BYTES, _FAILURE, _WORKER = "member", "nbytes", "failure", "worker"
#: Of a trial that was lost: it is repeated. Of one that repeats another: its number.
_PUT_BACK, _REPEATS = "put_back", "repeats"
_SECONDS = "seconds"


class StudySpec(msgspec.Struct, frozen=True):
    """Which trials there are, and how they are chosen and pruned.

    Attributes:
        storage: URL of a database, as Optuna takes it.
        name: of the study in it.
        minimize: whether a lower metric is better.
        budget: most metrics of a trial.
        grace: how many metrics a trial yields before it may be stopped.
        reduction: of the trials that reach a rung, one of so many goes on.
    """

    storage: str = ""
    name: str = ""
    minimize: bool = False
    budget: int = 27
    grace: int = 1
    reduction: int = 3
    pruning: Pruning = "hyperband"
    seed: int = 0


class Failure(msgspec.Struct, frozen=True):
    """Why a trial gave no member; `file` has the traceback, relative to the library, if any."""

    kind: str
    message: str
    file: str = ""


class Trials:
    """The trials; `worker` is the number of the process that asks for them.

    Raises:
        ConfigError: if the storage can't be used.
    """

    def __init__(self, spec: StudySpec, worker: int = 0) -> None:
        optuna.logging.disable_default_handler()
        optuna.logging.enable_propagation()
        logging.getLogger("optuna").setLevel(logging.WARNING)
        self._spec = spec
        self._worker = worker
        try:
            self._storage = _open(spec.storage)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=spec.name,
                direction="minimize" if spec.minimize else "maximize",
                pruner=_pruner(spec),
                load_if_exists=True,
            )
            self._study.sampler = self._sampler()
        except Exception as error:
            raise ConfigError(f"--storage: {one_line(error)}") from error
        self._check()

    def ask(self) -> Trial:
        """Return a trial to run: one that was put back, else a new one."""
        trial = self._study.ask()
        trial.set_user_attr(_WORKER, self._worker)
        return trial

    def complete(self, trial: Trial, trained: Trained) -> None:
        """End a trial that gave a member."""
        trial.set_user_attr(_MEMBER, trained.member)
        trial.set_user_attr(_BYTES, trained.nbytes)
        self._study.tell(trial, trained.quality)

    def prune(self, trial: Trial) -> None:
        """End a trial that others are better than."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, number: int, failure: Failure) -> None:
        """End a trial that failed."""
        self._set(number, _FAILURE, msgspec.to_builtins(failure))
        self._study.tell(number, state=TrialState.FAIL)

    def lose(self, workers: Container[int] | None = None, failure: Failure | None = None) -> None:
        """End the running trials of processes that have ended; of all if none are named.

        They are put back. With a `failure`, which is how the process died, one that repeats another
        has failed: what kills two processes would kill a third.
        """
        for trial in self.all((TrialState.RUNNING,)):
            attributes = trial.user_attrs
            if workers is not None and attributes.get(_WORKER, -1) not in workers:
                continue
            if failure is not None and _REPEATS in attributes:
                self.fail(trial.number, failure)
                continue
            self._set(trial.number, _PUT_BACK, True)
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params, user_attrs={_REPEATS: trial.number})

    def all(self, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials, those in some states if any are given."""
        return self._study.get_trials(deepcopy=False, states=states)

    @property
    def spent_s(self) -> float:
        """Seconds that commands have worked on the library."""
        return float(self._study.user_attrs.get(_SECONDS, 0.0))

    @spent_s.setter
    def spent_s(self, seconds: float) -> None:
        self._study.set_user_attr(_SECONDS, seconds)

    def _set(self, number: int, key: str, value: Any) -> None:
        study = self._storage.get_study_id_from_name(self._spec.name)
        trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
        self._storage.set_trial_user_attr(trial, key, value)

    def _sampler(self) -> TPESampler:
        # A process that continues must not draw the numbers of one before it again.
        numbers = [self._spec.seed, self._worker, len(self.all())]
        seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
        return TPESampler(seed=seed)

    def _check(self) -> None:
        """Compare what must stay as it was, and note it the first time."""
        now = {"--minimize": self._spec.minimize, "--trial-budget": self._spec.budget}
        for option, value in now.items():
            before = self._study.user_attrs.get(option)
            if before is None:
                self._study.set_user_attr(option, value)
            elif before != value:
                raise ConfigError(
                    f"{option}: this library was begun with {before}, and its trials could not be "
                    f"compared with {value}: keep it, or take another --library"
                )


def is_settled(trial: FrozenTrial) -> bool:
    """Whether the trial has ended and is not repeated."""
    return trial.state.is_finished() and not was_put_back(trial)


def was_put_back(trial: FrozenTrial) -> bool:
    """Whether the trial was lost, and is repeated."""
    return _PUT_BACK in trial.user_attrs


def member_of(trial: FrozenTrial) -> tuple[dict[str, Any], int]:
    """Return the section of a complete trial's member, and the bytes of its files."""
    return trial.user_attrs[_MEMBER], trial.user_attrs[_BYTES]


def failure_of(trial: FrozenTrial) -> Failure | None:
    """Return why a trial failed, None if it did not."""
    found: Mapping[str, str] | None = trial.user_attrs.get(_FAILURE)
    return None if found is None else Failure(**found)


def _open(url: str) -> RDBStorage:
    if url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _SQLITE_TIMEOUT_S}})
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _pruner(spec: StudySpec) -> BasePruner:
    if spec.pruning == "none":
        return NopPruner()
    if spec.pruning == "asha":
        return SuccessiveHalvingPruner(min_resource=spec.grace, reduction_factor=spec.reduction)
    return HyperbandPruner(
        min_resource=spec.grace, max_resource=spec.budget, reduction_factor=spec.reduction
    )
