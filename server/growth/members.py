"""The members of a growing library: which models it has now, in memory and on disk.

Runs in the command. Complete trials flow in; `library.yaml` and the directories of trials follow
what `choose` keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial

from server.errors import ConfigError
from server.growth.judging import judge
from server.growth.keeping import Grown, KeepOptions, choose
from server.growth.library import Library
from server.growth.process import member_name
from server.growth.training import TrialFailed
from server.growth.trials import member_of

__all__ = ["Members"]

_ABOUT = "Written by `ensembled grow`, which replaces it. Quality and configuration, best first:"


class Members:
    """The kept models; `data` are validation rows, `digest` names their content.

    Attributes:
        kept: the trials, best first, with their quality.
    """

    def __init__(
        self, library: Library, options: KeepOptions, data: Path | None, digest: str
    ) -> None:
        self.kept: tuple[tuple[int, float], ...] = ()
        self._library = library
        self._options = options
        self._data = data
        self._digest = digest
        self._models: dict[int, tuple[Grown, FrozenTrial]] = {}

    def recover(self, complete: Iterable[FrozenTrial]) -> None:
        """Take over the complete trials whose models are there, and remove all other files.

        Raises:
            ConfigError: if their models can't predict the data; nothing is removed then.
        """
        known = [trial for trial in complete if self._library.trial(trial.number).is_dir()]
        if not known and self._library.file.exists():
            raise ConfigError(
                f"--library {self._library.directory}: the storage does not have the trials of its "
                "members: give the --storage that it was grown with, or another --library"
            )
        for trial in known:
            self._load(trial)
        self._choose()
        self._library.sweep(number for number, _ in self.kept)

    def add(self, trial: FrozenTrial) -> None:
        """Take a trial that has completed, and keep it if that is worth it."""
        self._load(trial)
        self._choose()

    def _load(self, trial: FrozenTrial) -> None:
        number, (_, nbytes) = trial.number, member_of(trial)
        predictions = None
        if self._data is not None:
            path = self._library.predictions(number, self._digest)
            if not path.is_file():  # the trial ended when other data were given, or none
                self._predict(trial, self._data, path)
            predictions = np.load(path, allow_pickle=False)
        assert trial.value is not None
        self._models[number] = Grown(number, trial.value, nbytes, predictions), trial

    def _predict(self, trial: FrozenTrial, data: Path, path: Path) -> None:
        name, (section, _) = member_name(trial.number), member_of(trial)
        try:
            judge(name, section, self._library.directory, data, path)
        except TrialFailed as error:
            raise ConfigError(f"--data {data}: {name}: {error.kind}: {error}") from None

    def _choose(self) -> None:
        choice = choose([grown for grown, _ in self._models.values()], self._options)
        kept = [self._models[number] for number in choice.kept]
        self.kept = tuple((grown.number, grown.quality) for grown, _ in kept)
        if kept:
            self._library.write(
                {member_name(grown.number): member_of(trial)[0] for grown, trial in kept},
                [
                    _ABOUT,
                    *(
                        f"{member_name(grown.number)}: {grown.quality:.6g} {trial.params}"
                        for grown, trial in kept
                    ),
                ],
            )
        for number in choice.dropped:
            del self._models[number]
            self._library.remove(number)
