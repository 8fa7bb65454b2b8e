"""The client for asyncio. Runs in the caller's event loop.

The same methods as the blocking client has, to be awaited; what they do is documented there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ensembled_client.addresses import Options, with_api_key
from ensembled_client.exchange import Subject
from ensembled_client.handles import AsyncEnsemble, PredictOptions
from ensembled_client.links import make_link
from ensembled_client.models import ModelState
from ensembled_client.prediction import Prediction
from ensembled_client.retries import RetryPolicy
from ensembled_client.runtime import AsyncioRuntime
from ensembled_client.session import Session
from ensembled_client.wishes import Wish

__all__ = ["AsyncEnsembleClient"]


class AsyncEnsembleClient:
    """`EnsembleClient` for asyncio: its methods, to be awaited.

    May be shared by the tasks of one event loop. Close it, or use it in an ``async with`` block.

    Args:
        url: see `EnsembleClient`, as all others.
        retries: how many times a request is sent again where that is safe; or a `RetryPolicy`.
        connect_timeout: in seconds (HTTP).
        connections: how many there are at most (HTTP); requests beyond wait for one.
        headers: sent with every request.
        api_key: shown with every request.
        compression: of requests, "gzip" or "deflate".
        root_certificates: a PEM file with the certificates to trust.
        certificate: a PEM file with the certificate to show to a server that asks for one.
        key: a PEM file with its private key.

    Raises:
        EnsembledClientError: if the URL is none that it can speak to, or grpcio is not there.
    """

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
        options = Options(
            connect_timeout,
            connections,
            with_api_key(headers, api_key),
            compression,
            root_certificates,
            certificate,
            key,
        )
        policy = retries if isinstance(retries, RetryPolicy) else RetryPolicy(retries)
        link = make_link(url, options, for_asyncio=True)
        self._session = Session(link, AsyncioRuntime(), policy)

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

    def __repr__(self) -> str:
        """Say whose client it is."""
        return f"AsyncEnsembleClient({self.url!r})"

    async def aclose(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        await self._session.close()

    # -- predictions --------------------------------------------------------------------------

    async def predict(
        self,
        ensemble: str,
        x: Any,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  (the server keeps it)
        members: Sequence[str] | None = None,
        quorum: int | None = None,
        uncertainty: bool | Sequence[str] = False,
        member_outputs: bool = False,
        max_rows: int | None = None,
    ) -> Prediction:
        """Have an ensemble, or a single member, predict: see `EnsembleClient.predict`.

        Pieces of what is too big for one request are sent a few at a time.

        Returns:
            The prediction, whose values are [n, *outputs].

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
            OSError: if an image file can't be read.
        """
        wish = Wish(timeout, members, quorum, uncertainty, member_outputs, max_rows)
        return await self._session.predict(ensemble, x, wish)

    async def classify(
        self, ensemble: str, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes of each row: see `EnsembleClient.classify`.

        Returns:
            For each row (label, score), best first.

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        return await self._session.classify(ensemble, x, Wish(**options, classes=top))

    async def best_class(
        self, ensemble: str, x: Any, **options: Unpack[PredictOptions]
    ) -> npt.NDArray[np.int64]:
        """Ask for each row's best class alone: see `EnsembleClient.best_class`.

        Returns:
            int64 [n].

        Raises:
            EnsembledClientError: as `EnsembleClient.predict`.
        """
        return await self._session.best_class(ensemble, x, Wish(**options))

    def ensemble(self, name: str) -> AsyncEnsemble:
        """Return a handle of an ensemble, or of a member; nothing is asked yet."""
        return AsyncEnsemble(self, name)

    # -- the server ---------------------------------------------------------------------------

    async def models(self) -> list[ModelState]:
        """Ask what there is: see `EnsembleClient.models`."""
        return await self._session.models()

    async def is_live(self) -> bool:
        """Whether the server answers at all."""
        return await self._session.is_true(Subject.LIVE)

    async def is_ready(self, model: str = "") -> bool:
        """Whether the server, or a model, takes traffic: see `EnsembleClient.is_ready`."""
        subject = Subject.MODEL_READY if model else Subject.READY
        return await self._session.is_true(subject, model)

    async def wait_until_ready(
        self,
        timeout: float = 60.0,  # noqa: ASYNC109
        model: str = "",
    ) -> None:
        """Wait until the server, or a model, takes traffic, at most so many seconds.

        Raises:
            Unavailable: if it does not by then.
            UnknownModel: if there is no such model.
        """
        await self._session.wait_until_ready(timeout, model)

    async def server_metadata(self) -> dict[str, Any]:
        """Ask for the server's metadata: see `EnsembleClient.server_metadata`."""
        document: dict[str, Any] = await self._session.look_up(Subject.SERVER)
        return document

    async def metadata(self, model: str) -> dict[str, Any]:
        """Ask for a model's metadata: see `EnsembleClient.metadata`."""
        document: dict[str, Any] = await self._session.look_up(Subject.METADATA, model)
        return document

    async def config(self, model: str) -> dict[str, Any]:
        """Ask for a model's configuration: see `EnsembleClient.config`."""
        document: dict[str, Any] = await self._session.look_up(Subject.CONFIG, model)
        return document

    async def statistics(self, model: str = "") -> list[dict[str, Any]]:
        """Ask what models have done: see `EnsembleClient.statistics`."""
        return await self._session.statistics(model)
