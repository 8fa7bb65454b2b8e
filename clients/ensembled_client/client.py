"""The blocking client, and its handle of one ensemble. Runs in the caller's process and thread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ensembled_client.changes import (
    Change,
    RolloutAction,
    load_call,
    place_call,
    reload_call,
    rollout_call,
    unload_call,
)
from ensembled_client.io_backend import run_blocking
from ensembled_client.models import ModelState, Prediction
from ensembled_client.requests import CallOptions, PredictOptions
from ensembled_client.session import BaseClient
from ensembled_client.transport import Resource

__all__ = ["Ensemble", "EnsembleClient"]


class EnsembleClient(BaseClient):
    """A client of one server; it connects at its first request, and keeps its connections.

    May be shared by threads. Close it, or use it in a ``with`` block.

    Args:
        url: ``http://HOST:8000``, ``https://...``, ``grpc://HOST:8001`` or ``grpcs://...``; gRPC
            needs ``pip install 'ensembled-client[grpc]'``.
        retries: how many times a request is sent again where that is safe, 0 for never; or a
            `RetryPolicy` with pauses of your own.
        connect_timeout: how long connecting may take, in seconds (HTTP).
        connections: the most connections (HTTP).
        headers: sent with every request.
        api_key: sent with every request, as ``Authorization: Bearer API_KEY``.
        compression: of requests, "gzip" or "deflate"; worth it for sparse or whole-number
            tensors on slow networks only.
        root_certificates: a PEM file with the certificates to trust with https:// and grpcs://;
            by default the usual authorities (over HTTP those of SSL_CERT_FILE, if it is set).
        certificate: a PEM file with the certificate to present to a server that requires one.
        key: a PEM file with its private key.

    Raises:
        EnsembledClientError: if the URL is not one of those, or a file or grpcio is missing.
    """

    _is_async = False

    def __enter__(self) -> EnsembleClient:
        """Return the client; the connections are closed with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        run_blocking(self._session.close())

    # -- predictions --------------------------------------------------------------------------

    def predict(
        self,
        ensemble: str,
        x: Any,
        *,
        timeout: float | None = None,
        members: Sequence[str] | None = None,
        quorum: int | None = None,
        uncertainty: bool | Sequence[str] = False,
        member_outputs: bool = False,
        max_rows: int | None = None,
        outputs: Sequence[str] = (),
        coverage: float | None = None,
        quantiles: Sequence[float] | None = None,
        version: str = "",
    ) -> Prediction:
        """Have an ensemble, or a single member, predict.

        Rows that are more than the server takes at once are sent in several requests, and their
        answers put together.

        Args:
            ensemble: its name.
            x: for a model with one input an array-like [n, ...] of numbers, or one row of it; for
                several, a mapping of those by input name. For an image model a path, encoded
                bytes, a PIL image, a uint8 array [height, width, 3] or [n, height, width, 3]
                (RGB), or a sequence of those. Numbers are cast to the model's datatype: floats
                may lose digits (float64 to FP32; to BF16 they are rounded to the nearest), whole
                numbers must stay what they are.
            timeout: seconds, for the whole call. It is the request's deadline: the server
                answers by then from the members that are done, if they are a quorum. None leaves
                it to the ensemble's own deadline.
            members: use these members only, whose inputs suffice then; None for all of the
                ensemble.
            quorum: the fewest members that the answer may rest on; None for the ensemble's own.
            uncertainty: whether to return all uncertainty scores; or the names of some, see
                `Prediction`.
            member_outputs: whether to return each member's own prediction, too.
            max_rows: how many rows one request may have; None for what the server takes.
            outputs: names of further outputs, e.g. "interval", see `Prediction.outputs`.
            coverage: how often an "interval" or a "prediction_set" shall hold the truth, above 0
                and below 1; None for the ensemble's own.
            quantiles: levels of the output "quantiles", ascending.
            version: of the model; "" for the newest that can answer.

        Returns:
            The prediction, whose values are [n, *outputs].

        Raises:
            RequestRejected: if `x` or an option does not fit the model, or the server refuses
                the request; `RequestTooLarge` if a single row is larger than the server takes.
            UnknownModel: if there is no such model.
            Overloaded: if too many requests are waiting.
            Unavailable: if the server can't be reached, or can't answer now.
            DeadlineExceeded: if the timeout passed before a quorum of members had answered.
            ServerFailure: if a member or the server failed.
            OSError: if an image file can't be read.
        """
        options = CallOptions(
            timeout=timeout,
            members=members,
            quorum=quorum,
            uncertainty=uncertainty,
            member_outputs=member_outputs,
            max_rows=max_rows,
            outputs=outputs,
            coverage=coverage,
            quantiles=quantiles,
            version=version,
        )
        return run_blocking(self._session.predict(ensemble, x, options))

    def classify(
        self, ensemble: str, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Return the best classes of each row; the server chooses them, so little is sent back.

        Args:
            ensemble: its name; its output has an element per class.
            x: see `predict`.
            top: how many classes.
            options: `timeout`, `members`, `quorum`, `max_rows`, `version`, see `predict`.

        Returns:
            For each row (label, score), best first; the class's index where it has no label.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(
            self._session.classify(ensemble, x, CallOptions(**options, classes=top))
        )

    def best_class(
        self, ensemble: str, x: Any, **options: Unpack[PredictOptions]
    ) -> npt.NDArray[np.int64]:
        """Return the index of each row's best class.

        The server answers as soon as no missing member could change it, so this may be the
        quickest and cheapest call.

        Args:
            ensemble: its name; its members give a probability per class.
            x: see `predict`.
            options: `timeout`, `members`, `quorum`, `max_rows`, `version`, see `predict`.

        Returns:
            int64 [n].

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.best_class(ensemble, x, CallOptions(**options)))

    def ensemble(self, name: str) -> Ensemble:
        """Return a handle of an ensemble, or of a member; nothing is sent yet."""
        return Ensemble(self, name)

    # -- what is served -----------------------------------------------------------------------

    def load_model(
        self,
        model: str,
        config: str | Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Have the server load a model, or load it again; it is served when this returns.

        The API key needs the scope `admin`, and the server's configuration must permit it
        (`server.repository`).

        Args:
            model: its name.
            config: its configuration instead of the server's, as JSON or a mapping: Triton's
                model configuration, or ``{"ensembled": SECTION}`` with a section as in the
                server's configuration file.
            files: contents of its files instead of the server's, by ``file:VERSION/NAME``.
            timeout: seconds to wait; the change is made all the same. None waits for its end.

        Raises:
            RequestRejected: if the server does not permit it, or the model can't be served; what
                was served before still is.
            EnsembledClientError: as `predict`.
        """
        run_blocking(self._session.change(load_call(model, config, files), timeout=timeout))

    def unload_model(
        self, model: str, unload_dependents: bool = False, *, timeout: float | None = None
    ) -> None:
        """Have the server unload a model; requests in progress are answered.

        Args:
            model: its name.
            unload_dependents: whether members go, too, that no other model needs.
            timeout: see `load_model`.

        Raises:
            EnsembledClientError: as `load_model`.
        """
        call = unload_call(model, dependents=unload_dependents)
        run_blocking(self._session.change(call, timeout=timeout))

    def reload(
        self,
        path: str | os.PathLike[str] = "",
        *,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Change:
        """Have the server read its configuration again, and serve what it says (HTTP).

        Args:
            path: the configuration file that is meant, absolute; the server refuses if it is not
                its own. "" for whichever it is.
            dry_run: whether to return only what would change.
            timeout: see `load_model`.

        Raises:
            RequestRejected: if the configuration is wrong or can't be served; what was served
                before still is.
            EnsembledClientError: as `predict`.
        """
        call = reload_call(path, dry_run=dry_run)
        return run_blocking(self._session.told(call, timeout=timeout))

    def place(
        self, allocation: str, *, dry_run: bool = False, timeout: float | None = None
    ) -> Change:
        """Have the server serve its models by another allocation to its devices (HTTP).

        The API key needs the scope `admin`.

        Args:
            allocation: the text of an allocation file, as `ensembled allocate --json` prints it.
            dry_run: whether to return only what would change.
            timeout: see `load_model`.

        Raises:
            RequestRejected: if the allocation does not fit the server's members, devices or their
                memory; what was served before still is.
            EnsembledClientError: as `predict`.
        """
        call = place_call(allocation, dry_run=dry_run)
        return run_blocking(self._session.told(call, timeout=timeout))

    def rollout(
        self,
        model: str,
        action: RolloutAction,
        percent: float | None = None,
        *,
        timeout: float | None = None,
    ) -> Change:
        """Have the server end a model's roll-out, or change its share (HTTP).

        The API key needs the scope `admin`.

        Args:
            model: its name.
            action: "promote" or "rollback" the new version, or give it "percent" of the requests.
            percent: the new share, 0 to 100.
            timeout: see `load_model`.

        Raises:
            RequestRejected: if the model has no roll-out, or the change can't be made.
            EnsembledClientError: as `predict`.
        """
        call = rollout_call(model, action, percent)
        return run_blocking(self._session.told(call, timeout=timeout))

    # -- the server ---------------------------------------------------------------------------

    def models(self) -> list[ModelState]:
        """Return all ensembles and members, and whether each takes traffic.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.models())

    def is_live(self) -> bool:
        """Whether the server answers at all."""
        return run_blocking(self._session.is_live())

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or a model, takes traffic; False, too, without an answer.

        Raises:
            UnknownModel: if there is no such model.
        """
        return run_blocking(self._session.is_ready(model, version))

    def wait_until_ready(self, timeout: float = 60.0, model: str = "", version: str = "") -> None:
        """Wait until the server, or a model, takes traffic.

        Args:
            timeout: at most so many seconds.
            model: "" for the server.
            version: of the model; "" for any.

        Raises:
            Unavailable: if it does not by then.
            UnknownModel: if there is no such model.
        """
        run_blocking(self._session.wait_until_ready(timeout, model, version))

    def server_metadata(self) -> dict[str, Any]:
        """Return the server's name, version and extensions of the protocol.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.look_up(Resource.SERVER_METADATA))

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's name, versions, platform, inputs and outputs.

        Tensors are ``{"name", "datatype", "shape"}``, -1 in a shape is any size.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.look_up(Resource.MODEL_METADATA, model, version))

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Return a model's configuration: its members, rule, quorum, limits.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.look_up(Resource.MODEL_CONFIG, model, version))

    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of models since the server's start: counts, and where time went.

        Args:
            model: one of them; "" for all.
            version: of the model; "" for all.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run_blocking(self._session.statistics(model, version))


class Ensemble:
    """One ensemble (or member) of a client's server; made by `EnsembleClient.ensemble`.

    Attributes:
        name: of the ensemble.
    """

    def __init__(self, client: EnsembleClient, name: str) -> None:
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        """Show the ensemble and its server."""
        return f"{self._client!r}.ensemble({self.name!r})"

    def predict(self, x: Any, **options: Unpack[PredictOptions]) -> Prediction:
        """Predict: see `EnsembleClient.predict`."""
        return self._client.predict(self.name, x, **options)

    def classify(
        self, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Return the best classes: see `EnsembleClient.classify`."""
        return self._client.classify(self.name, x, top, **options)

    def best_class(self, x: Any, **options: Unpack[PredictOptions]) -> npt.NDArray[np.int64]:
        """Return each row's best class: see `EnsembleClient.best_class`."""
        return self._client.best_class(self.name, x, **options)

    def metadata(self) -> dict[str, Any]:
        """Return its metadata: see `EnsembleClient.metadata`."""
        return self._client.metadata(self.name)

    def config(self) -> dict[str, Any]:
        """Return its configuration: see `EnsembleClient.config`."""
        return self._client.config(self.name)

    def is_ready(self) -> bool:
        """Whether it takes traffic: see `EnsembleClient.is_ready`."""
        return self._client.is_ready(self.name)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until it takes traffic: see `EnsembleClient.wait_until_ready`."""
        self._client.wait_until_ready(timeout, self.name)

    def statistics(self) -> dict[str, Any]:
        """Return its statistics: see `EnsembleClient.statistics`."""
        return self._client.statistics(self.name)[0]
