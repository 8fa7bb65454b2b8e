"""The blocking client. Runs in the caller's process and thread.

Everything is done by the session below; here is what callers see, and how it is documented.
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
from ensembled_client.handles import Ensemble, PredictOptions
from ensembled_client.links import make_link
from ensembled_client.models import ModelState
from ensembled_client.prediction import Prediction
from ensembled_client.retries import RetryPolicy
from ensembled_client.runtime import BlockingRuntime, run
from ensembled_client.session import Session
from ensembled_client.wishes import Wish

__all__ = ["EnsembleClient"]


class EnsembleClient:
    """A client of one server; it connects at its first request, and keeps its connections.

    May be shared by threads. Close it, or use it in a ``with`` block.

    Args:
        url: ``http://HOST:8000``, ``https://...``, ``grpc://HOST:8001`` or ``grpcs://...``; gRPC
            needs ``pip install 'ensembled-client[grpc]'``.
        retries: how many times a request is sent again where that is safe, 0 for never; or a
            `RetryPolicy` with pauses of your own.
        connect_timeout: how long connecting may take, in seconds (HTTP).
        connections: how many there are at most (HTTP).
        headers: sent with every request.
        api_key: shown with every request, as ``Authorization: Bearer API_KEY``.
        compression: of requests, "gzip" or "deflate"; worth it for sparse or whole-number
            tensors on slow networks only.
        root_certificates: a PEM file with the certificates to trust with https:// and grpcs://;
            by default the usual authorities (over HTTP those of SSL_CERT_FILE, if it is set).
        certificate: a PEM file with the certificate to show to a server that asks for one.
        key: a PEM file with its private key.

    Raises:
        EnsembledClientError: if the URL is not one of those, a file or grpcio is not there.
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
        link = make_link(url, options, for_asyncio=False)
        self._session = Session(link, BlockingRuntime(), policy)

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

    def __repr__(self) -> str:
        """Say whose client it is."""
        return f"EnsembleClient({self.url!r})"

    def close(self) -> None:
        """Close the connections; the client can't be used afterwards."""
        run(self._session.close())

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
            members: ask these members only; None for all of the ensemble.
            quorum: the fewest members that the answer may rest on; None for the ensemble's own.
            uncertainty: whether to ask how sure the ensemble is; or the names of the scores that
                are wanted, see `Prediction`.
            member_outputs: whether to ask for each member's own prediction, too.
            max_rows: how many rows one request may have; None for what the server takes.

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
        wish = Wish(timeout, members, quorum, uncertainty, member_outputs, max_rows)
        return run(self._session.predict(ensemble, x, wish))

    def classify(
        self, ensemble: str, x: Any, top: int = 5, **options: Unpack[PredictOptions]
    ) -> list[list[tuple[str, float]]]:
        """Name the best classes of each row; the server chooses them, so little is sent back.

        Args:
            ensemble: its name; its output has an element per class.
            x: see `predict`.
            top: how many classes.
            options: `timeout`, `members`, `quorum`, `max_rows`, see `predict`.

        Returns:
            For each row (label, score), best first; the class's index where it has no label.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run(self._session.classify(ensemble, x, Wish(**options, classes=top)))

    def best_class(
        self, ensemble: str, x: Any, **options: Unpack[PredictOptions]
    ) -> npt.NDArray[np.int64]:
        """Ask for each row's best class alone, by its index.

        The server answers as soon as no member that is missing could change it, so this may be
        quicker than all else, and cost less.

        Args:
            ensemble: its name; its members give a probability per class.
            x: see `predict`.
            options: `timeout`, `members`, `quorum`, `max_rows`, see `predict`.

        Returns:
            int64 [n].

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run(self._session.best_class(ensemble, x, Wish(**options)))

    def ensemble(self, name: str) -> Ensemble:
        """Return a handle of an ensemble, or of a member; nothing is asked yet."""
        return Ensemble(self, name)

    # -- the server ---------------------------------------------------------------------------

    def models(self) -> list[ModelState]:
        """Ask what there is: ensembles and members, and whether each takes traffic.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run(self._session.models())

    def is_live(self) -> bool:
        """Whether the server answers at all."""
        return run(self._session.is_true(Subject.LIVE))

    def is_ready(self, model: str = "") -> bool:
        """Whether the server, or a model, takes traffic; False, too, if nobody answers.

        Raises:
            UnknownModel: if there is no such model.
        """
        subject = Subject.MODEL_READY if model else Subject.READY
        return run(self._session.is_true(subject, model))

    def wait_until_ready(self, timeout: float = 60.0, model: str = "") -> None:
        """Wait until the server, or a model, takes traffic.

        Args:
            timeout: at most so many seconds.
            model: "" for the server.

        Raises:
            Unavailable: if it does not by then.
            UnknownModel: if there is no such model.
        """
        run(self._session.wait_until_ready(timeout, model))

    def server_metadata(self) -> dict[str, Any]:
        """Ask for the server's name, version and extensions of the protocol.

        Raises:
            EnsembledClientError: as `predict`.
        """
        document: dict[str, Any] = run(self._session.look_up(Subject.SERVER))
        return document

    def metadata(self, model: str) -> dict[str, Any]:
        """Ask for a model's name, versions, platform, inputs and outputs.

        Tensors are ``{"name", "datatype", "shape"}``, -1 in a shape is any size.

        Raises:
            EnsembledClientError: as `predict`.
        """
        document: dict[str, Any] = run(self._session.look_up(Subject.METADATA, model))
        return document

    def config(self, model: str) -> dict[str, Any]:
        """Ask for a model's configuration: its members, rule, quorum, limits.

        Raises:
            EnsembledClientError: as `predict`.
        """
        document: dict[str, Any] = run(self._session.look_up(Subject.CONFIG, model))
        return document

    def statistics(self, model: str = "") -> list[dict[str, Any]]:
        """Ask what models have done since the server's start: counts, and where the time went.

        Args:
            model: one of them; "" for all.

        Raises:
            EnsembledClientError: as `predict`.
        """
        return run(self._session.statistics(model))
