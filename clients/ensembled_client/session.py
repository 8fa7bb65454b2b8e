"""What both clients do: requests, retries, splitting, and a cache of the models' metadata.

No I/O of its own. All state is the cache, which threads may share.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, ClassVar, TypeVar, Unpack

import numpy as np
import numpy.typing as npt

from ensembled_client.changes import Change, ChangeCall, ChangeOptions
from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
    UnknownModel,
)
from ensembled_client.http_transport import AsyncHttpTransport, HttpTransport
from ensembled_client.inputs import tensors_for
from ensembled_client.io_backend import AsyncioBackend, BlockingBackend, IOBackend
from ensembled_client.models import ModelInfo, ModelState, Prediction, Timing, prediction_of
from ensembled_client.requests import (
    CLASS,
    OUTPUT,
    CallOptions,
    InferCall,
    join_responses,
    split_call,
)
from ensembled_client.retries import CallClock, RetryPolicy
from ensembled_client.transport import (
    Address,
    ConnectionOptions,
    Resource,
    Transport,
    with_api_key,
)
from ensembled_client.wire import InferResponse

__all__ = ["BaseClient", "Session"]

T = TypeVar("T")

#: The server answers at the deadline; what it says is better than giving up at the same moment.
_GRACE_S = 1.0
_LOOK_UP_TIMEOUT_S = 10.0
_POLL_S = 0.05
#: Arrays and bytes up to this size are encoded inline; anything else may read files.
_INLINE_BYTES = 1 << 20
#: By far more than a request is ever longer than its raw tensors.
_MAX_OVERHEAD_BYTES = 1 << 20
_NOT_NOW = (Unavailable, DeadlineExceeded)


class Session:
    """The calls of one client to one server; the backend is blocking if the transport is."""

    def __init__(self, transport: Transport, backend: IOBackend, policy: RetryPolicy) -> None:
        self._transport = transport
        self._backend = backend
        self._policy = policy
        self._models: dict[tuple[str, str], ModelInfo] = {}
        self._is_closed = False

    async def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        await self._transport.close()

    # -- predictions --------------------------------------------------------------------------

    async def predict(self, model: str, x: Any, options: CallOptions) -> Prediction:
        """Have a model predict."""
        clock = CallClock(self._backend, options.timeout)
        try:
            info = await self._info(model, options.version, clock)
            outputs = _outputs(info, options)
            began_s = clock.passed_s()
            tensors = await self._encode(info, x, options)
            encoded_s = clock.passed_s()
            call = InferCall(model, tensors, outputs, options.parameters, options.version)
            pieces = self._split(call, info, options.max_rows)
            clock.tries = 0  # not those of looking up
            response = await self._send_all(pieces, clock)
        except (RequestRejected, UnknownModel):
            # The server may have been restarted with other models: look again at the next call.
            self._models.pop((model, options.version), None)
            raise
        total_s = clock.passed_s()
        timing = Timing(total_s, encoded_s - began_s, total_s - encoded_s, len(pieces), clock.tries)
        return prediction_of(response, info, timing)

    async def classify(
        self, model: str, x: Any, options: CallOptions
    ) -> list[list[tuple[str, float]]]:
        """Return the best classes of each row; the server chooses them."""
        if options.classes < 1:
            raise RequestRejected(f"top is 1 or more, not {options.classes}")
        prediction = await self.predict(model, x, options)
        try:
            return [[_class(element.decode()) for element in row] for row in prediction.values]
        except (AttributeError, TypeError, ValueError) as error:
            raise ServerFailure(f"the server's classes can't be understood: {error!r}") from error

    async def best_class(self, model: str, x: Any, options: CallOptions) -> npt.NDArray[np.int64]:
        """Return each row's best class."""
        return (await self.predict(model, x, replace(options, class_only=True))).values

    async def _encode(self, info: ModelInfo, x: Any, options: CallOptions) -> Any:
        work = partial(tensors_for, info.metadata, x)
        size_bytes = x.nbytes if isinstance(x, np.ndarray) else len(x) if type(x) is bytes else inf
        return work() if size_bytes <= _INLINE_BYTES else await self._backend.offload(work)

    def _split(self, call: InferCall, info: ModelInfo, max_rows: int | None) -> list[InferCall]:
        limit_bytes = info.max_request_bytes
        if max_rows is None and (
            # What is far below the limit needs no exact size.
            limit_bytes is None or _MAX_OVERHEAD_BYTES + call.size_bytes < limit_bytes
        ):
            return [call]
        # The timeout is the one parameter that is added later.
        sample = call.with_timeout(10**12)
        return split_call(
            call,
            limit_bytes=limit_bytes,
            overhead_bytes=self._transport.overhead_bytes(sample) if limit_bytes else 0,
            max_rows=max_rows,
        )

    async def _send_all(self, calls: Sequence[InferCall], clock: CallClock) -> InferResponse:
        sends = [partial(self._try_again, partial(self._infer, one), clock) for one in calls]
        if len(sends) == 1:
            return await sends[0]()
        return join_responses(await self._backend.gather(sends))

    async def _infer(self, call: InferCall, left_s: float | None) -> InferResponse:
        if left_s is None:
            return await self._transport.infer(call, None)
        timed = call.with_timeout(max(1, round(left_s * 1e6)))
        return await self._transport.infer(timed, left_s + _GRACE_S)

    async def _try_again(
        self,
        send: Callable[[float | None], Awaitable[T]],
        clock: CallClock,
        *,
        is_idempotent: bool = False,
    ) -> T:
        """Send, and send again after a pause as long as that is safe and there is time.

        `send` gets the seconds that are left. What is idempotent may be sent again after a broken
        connection, too.
        """
        if self._is_closed:
            raise EnsembledClientError("the client is closed")
        for tries in range(1, self._policy.retries + 2):
            left_s = clock.left_s()
            clock.tries += 1
            try:
                return await send(left_s)
            except EnsembledClientError as error:
                if is_idempotent and isinstance(error, Unavailable):
                    error.safe_to_retry = True
                pause_s = self._policy.pause_s(tries, error, self._backend.uniform)
                if pause_s is None or not clock.allows(pause_s):
                    if tries > 1:
                        error.add_note(f"tried {tries} times")
                    raise
            await self._backend.sleep(pause_s)
        raise AssertionError("the policy allows no more tries than it has")

    # -- changes of what is served ------------------------------------------------------------

    async def change(self, call: ChangeCall, **options: Unpack[ChangeOptions]) -> Any:
        """Request a change; return the server's document."""
        clock = CallClock(self._backend, options.get("timeout"))
        try:
            return await self._try_again(partial(self._transport.change, call), clock)
        finally:
            self._models.clear()  # look again at the next call

    async def told(self, call: ChangeCall, **options: Unpack[ChangeOptions]) -> Change:
        """Request a change, and be told what it was (HTTP)."""
        return Change.of(await self.change(call, **options))

    # -- look-ups -----------------------------------------------------------------------------

    async def look_up(
        self, resource: Resource, model: str = "", version: str = ""
    ) -> dict[str, Any]:
        """Request a document of the protocol."""
        document: dict[str, Any] = await self._look_up(resource, model, version)
        return document

    async def models(self) -> list[ModelState]:
        """Request the index of models."""
        index = await self._look_up(Resource.REPOSITORY_INDEX)
        try:
            return [
                ModelState(
                    line["name"], line["state"], line.get("version", ""), line.get("reason", "")
                )
                for line in index
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise ServerFailure(f"the server's index can't be understood: {error!r}") from error

    async def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """Request the statistics of models."""
        document = await self.look_up(Resource.STATISTICS, model, version)
        try:
            return list(document["model_stats"])
        except (KeyError, TypeError) as error:
            raise ServerFailure(f"the statistics can't be understood: {error!r}") from error

    async def is_live(self) -> bool:
        """Whether the server answers at all."""
        return await self._is_true(Resource.SERVER_LIVE, "", "", _LOOK_UP_TIMEOUT_S)

    async def is_ready(
        self, model: str, version: str = "", limit_s: float = _LOOK_UP_TIMEOUT_S
    ) -> bool:
        """Whether a model, or for "" the server, takes traffic; False, too, without an answer."""
        resource = Resource.MODEL_READY if model else Resource.SERVER_READY
        return await self._is_true(resource, model, version, limit_s)

    async def _is_true(self, resource: Resource, model: str, version: str, limit_s: float) -> bool:
        if self._is_closed:
            raise EnsembledClientError("the client is closed")
        try:
            return bool(await self._transport.look_up(resource, model, limit_s, version))
        except _NOT_NOW:
            return False

    async def wait_until_ready(
        self,
        timeout: float,  # noqa: ASYNC109
        model: str = "",
        version: str = "",
    ) -> None:
        """Poll until a model, or for "" the server, is ready."""
        clock = CallClock(self._backend, None)
        while True:
            left_s = timeout - clock.passed_s()
            if await self.is_ready(model, version, min(_LOOK_UP_TIMEOUT_S, max(left_s, _POLL_S))):
                return
            left_s = timeout - clock.passed_s()
            if left_s <= 0:
                raise Unavailable(f"{model or 'the server'} is not ready after {timeout:g} s")
            await self._backend.sleep(min(_POLL_S, left_s))

    async def _info(self, model: str, version: str, clock: CallClock) -> ModelInfo:
        cached = self._models.get((model, version))
        if cached is not None:
            return cached
        metadata = await self._look_up(Resource.MODEL_METADATA, model, version, clock)
        config: Mapping[str, Any] = {}
        # An extension of the protocol; other servers don't have it.
        with suppress(RequestRejected, UnknownModel, ServerFailure):
            config = await self._look_up(Resource.MODEL_CONFIG, model, version, clock)
        info = self._models[model, version] = ModelInfo.of(metadata, config)
        return info

    async def _look_up(
        self,
        resource: Resource,
        model: str = "",
        version: str = "",
        clock: CallClock | None = None,
    ) -> Any:
        async def send(left_s: float | None) -> Any:
            limit_s = min(_LOOK_UP_TIMEOUT_S, left_s or _LOOK_UP_TIMEOUT_S)
            return await self._transport.look_up(resource, model, limit_s, version)

        clock = clock or CallClock(self._backend, None)
        return await self._try_again(send, clock, is_idempotent=True)


def _outputs(info: ModelInfo, options: CallOptions) -> dict[str, int]:
    """The outputs to answer with, with the number of best classes to name of each."""
    if options.class_only:
        return {CLASS: 0}
    members = options.member_names if options.member_outputs else None
    further = options.output_names or (() if options.classes else info.further_outputs)
    names = (*info.outputs(options.uncertainty, members), *further)
    return {name: options.classes if name == OUTPUT else 0 for name in names}


def _class(text: str) -> tuple[str, float]:
    """``score:index`` or ``score:index:label``."""
    score, index, *label = text.split(":", 2)
    return label[0] if label else index, float(score)


class BaseClient:
    """What both clients are made of: a session with a server, which connects at its first request.

    See `EnsembleClient` for the arguments and what is raised.
    """

    _is_async: ClassVar[bool]

    def __init__(
        self,
        url: str,
        *,
        retries: int | RetryPolicy = 3,
        connect_timeout: float = 5.0,
        connections: int = 100,
        headers: Mapping[str, str] | None = None,
        compression: str | None = None,
        root_certificates: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
    ) -> None:
        self.url = url
        options = ConnectionOptions(
            connect_timeout,
            connections,
            with_api_key(headers, api_key),
            compression,
            root_certificates,
            certificate,
            key,
        )
        policy = retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries)
        address = Address.of(url)
        kind: Any
        if address.is_grpc:
            grpc_transport = _import_grpc_transport(url)
            kind = (
                grpc_transport.AsyncGrpcTransport
                if self._is_async
                else grpc_transport.GrpcTransport
            )
        else:
            kind = AsyncHttpTransport if self._is_async else HttpTransport
        backend = AsyncioBackend() if self._is_async else BlockingBackend()
        self._session = Session(kind(address, options), backend, policy)

    def __repr__(self) -> str:
        """Show the server's URL."""
        return f"{type(self).__name__}({self.url!r})"


def _import_grpc_transport(url: str) -> Any:
    try:
        from ensembled_client import grpc_transport  # noqa: PLC0415  (grpcio is an extra)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in {"grpc", "google"}:
            raise
        raise EnsembledClientError(
            f"{url}: gRPC needs two more packages: pip install 'ensembled-client[grpc]'"
        ) from error
    return grpc_transport
