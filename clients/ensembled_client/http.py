"""The clients over HTTP: `EnsembleClient`, and `AsyncEnsembleClient` with the same methods.

Both keep connections open and remember models' metadata; a request that the server rejects makes
them forget it, so that a server that was restarted with other models is understood at the second
try. Both may be shared: one by threads, the other by tasks of one event loop.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

import httpx

from ensembled_client.calls import (
    READY_PATH,
    Call,
    check_top,
    check_url,
    classes_of,
    document_of,
    infer_call,
    metadata_path,
    prediction_of,
    transport_error,
)
from ensembled_client.errors import DeadlineExceeded, RequestRejected, Unavailable
from ensembled_client.prediction import Prediction

__all__ = ["AsyncEnsembleClient", "EnsembleClient"]

_CONNECT_S = 5.0
_SHORT_S = 10.0
_POLL_S = 0.05
#: Statuses that may mean that the model is no longer what it was.
_REJECTED = {400, 404}


class EnsembleClient:
    """A client of one server.

    Args:
        url: ``http://HOST:PORT`` or ``https://HOST:PORT``.
        connect_timeout: how long connecting may take, in seconds.

    Raises:
        EnsembledClientError: if the URL is not one of those (gRPC comes in a later version).
    """

    def __init__(self, url: str, *, connect_timeout: float = _CONNECT_S) -> None:
        short = httpx.Timeout(_SHORT_S, connect=connect_timeout)
        self._http = httpx.Client(base_url=check_url(url), timeout=short)
        self._connect_timeout = connect_timeout
        self._metadata: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> EnsembleClient:
        """Return the client; the connections are closed with the block."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        self._http.close()

    def predict(self, ensemble: str, x: Any, *, timeout: float | None = None) -> Prediction:
        """Have an ensemble, or a single member, predict.

        Args:
            ensemble: its name.
            x: for a model with one input an array-like [n, ...], or one row of it; for several, a
                mapping of those by input name. For an image model a path, encoded bytes, a uint8
                array [height, width, 3] or [n, height, width, 3] (RGB), or a sequence of one kind.
            timeout: seconds until the server answers from the members that are done, or gives
                up; None leaves it to the ensemble's own deadline.

        Returns:
            The prediction, whose values are [n, *outputs].

        Raises:
            RequestRejected: if `x` does not fit the model, or the server refuses the request.
            UnknownModel: if there is no such model.
            Overloaded: if too many requests are waiting.
            Unavailable: if the server can't be reached, or can't answer now.
            DeadlineExceeded: if the timeout passed before a quorum of members had answered.
            ServerFailure: if a member or the server failed.
            OSError: if an image file can't be read.
        """
        response, timing = self._infer(ensemble, x, timeout, 0)
        return prediction_of(response, timing)

    def classify(
        self, ensemble: str, x: Any, top: int = 5, *, timeout: float | None = None
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes of each row.

        Args:
            ensemble: its name; its output has an element per class.
            x: see `predict`.
            top: how many classes.
            timeout: see `predict`.

        Returns:
            For each row (label, score), best first; the class's index where it has no label.

        Raises:
            EnsembledClientError: as `predict`.
        """
        response, _ = self._infer(ensemble, x, timeout, check_top(top))
        return classes_of(response)

    def metadata(self, model: str) -> dict[str, Any]:
        """Ask for a model's name, versions, platform, inputs and outputs.

        Raises:
            EnsembledClientError: as `predict`.
        """
        document = document_of(self._get(metadata_path(model)))
        self._metadata[model] = document
        return document

    def is_ready(self) -> bool:
        """Whether the server takes traffic; False, too, if it does not answer."""
        try:
            return self._get(READY_PATH).is_success
        except (Unavailable, DeadlineExceeded):
            return False

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server takes traffic.

        Args:
            timeout: at most so many seconds.

        Raises:
            Unavailable: if it does not by then.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if time.monotonic() >= deadline:
                raise Unavailable(f"the server is not ready after {timeout:g} s")
            time.sleep(_POLL_S)

    def _infer(
        self, model: str, x: Any, timeout: float | None, classes: int
    ) -> tuple[httpx.Response, float]:
        metadata = self._metadata.get(model) or self.metadata(model)
        try:
            call = infer_call(
                model,
                metadata,
                x,
                timeout=timeout,
                connect_timeout=self._connect_timeout,
                classes=classes,
            )
        except RequestRejected:
            self._metadata.pop(model, None)
            raise
        started = time.perf_counter()
        response = self._post(call)
        if response.status_code in _REJECTED:
            self._metadata.pop(model, None)
        return response, time.perf_counter() - started

    def _get(self, path: str) -> httpx.Response:
        try:
            return self._http.get(path)
        except httpx.TransportError as error:
            raise transport_error(error) from error

    def _post(self, call: Call) -> httpx.Response:
        try:
            return self._http.post(
                call.path, content=call.content, headers=call.headers, timeout=call.timeout
            )
        except httpx.TransportError as error:
            raise transport_error(error) from error


class AsyncEnsembleClient:
    """`EnsembleClient` for asyncio.

    Args:
        url: ``http://HOST:PORT`` or ``https://HOST:PORT``.
        connect_timeout: how long connecting may take, in seconds.

    Raises:
        EnsembledClientError: if the URL is not one of those (gRPC comes in a later version).
    """

    def __init__(self, url: str, *, connect_timeout: float = _CONNECT_S) -> None:
        short = httpx.Timeout(_SHORT_S, connect=connect_timeout)
        self._http = httpx.AsyncClient(base_url=check_url(url), timeout=short)
        self._connect_timeout = connect_timeout
        self._metadata: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> AsyncEnsembleClient:
        """Return the client; the connections are closed with the block."""
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        await self._http.aclose()

    async def predict(
        self,
        ensemble: str,
        x: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (the server keeps it)
    ) -> Prediction:
        """Have an ensemble, or a single member, predict: see `EnsembleClient.predict`.

        Returns:
            The prediction, whose values are [n, *outputs].

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        response, timing = await self._infer(ensemble, x, timeout, 0)
        return prediction_of(response, timing)

    async def classify(
        self,
        ensemble: str,
        x: Any,
        top: int = 5,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (the server keeps it)
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes of each row: see `EnsembleClient.classify`.

        Returns:
            For each row (label, score), best first.

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        response, _ = await self._infer(ensemble, x, timeout, check_top(top))
        return classes_of(response)

    async def metadata(self, model: str) -> dict[str, Any]:
        """Ask for a model's name, versions, platform, inputs and outputs.

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        document = document_of(await self._get(metadata_path(model)))
        self._metadata[model] = document
        return document

    async def is_ready(self) -> bool:
        """Whether the server takes traffic; False, too, if it does not answer."""
        try:
            return (await self._get(READY_PATH)).is_success
        except (Unavailable, DeadlineExceeded):
            return False

    async def wait_until_ready(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Wait until the server takes traffic.

        Args:
            timeout: at most so many seconds.

        Raises:
            Unavailable: if it does not by then.
        """
        deadline = time.monotonic() + timeout
        while not await self.is_ready():
            if time.monotonic() >= deadline:
                raise Unavailable(f"the server is not ready after {timeout:g} s")
            await asyncio.sleep(_POLL_S)

    async def _infer(
        self,
        model: str,
        x: Any,
        timeout: float | None,  # noqa: ASYNC109
        classes: int,
    ) -> tuple[httpx.Response, float]:
        metadata = self._metadata.get(model) or await self.metadata(model)
        try:
            # In a thread: it reads files, and copies what may be megabytes.
            call = await asyncio.to_thread(
                infer_call,
                model,
                metadata,
                x,
                timeout=timeout,
                connect_timeout=self._connect_timeout,
                classes=classes,
            )
        except RequestRejected:
            self._metadata.pop(model, None)
            raise
        started = time.perf_counter()
        response = await self._post(call)
        if response.status_code in _REJECTED:
            self._metadata.pop(model, None)
        return response, time.perf_counter() - started

    async def _get(self, path: str) -> httpx.Response:
        try:
            return await self._http.get(path)
        except httpx.TransportError as error:
            raise transport_error(error) from error

    async def _post(self, call: Call) -> httpx.Response:
        try:
            return await self._http.post(
                call.path, content=call.content, headers=call.headers, timeout=call.timeout
            )
        except httpx.TransportError as error:
            raise transport_error(error) from error
