"""What a client does, written once for both: requests, retries, splitting, what is remembered.

Runs in the caller's process, between the clients above and a link below; no I/O of its own. All
state is a dictionary of what is known of models, which threads may share.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
    UnknownModel,
)
from ensembled_client.exchange import CLASS, InferRequest, Link, Subject, Topic
from ensembled_client.models import ModelInfo, ModelState, prediction_of
from ensembled_client.prediction import Prediction, Timing
from ensembled_client.retries import RetryPolicy
from ensembled_client.runtime import Runtime
from ensembled_client.splitting import join, split
from ensembled_client.tensors import tensors_for
from ensembled_client.wire import InferResponse
from ensembled_client.wishes import Clock, Wish

__all__ = ["Session"]

T = TypeVar("T")

#: The server answers at the deadline; what it says is better than giving up at the same moment.
_GRACE_S = 1.0
_LOOK_UP_S = 10.0
_POLL_S = 0.05
#: Arrays and bytes up to this size are encoded where they are; anything else may read files.
_INLINE_BYTES = 1 << 20
#: More than a request is ever longer than its raw tensors, by far.
_FAR_BYTES = 1 << 20
_SHORT_WAIT = (Unavailable, DeadlineExceeded)


class Session:
    """One client's dealings with one server.

    Args:
        link: to the server.
        runtime: blocking if the link is.
        policy: when to try again.
    """

    def __init__(self, link: Link, runtime: Runtime, policy: RetryPolicy) -> None:
        self._link = link
        self._runtime = runtime
        self._policy = policy
        self._models: dict[str, ModelInfo] = {}
        self._is_closed = False

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._link.close()

    # -- predictions --------------------------------------------------------------------------

    async def predict(self, model: str, x: Any, wish: Wish) -> Prediction:
        """Have a model predict."""
        clock = Clock(self._runtime, wish.timeout)
        try:
            info = await self._info(model, clock)
            whose = wish.member_names if wish.member_outputs else None
            outputs = (CLASS,) if wish.class_only else info.outputs(wish.uncertainty, whose)
            began_s = clock.passed_s()
            tensors = await self._encode(info, x)
            encoded_s = clock.passed_s()
            request = InferRequest(model, tensors, outputs, wish.classes, wish.parameters)
            pieces = self._split(request, info, wish)
            clock.tries = 0  # not those of looking up
            answer = await self._ask(pieces, clock)
        except (RequestRejected, UnknownModel):
            # A server that was restarted with other models is understood at the next try.
            self._models.pop(model, None)
            raise
        total_s = clock.passed_s()
        timing = Timing(total_s, encoded_s - began_s, total_s - encoded_s, len(pieces), clock.tries)
        return prediction_of(answer, info, timing)

    async def classify(self, model: str, x: Any, wish: Wish) -> list[list[tuple[str, float]]]:
        """Name the best classes of each row; the server chooses them."""
        if wish.classes < 1:
            raise RequestRejected(f"top is 1 or more, not {wish.classes}")
        prediction = await self.predict(model, x, wish)
        try:
            return [[_class(element.decode()) for element in row] for row in prediction.values]
        except (AttributeError, TypeError, ValueError) as error:
            raise ServerFailure(f"the server's classes can't be understood: {error!r}") from error

    async def best_class(self, model: str, x: Any, wish: Wish) -> npt.NDArray[np.int64]:
        """Ask for each row's best class alone."""
        return (await self.predict(model, x, replace(wish, class_only=True))).values

    async def _encode(self, info: ModelInfo, x: Any) -> Any:
        work = partial(tensors_for, info.metadata, x)
        size_bytes = x.nbytes if isinstance(x, np.ndarray) else len(x) if type(x) is bytes else inf
        return work() if size_bytes <= _INLINE_BYTES else await self._runtime.offload(work)

    def _split(self, request: InferRequest, info: ModelInfo, wish: Wish) -> list[InferRequest]:
        limit_bytes = info.max_request_bytes
        if wish.max_rows is None:
            size_bytes = sum(len(tensor.data) for tensor in request.tensors)
            # What is far below the limit needs no exact look.
            if limit_bytes is None or _FAR_BYTES + size_bytes < limit_bytes:
                return [request]
        # The timeout is the one parameter that comes later.
        sample = replace(request, parameters=(*request.parameters, ("timeout", 10**12)))
        return split(
            request,
            limit_bytes=limit_bytes,
            overhead_bytes=self._link.overhead_bytes(sample) if limit_bytes else 0,
            max_rows=wish.max_rows,
        )

    async def _ask(self, pieces: Sequence[InferRequest], clock: Clock) -> InferResponse:
        jobs = [partial(self._try_again, partial(self._infer, one), clock) for one in pieces]
        return join([await jobs[0]()] if len(jobs) == 1 else await self._runtime.gather(jobs))

    async def _infer(self, request: InferRequest, left_s: float | None) -> InferResponse:
        if left_s is None:
            return await self._link.infer(request, None)
        timeout_us = max(1, round(left_s * 1e6))
        parameters = (*request.parameters, ("timeout", timeout_us))
        return await self._link.infer(replace(request, parameters=parameters), left_s + _GRACE_S)

    async def _try_again(
        self,
        send: Callable[[float | None], Awaitable[T]],
        clock: Clock,
        *,
        changes_nothing: bool = False,
    ) -> T:
        """Send, and send again after a pause as long as that is safe and there is time.

        Args:
            send: is told the seconds that are left.
            clock: the call's.
            changes_nothing: the server does not work for it, so a broken connection is no
                reason not to try again.
        """
        if self._is_closed:
            raise EnsembledClientError("the client is closed")
        for tries in range(1, self._policy.retries + 2):
            left_s = clock.left_s()
            clock.tries += 1
            try:
                return await send(left_s)
            except EnsembledClientError as error:
                if changes_nothing and isinstance(error, Unavailable):
                    error.safe_to_retry = True
                pause_s = self._policy.pause_s(tries, error, self._runtime.uniform)
                if pause_s is None or not clock.allows(pause_s):
                    if tries > 1:
                        error.add_note(f"tried {tries} times")
                    raise
            await self._runtime.sleep(pause_s)
        raise AssertionError("the policy allows no more tries than it has")

    # -- questions ----------------------------------------------------------------------------

    async def look_up(self, subject: Subject, model: str = "") -> Any:
        """Ask for a document of the protocol."""
        return await self._look_up(Topic(subject, model), Clock(self._runtime, None))

    async def models(self) -> list[ModelState]:
        """Ask for the index of models."""
        index = await self.look_up(Subject.INDEX)
        try:
            return [
                ModelState(
                    line["name"], line["state"], line.get("version", ""), line.get("reason", "")
                )
                for line in index
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise ServerFailure(f"the server's index can't be understood: {error!r}") from error

    async def statistics(self, model: str = "") -> list[dict[str, Any]]:
        """Ask what models have done."""
        document = await self.look_up(Subject.STATISTICS, model)
        try:
            return list(document["model_stats"])
        except (KeyError, TypeError) as error:
            raise ServerFailure(f"the statistics can't be understood: {error!r}") from error

    async def is_true(self, subject: Subject, model: str = "", limit_s: float = _LOOK_UP_S) -> bool:
        """Ask for readiness; False, too, if nobody answers."""
        if self._is_closed:
            raise EnsembledClientError("the client is closed")
        try:
            return bool(await self._link.look_up(Topic(subject, model), limit_s))
        except _SHORT_WAIT:
            return False

    async def wait_until_ready(self, timeout: float, model: str = "") -> None:  # noqa: ASYNC109
        """Ask until it is ready."""
        clock = Clock(self._runtime, None)
        subject = Subject.MODEL_READY if model else Subject.READY
        while True:
            left_s = timeout - clock.passed_s()
            if await self.is_true(subject, model, min(_LOOK_UP_S, max(left_s, _POLL_S))):
                return
            left_s = timeout - clock.passed_s()
            if left_s <= 0:
                raise Unavailable(f"{model or 'the server'} is not ready after {timeout:g} s")
            await self._runtime.sleep(min(_POLL_S, left_s))

    async def _info(self, model: str, clock: Clock) -> ModelInfo:
        known = self._models.get(model)
        if known is not None:
            return known
        metadata = await self._look_up(Topic(Subject.METADATA, model), clock)
        config: Mapping[str, Any] = {}
        # An extension of the protocol; other servers don't have it.
        with suppress(RequestRejected, UnknownModel, ServerFailure):
            config = await self._look_up(Topic(Subject.CONFIG, model), clock)
        info = self._models[model] = ModelInfo.of(metadata, config)
        return info

    async def _look_up(self, topic: Topic, clock: Clock) -> Any:
        async def send(left_s: float | None) -> Any:
            return await self._link.look_up(topic, min(_LOOK_UP_S, left_s or _LOOK_UP_S))

        return await self._try_again(send, clock, changes_nothing=True)


def _class(text: str) -> tuple[str, float]:
    """``score:index`` or ``score:index:label``."""
    score, index, *label = text.split(":", 2)
    return label[0] if label else index, float(score)
