"""Handles of one ensemble, blocking and for asyncio: a client's methods with the name filled in.

Run in the caller's process, above a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from ensembled_client.prediction import Prediction

if TYPE_CHECKING:
    from ensembled_client.async_client import AsyncEnsembleClient
    from ensembled_client.client import EnsembleClient

__all__ = ["AsyncEnsemble", "Ensemble", "PredictOptions"]


class PredictOptions(TypedDict, total=False):
    """The options of `EnsembleClient.predict`."""

    timeout: float | None
    members: Sequence[str] | None
    quorum: int | None
    uncertainty: bool | Sequence[str]
    member_outputs: bool
    max_rows: int | None


class Ensemble:
    """One ensemble (or member) of a client's server; made by `EnsembleClient.ensemble`.

    Attributes:
        name: of the ensemble.
    """

    def __init__(self, client: EnsembleClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        """Say which ensemble of which server it is."""
        return f"{self._client!r}.ensemble({self.name!r})"

    def predict(self, x: Any, **options: Unpack[PredictOptions]) -> Prediction:
        """Predict: see `EnsembleClient.predict`."""
        return self._client.predict(self.name, x, **options)

    def classify(
        self, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes: see `EnsembleClient.classify`."""
        return self._client.classify(self.name, x, top, **options)

    def best_class(self, x: Any, **options: Unpack[PredictOptions]) -> npt.NDArray[np.int64]:
        """Ask for the best class alone: see `EnsembleClient.best_class`."""
        return self._client.best_class(self.name, x, **options)

    def metadata(self) -> dict[str, Any]:
        """Ask for its metadata: see `EnsembleClient.metadata`."""
        return self._client.metadata(self.name)

    def config(self) -> dict[str, Any]:
        """Ask for its configuration: see `EnsembleClient.config`."""
        return self._client.config(self.name)

    def is_ready(self) -> bool:
        """Whether it takes traffic: see `EnsembleClient.is_ready`."""
        return self._client.is_ready(self.name)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until it takes traffic: see `EnsembleClient.wait_until_ready`."""
        self._client.wait_until_ready(timeout, self.name)

    def statistics(self) -> dict[str, Any]:
        """Ask what it has done: see `EnsembleClient.statistics`."""
        return self._client.statistics(self.name)[0]


class AsyncEnsemble:
    """One ensemble (or member) of a client's server; made by `AsyncEnsembleClient.ensemble`.

    Attributes:
        name: of the ensemble.
    """

    def __init__(self, client: AsyncEnsembleClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        """Say which ensemble of which server it is."""
        return f"{self._client!r}.ensemble({self.name!r})"

    async def predict(self, x: Any, **options: Unpack[PredictOptions]) -> Prediction:
        """Predict: see `EnsembleClient.predict`."""
        return await self._client.predict(self.name, x, **options)

    async def classify(
        self, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes: see `EnsembleClient.classify`."""
        return await self._client.classify(self.name, x, top, **options)

    async def best_class(self, x: Any, **options: Unpack[PredictOptions]) -> npt.NDArray[np.int64]:
        """Ask for the best class alone: see `EnsembleClient.best_class`."""
        return await self._client.best_class(self.name, x, **options)

    async def metadata(self) -> dict[str, Any]:
        """Ask for its metadata: see `EnsembleClient.metadata`."""
        return await self._client.metadata(self.name)

    async def config(self) -> dict[str, Any]:
        """Ask for its configuration: see `EnsembleClient.config`."""
        return await self._client.config(self.name)

    async def is_ready(self) -> bool:
        """Whether it takes traffic: see `EnsembleClient.is_ready`."""
        return await self._client.is_ready(self.name)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Wait until it takes traffic: see `EnsembleClient.wait_until_ready`."""
        await self._client.wait_until_ready(timeout, self.name)

    async def statistics(self) -> dict[str, Any]:
        """Ask what it has done: see `EnsembleClient.statistics`."""
        return (await self._client.statistics(self.name))[0]
