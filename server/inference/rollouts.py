"""Roll-outs while they run: which version gets a request, what becomes of it, and the verdict.

Runs in the front-end, under both protocols' slow ways; models without a roll-out don't come here.
Requests without a version and their answers flow in; endpoints, copies for shadows, and requests to
promote or to roll back flow out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from server.control import RolloutRequest
from server.engine.request import Answer
from server.errors import InvalidRequest, RequestError
from server.inference.access_log import REQUEST_ID_HEADER
from server.inference.binding import bind_tensors
from server.inference.control import Control
from server.inference.endpoint import Endpoint
from server.inference.outputs import infer_options
from server.inference.requests import InferRequest
from server.inference.shadows import Answerer, Shadows
from server.inference.spec import ModelSpec
from server.rollout.figures import RolloutFigures, VersionFigures
from server.rollout.judge import Judge, Verdict
from server.rollout.routing import Router
from server.rollout.spec import RolloutSpec

__all__ = ["Rollout", "Rollouts"]

_log = logging.getLogger(__name__)

_JUDGE_S = 1.0
#: How requests end for which a version is to blame.
_OWN_ERRORS = {"member_failed", "unavailable", "deadline", "internal"}
_NOT_OWN_REASONS = {"starting", "draining"}


class Rollout:
    """One roll-out, with its figures; those are kept if its share changes."""

    def __init__(self, spec: RolloutSpec, figures: RolloutFigures | None = None) -> None:
        self.spec = spec
        self.figures = figures or RolloutFigures()
        self.router = Router(spec)
        self.judge = Judge(spec)

    def key(self, request: InferRequest, header: Callable[[str], str]) -> str:
        """What a request has in common with others that get the same version; empty for nothing."""
        if self.spec.sticky == "header":
            return header(self.spec.header)
        if self.spec.sticky == "request_id":
            return header(REQUEST_ID_HEADER) or request.id
        return ""

    def describe(self) -> dict[str, Any]:
        """The roll-out and its figures as JSON."""
        spec = self.spec
        return {
            "version": spec.version,
            "mode": spec.mode,
            "percent": spec.percent,
            **self.figures.describe(),
        }


class _Tried(Endpoint):
    """The endpoint of one request under a roll-out, which counts for that of its version, too.

    `other` is the other version; a `copy` of the request is made once it is answered.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        figures: VersionFigures,
        request: InferRequest,
        *,
        other: ModelSpec,
        copy: Callable[[Answer], None] | None = None,
    ) -> None:
        super().__init__(endpoint.model, endpoint.counters)
        self._figures = figures
        self._request = request
        self._other = other
        self._copy = copy

    def succeed(self, arrived: float, answer: Answer) -> None:
        """Count an answer."""
        self.counters.succeed(arrived, answer)
        self._figures.answer(answer.rows, answer.ended - answer.started)
        if self._copy is not None and not answer.degraded:
            self._copy(answer)

    def fail(self, arrived: float, error: BaseException) -> None:
        """Count a failure, to which the version is to blame if the other one would do better."""
        self.counters.fail(arrived, error)
        if _is_own(error) or (isinstance(error, InvalidRequest) and self._refuses_alone()):
            self._figures.errors += 1

    def _refuses_alone(self) -> bool:
        return not _fits(self.model, self._request) and _fits(self._other, self._request)


class _Models(Answerer, Protocol):
    """What has the models: `Inference`."""

    @property
    def control(self) -> Control:
        """Asks for changes of what is served."""
        ...

    def find(self, name: str, version: str = "") -> Endpoint:
        """The endpoint of a model; may raise `UnknownModel`."""
        ...


class Rollouts:
    """The roll-outs of the models that are served now; `running` has them by the model's name."""

    def __init__(self, inference: _Models, specs: Iterable[RolloutSpec] = ()) -> None:
        self._inference = inference
        self._shadows = Shadows(inference)
        self._asking: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.running: dict[str, Rollout] = {}
        self.replace(specs)

    def replace(self, specs: Iterable[RolloutSpec]) -> None:
        """Replace all roll-outs; one that goes on, maybe with another share, keeps its figures."""
        running = {}
        for spec in specs:
            old = self.running.get(spec.model)
            goes_on = old is not None and _is_same(old.spec, spec)
            running[spec.model] = Rollout(spec, old.figures if old and goes_on else None)
        self.running = running
        self._shadows.stop()
        if self._timer is None:
            self._judge_later()

    def choose(
        self, endpoint: Endpoint, request: InferRequest, header: Callable[[str], str]
    ) -> Endpoint:
        """The endpoint for a request that names no version, of which `endpoint` is the present one.

        That is pinned, so both stay; a new version that is held back gets nothing.
        `header` gives the value of a header of the request, or of its metadata, by its name in
        lower case; empty if it is absent. The endpoint counts in the roll-out's figures, too.
        """
        rollout = self.running.get(endpoint.model.name)
        if rollout is None:
            return endpoint
        figures = rollout.figures
        new = self._inference.find(endpoint.model.name, rollout.spec.version)
        takes = rollout.router.takes(rollout.key(request, header))
        if rollout.spec.mode == "canary" and takes and new.is_open:
            return _Tried(new, figures.new, request, other=endpoint.model)
        copy = None
        if rollout.spec.mode == "shadow" and takes:
            copy = partial(
                self._shadows.copy,
                endpoint.model,
                new,
                request,
                figures=figures,
                tolerance=rollout.spec.tolerance,
            )
        return _Tried(endpoint, figures.present, request, other=new.model, copy=copy)

    def find(self, name: str) -> Rollout:
        """The roll-out of a model; may raise `InvalidRequest`."""
        rollout = self.running.get(name)
        if rollout is None:
            raise InvalidRequest(f"model {name!r} has no roll-out")
        return rollout

    def add_statistics(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add a key `rollout` to the protocol's statistics of each version that is tried."""
        for entry in entries:
            rollout = self.running.get(entry["name"])
            if rollout is not None and rollout.spec.version == entry["version"]:
                entry["rollout"] = rollout.describe()

    def stop(self) -> None:
        """Give up what nobody waits for: the server drains."""
        self._shadows.stop()
        if self._timer is not None:
            self._timer.cancel()

    # -- verdicts -----------------------------------------------------------------------------

    def _judge_later(self) -> None:
        self._timer = None
        if any(one.spec.promote or one.spec.rollback for one in self.running.values()):
            self._timer = asyncio.get_running_loop().call_later(_JUDGE_S, self._tick)

    def _tick(self) -> None:
        self.judge()
        self._judge_later()

    def judge(self) -> None:
        """Look at all roll-outs, and ask for what their limits demand."""
        if self._asking:
            return
        for rollout in self.running.values():
            verdict = rollout.judge.look(rollout.figures)
            if verdict.action != "wait":
                task = asyncio.get_running_loop().create_task(self._ask(rollout.spec, verdict))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    async def _ask(self, spec: RolloutSpec, verdict: Verdict) -> None:
        assert verdict.action != "wait"
        what = f"the roll-out of version {spec.version} of {spec.model!r}"
        done = "is promoted" if verdict.action == "promote" else "is rolled back"
        _log.info("%s %s: %s", what, done, verdict.reason)
        request = RolloutRequest(spec.model, verdict.action, reason=verdict.reason)
        try:
            error = (await self._inference.control.ask(request)).error
        except RequestError as refused:
            error = refused.message
        if error:
            _log.error("%s goes on, %s was refused: %s", what, verdict.action, error)


def _is_same(old: RolloutSpec, new: RolloutSpec) -> bool:
    return (old.version, old.mode) == (new.version, new.mode)


def _is_own(error: BaseException) -> bool:
    """Whether a version is to blame for a failure, rather than the client or the load."""
    if isinstance(error, RequestError):
        return error.outcome in _OWN_ERRORS and error.reason not in _NOT_OWN_REASONS
    return isinstance(error, Exception)


def _fits(model: ModelSpec, request: InferRequest) -> bool:
    """Whether a request fits a model."""
    try:
        options = infer_options(model, request.parameters, request.outputs)
        bind_tensors(model, request.tensors, options.members)
    except InvalidRequest:
        return False
    return True
