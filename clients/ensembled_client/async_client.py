"""The client for asyncio; `client` documents its methods. Runs in the caller's event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ensembled_client.changes import (
    Change,
    ChangeOptions,
    RolloutAction,
    load_call,
    place_call,
    reload_call,
    rollout_call,
    unload_call,
)
from ensembled_client.models import ModelState, Prediction
from ensembled_client.requests import CallOptions, PredictOptions
from ensembled_client.session import BaseClient
from ensembled_client.transport import Resource

__all__ = ["AsyncEnsemble", "AsyncEnsembleClient"]


class AsyncEnsembleClient(BaseClient):
    """`EnsembleClient` for asyncio: its methods, to be awaited.

    May be shared by the tasks of one event loop. Close it, or use it in an ``async with`` block.

    Args:
        url: see `EnsembleClient`, as all others.
        retries: how many times a request is sent again where that is safe; or a `RetryPolicy`.
        connect_timeout: in seconds (HTTP).
        connections: the most connections (HTTP); requests beyond wait for one.
        headers: sent with every request.
        api_key: sent with every request.
        compression: of requests, "gzip" or "deflate".
        root_certificates: a PEM file with the certificates to trust.
        certificate: a PEM file with the certificate to present to a server that requires one.
        key: a PEM file with its private key.

    Raises:
        EnsembledClientError: if it can't connect to such a URL, or a file or grpcio is missing.
    """

    _is_async = True

    async def __aenter__(self) -> AsyncEnsembleClient:
        """Return the client; the connections are closed with the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        await self._session.close()

    # -- predictions --------------------------------------------------------------------------

    async def predict(self, ensemble: str, x: Any, **options: Unpack[PredictOptions]) -> Prediction:
        """Have an ensemble, or a single member, predict: see `EnsembleClient.predict`.

        Pieces of what is too big for one request are sent a few at a time.

        Returns:
            The prediction, whose values are [n, *outputs].

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
            OSError: if an image file can't be read.
        """
        return await self._session.predict(ensemble, x, CallOptions(**options))

    async def classify(
        self, ensemble: str, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Return the best classes of each row: see `EnsembleClient.classify`.

        Returns:
            For each row (label, score), best first.

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        return await self._session.classify(ensemble, x, CallOptions(**options, classes=top))

    async def best_class(
        self, ensemble: str, x: Any, **options: Unpack[PredictOptions]
    ) -> npt.NDArray[np.int64]:
        """Return the index of each row's best class: see `EnsembleClient.best_class`.

        Returns:
            int64 [n].

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        return await self._session.best_class(ensemble, x, CallOptions(**options))

    def ensemble(self, name: str) -> AsyncEnsemble:
        """Return a handle of an ensemble, or of a member; nothing is sent yet."""
        return AsyncEnsemble(self, name)

    # -- what is served -----------------------------------------------------------------------

    async def load_model(
        self,
        model: str,
        config: str | Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        **options: Unpack[ChangeOptions],
    ) -> None:
        """Have the server load a model, or load it again: see `EnsembleClient.load_model`."""
        await self._session.change(load_call(model, config, files), **options)

    async def unload_model(
        self,
        model: str,
        unload_dependents: bool = False,
        **options: Unpack[ChangeOptions],
    ) -> None:
        """Have the server unload a model: see `EnsembleClient.unload_model`."""
        await self._session.change(unload_call(model, dependents=unload_dependents), **options)

    async def reload(
        self,
        path: str | os.PathLike[str] = "",
        *,
        dry_run: bool = False,
        **options: Unpack[ChangeOptions],
    ) -> Change:
        """Have the server read its configuration again: see `EnsembleClient.reload`."""
        return await self._session.told(reload_call(path, dry_run=dry_run), **options)

    async def place(
        self, allocation: str, *, dry_run: bool = False, **options: Unpack[ChangeOptions]
    ) -> Change:
        """Have the server use another allocation: see `EnsembleClient.place`."""
        return await self._session.told(place_call(allocation, dry_run=dry_run), **options)

    async def rollout(
        self,
        model: str,
        action: RolloutAction,
        percent: float | None = None,
        **options: Unpack[ChangeOptions],
    ) -> Change:
        """Have the server change a model's roll-out: see `EnsembleClient.rollout`."""
        return await self._session.told(rollout_call(model, action, percent), **options)

    # -- the server ---------------------------------------------------------------------------

    async def models(self) -> list[ModelState]:
        """Return all ensembles and members: see `EnsembleClient.models`."""
        return await self._session.models()

    async def is_live(self) -> bool:
        """Whether the server answers at all."""
        return await self._session.is_live()

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or a model, takes traffic: see `EnsembleClient.is_ready`."""
        return await self._session.is_ready(model, version)

    async def wait_until_ready(
        self,
        timeout: float = 60.0,  # noqa: ASYNC109
        model: str = "",
        version: str = "",
    ) -> None:
        """Wait until the server, or a model, takes traffic, at most so many seconds.

        Raises:
            Unavailable: if it does not by then.
            UnknownModel: if there is no such model.
        """
        await self._session.wait_until_ready(timeout, model, version)

    async def server_metadata(self) -> dict[str, Any]:
        """Return the server's metadata: see `EnsembleClient.server_metadata`."""
        return await self._session.look_up(Resource.SERVER_METADATA)

    async def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's metadata: see `EnsembleClient.metadata`."""
        return await self._session.look_up(Resource.MODEL_METADATA, model, version)

    async def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's configuration: see `EnsembleClient.config`."""
        return await self._session.look_up(Resource.MODEL_CONFIG, model, version)

    async def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of models: see `EnsembleClient.statistics`."""
        return await self._session.statistics(model, version)


class AsyncEnsemble:
    """One ensemble (or member) of a client's server; made by `AsyncEnsembleClient.ensemble`.

    Attributes:
        name: of the ensemble.
    """

    def __init__(self, client: AsyncEnsembleClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        """Show the ensemble and its server."""
        return f"{self._client!r}.ensemble({self.name!r})"

    async def predict(self, x: Any, **options: Unpack[PredictOptions]) -> Prediction:
        """Predict: see `EnsembleClient.predict`."""
        return await self._client.predict(self.name, x, **options)

    async def classify(
        self, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Return the best classes: see `EnsembleClient.classify`."""
        return await self._client.classify(self.name, x, top, **options)

    async def best_class(self, x: Any, **options: Unpack[PredictOptions]) -> npt.NDArray[np.int64]:
        """Return each row's best class: see `EnsembleClient.best_class`."""
        return await self._client.best_class(self.name, x, **options)

    async def metadata(self) -> dict[str, Any]:
        """Return its metadata: see `EnsembleClient.metadata`."""
        return await self._client.metadata(self.name)

    async def config(self) -> dict[str, Any]:
        """Return its configuration: see `EnsembleClient.config`."""
        return await self._client.config(self.name)

    async def is_ready(self) -> bool:
        """Whether it takes traffic: see `EnsembleClient.is_ready`."""
        return await self._client.is_ready(self.name)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Wait until it takes traffic: see `EnsembleClient.wait_until_ready`."""
        await self._client.wait_until_ready(timeout, self.name)

    async def statistics(self) -> dict[str, Any]:
        """Return its statistics: see `EnsembleClient.statistics`."""
        return (await self._client.statistics(self.name))[0]
