"""Grows a library: keeps processes training, and keeps their good and different models.

Runs in the command `ensembled grow`. Options flow in, progress flows to a callback, a `Growth`
flows out. All that lasts is in the storage and in the library's directory, so the same call
continues what was interrupted, however that was.
"""

from __future__ import annotations

import hashlib
import math
import selectors
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from msgspec.structs import replace
from optuna.trial import TrialState

from server.errors import ConfigError, StartError
from server.growth.keeping import KeepOptions
from server.growth.library import Library
from server.growth.members import Members
from server.growth.process import Ended, Unusable, WorkerSpec
from server.growth.trials import (
    Failure,
    StudySpec,
    Trials,
    failure_of,
    is_settled,
    was_put_back,
)
from server.growth.workers import Worker, training_devices

__all__ = ["End", "GrowOptions", "Growth", "OnProgress", "grow"]

#: Why a call ended.
End = Literal["trials", "budget", "interrupted", "failing"]

#: How often progress is shown, and signals are noticed.
_TICK_S = 0.5
#: How often the time that was spent is saved.
_SAVE_S = 10.0
#: So many trials that fail one after the other end the command: something is wrong with all.
_MOST_FAILURES = 10
#: A process whose last trials have failed is replaced: they may have left it unfit for any.
_UNFIT_FAILURES = 5
_DIGEST_LETTERS = 12
_DIED = "process died"


@dataclass(frozen=True)
class GrowOptions:
    """What to grow; paths are absolute.

    Attributes:
        function: ``package.module:NAME``, or ``FILE.py:NAME`` with an absolute path.
        imports: the directory in which modules are looked up, too.
        library: the directory.
        study: how trials are chosen and pruned; its name is set here, and its storage, unless there
            is one: a file in the library.
        keep: which models the library keeps.
        trials: of the library, after which it is complete; None for no limit.
        budget_s: seconds that commands may work on the library, in all; None for no limit.
        workers: processes that train; None for one per device.
        data: .npz of validation rows.
        fixed: entries of every configuration.
    """

    function: str
    imports: str
    library: Path
    study: StudySpec
    keep: KeepOptions
    trials: int | None = None
    budget_s: float | None = None
    workers: int | None = None
    data: Path | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """What has grown so far.

    Attributes:
        ended: why this call ended; None while it goes on.
        complete: trials that gave a model; `pruned`: that were stopped, since others are better;
            `failed`.
        put_back: trials that were lost with their process, and were or will be repeated.
        running: trials that run now.
        kept: the trials of the library's members, best first, with their quality.
        failures: of each kind, how many, and an example.
        spent_s: seconds that commands have worked on the library.
        metrics: how many all trials have yielded.
    """

    library: Path
    ended: End | None
    complete: int
    pruned: int
    failed: int
    put_back: int
    running: int
    kept: tuple[tuple[int, float], ...]
    failures: Mapping[str, tuple[int, Failure]]
    spent_s: float
    metrics: int

    @property
    def settled(self) -> int:
        """How many trials have ended."""
        return self.complete + self.pruned + self.failed


OnProgress = Callable[[Growth], None]


def grow(options: GrowOptions, on_progress: OnProgress = lambda _: None) -> Growth:
    """Grow a library until it is complete, the time is spent, or SIGINT or SIGTERM arrives.

    Raises:
        ConfigError: if an option, the storage or the user's function is wrong.
        StartError: if a process can't start.
    """
    library = Library(options.library)
    with library.locked() as lock, _signals() as interrupted:
        return _Grower(options, library, on_progress).run(lock, interrupted)


class _Grower:
    """The state of a call: its processes, the trials as of the last end, and the members."""

    def __init__(self, options: GrowOptions, library: Library, on_progress: OnProgress) -> None:
        self._options = options
        self._library = library
        self._on_progress = on_progress
        self._digest = "" if options.data is None else _digest(options.data)
        storage = options.study.storage or library.storage
        self._study = replace(options.study, storage=storage, name=library.study())
        self._trials = Trials(self._study)
        self._members = Members(library, options.keep, options.data, self._digest)
        self._workers: list[Worker] = []
        self._failures_in_row = 0
        self._before_s = self._trials.spent_s
        self._started = self._shown = self._saved = time.monotonic()
        self._trials.lose()
        self._known = self._trials.all()
        complete = [trial for trial in self._known if trial.state is TrialState.COMPLETE]
        self._members.recover(complete)

    def run(self, lock: int, interrupted: Callable[[], bool]) -> Growth:
        """Train until there is a reason to end."""
        try:
            with selectors.DefaultSelector() as selector:
                while (ended := self._reason(interrupted)) is None:
                    if not self._workers:
                        self._start(lock, selector)
                    self._hand_out()
                    for key, _ in selector.select(_TICK_S):
                        self._serve(key.data, selector)
                    self._tell()
        finally:
            for worker in self._workers:
                worker.end()
            self._trials.lose()
            self._trials.spent_s = self._spent_s
            self._library.sweep(number for number, _ in self._members.kept)
        self._workers = []
        self._known = self._trials.all()
        return self._growth(ended)

    def _growth(self, ended: End | None) -> Growth:
        settled = [trial for trial in self._known if is_settled(trial)]
        failures: dict[str, tuple[int, Failure]] = {}
        for failure in filter(None, map(failure_of, settled)):
            count, example = failures.get(failure.kind, (0, failure))
            failures[failure.kind] = (count + 1, example)
        outcomes = Counter(trial.state for trial in settled)
        return Growth(
            library=self._library.directory,
            ended=ended,
            complete=outcomes[TrialState.COMPLETE],
            pruned=outcomes[TrialState.PRUNED],
            failed=outcomes[TrialState.FAIL],
            put_back=sum(map(was_put_back, self._known)),
            running=sum(worker.is_busy for worker in self._workers),
            kept=self._members.kept,
            failures=failures,
            spent_s=self._spent_s,
            metrics=sum(len(trial.intermediate_values) for trial in self._known),
        )

    @property
    def _spent_s(self) -> float:
        return self._before_s + time.monotonic() - self._started

    def _reason(self, interrupted: Callable[[], bool]) -> End | None:
        options = self._options
        if interrupted():
            return "interrupted"
        if self._failures_in_row >= _MOST_FAILURES:
            return "failing"
        if options.budget_s is not None and self._spent_s >= options.budget_s:
            return "budget"
        if not self._left and not any(worker.is_busy for worker in self._workers):
            return "trials"
        return None

    @property
    def _left(self) -> float:
        """How many trials may be begun."""
        if self._options.trials is None:
            return math.inf
        busy = sum(worker.is_busy for worker in self._workers)
        return max(0, self._options.trials - sum(map(is_settled, self._known)) - busy)

    def _start(self, lock: int, selector: selectors.BaseSelector) -> None:
        options = self._options
        for index, device in enumerate(training_devices(options.workers)):
            spec = WorkerSpec(
                index=index,
                device=device,
                function=options.function,
                imports=options.imports,
                library=str(options.library),
                study=self._study,
                fixed=dict(options.fixed),
                data=str(options.data or ""),
                digest=self._digest,
            )
            worker = Worker(spec, self._library.log(index), lock)
            self._workers.append(worker)
            selector.register(worker.fd, selectors.EVENT_READ, worker)

    def _hand_out(self) -> None:
        """Have the processes that are free run trials."""
        for worker in self._workers:
            if worker.is_up and not worker.is_busy and self._left:
                worker.run_trial()

    def _serve(self, worker: Worker, selector: selectors.BaseSelector) -> None:
        """Handle what a process says, or its end."""
        messages = worker.read()
        for message in messages or ():
            if isinstance(message, Unusable):
                raise ConfigError(f"{self._options.function}: {message.error}")
            if isinstance(message, Ended):
                self._note(message)
        is_unfit = worker.failures >= _UNFIT_FAILURES and self._failures_in_row < _MOST_FAILURES
        if messages is None or is_unfit:
            selector.unregister(worker.fd)
            self._replace(worker, is_dead=messages is None)
            selector.register(worker.fd, selectors.EVENT_READ, worker)

    def _note(self, message: Ended) -> None:
        self._failures_in_row = self._failures_in_row + 1 if message.outcome == "failed" else 0
        self._known = self._trials.all()
        if message.outcome == "complete":
            self._members.add(self._known[message.number])

    def _replace(self, worker: Worker, *, is_dead: bool) -> None:
        """Start a process anew that has died, or may be unfit."""
        how = worker.end()
        if is_dead:
            if not worker.was_up:
                raise StartError(f"a process that trains {how} (see {worker.log})")
            self._failures_in_row += 1
            self._trials.lose([worker.spec.index], Failure(_DIED, how))
            self._known = self._trials.all()
            if worker.trial is not None:
                self._library.remove(worker.trial)
        worker.start()

    def _tell(self) -> None:
        """Show progress and save the time now and then."""
        now = time.monotonic()
        if now - self._shown >= _TICK_S:
            self._shown = now
            self._on_progress(self._growth(None))
        if now - self._saved >= _SAVE_S:
            self._saved = now
            self._trials.spent_s = self._spent_s


def _digest(data: Path) -> str:
    try:
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGEST_LETTERS]
    except OSError as error:
        raise ConfigError(f"--data {data}: {error.strerror}") from None


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGINT and SIGTERM are only noted; yield whether one has arrived."""
    arrived: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    before = {one: signal.signal(one, note) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(arrived)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
