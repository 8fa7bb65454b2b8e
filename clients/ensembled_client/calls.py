"""What both clients have in common: requests to be sent, and what responses mean. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from ensembled_client.errors import (
    DeadlineExceeded,
    EnsembledClientError,
    RequestRejected,
    ServerFailure,
    Unavailable,
    error_for_status,
)
from ensembled_client.prediction import Prediction
from ensembled_client.tensors import Answer, decode_answer, encode_request, tensors_for

__all__ = [
    "READY_PATH",
    "Call",
    "check_top",
    "check_url",
    "classes_of",
    "document_of",
    "infer_call",
    "metadata_path",
    "prediction_of",
    "transport_error",
]

READY_PATH = "/v2/health/ready"

_LENGTH = "Inference-Header-Content-Length"
# The server answers at the deadline; what it says is better than giving up at the same moment.
_GRACE_S = 1.0


@dataclass(frozen=True)
class Call:
    """A request to be sent by POST; `timeout` is for httpx, None in it waits for ever."""

    path: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    timeout: httpx.Timeout = field(default_factory=lambda: httpx.Timeout(None))


def check_url(url: str) -> str:
    """Return the URL of a server that this version can speak to.

    Raises:
        EnsembledClientError: if it can't.
    """
    parts = urlsplit(url)
    if parts.scheme in {"grpc", "grpcs"}:
        raise EnsembledClientError(
            f"{url}: gRPC is not in this version of ensembled-client, use http:// or https://"
        )
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise EnsembledClientError(f"{url!r} is not the URL of a server, e.g. http://HOST:8000")
    return url


def _model_path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def metadata_path(model: str) -> str:
    """Return where a model's metadata is."""
    return _model_path(model)


def infer_call(
    model: str,
    metadata: Mapping[str, Any],
    x: Any,
    *,
    timeout: float | None,
    connect_timeout: float,
    classes: int = 0,
) -> Call:
    """Return the call that has a model predict.

    Raises:
        RequestRejected: if `x` does not fit the model's metadata.
    """
    content, length = encode_request(tensors_for(metadata, x), timeout=timeout, classes=classes)
    limit_s = None if timeout is None else timeout + _GRACE_S
    connect_s = connect_timeout if limit_s is None else min(connect_timeout, limit_s)
    return Call(
        path=f"{_model_path(model)}/infer",
        content=content,
        headers={"Content-Type": "application/octet-stream", _LENGTH: str(length)},
        timeout=httpx.Timeout(limit_s, connect=connect_s),
    )


def transport_error(error: httpx.TransportError) -> EnsembledClientError:
    """Return what it means that a request could not be sent, or got no response."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return DeadlineExceeded(f"the server did not answer in time ({text})")
    return Unavailable(f"the server can't be reached ({text})")


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        text = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = f"{response.status_code} {response.reason_phrase}"
    raise error_for_status(
        response.status_code, text, _seconds(response.headers.get("retry-after"))
    )


def _seconds(text: str | None) -> float | None:
    """The header's seconds; its other form, a date, is not for us."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def document_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response.

    Raises:
        EnsembledClientError: the error that the server answered.
    """
    _check(response)
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServerFailure("the server's answer is not a JSON object", response.status_code)
    return document


def _answer(response: httpx.Response) -> Answer:
    _check(response)
    length = response.headers.get(_LENGTH)
    if length is not None and not length.isdecimal():
        raise ServerFailure(f"the server's header {_LENGTH} is {length!r}", response.status_code)
    return decode_answer(response.content, None if length is None else int(length))


def prediction_of(response: httpx.Response, timing: float) -> Prediction:
    """Return the prediction that a response carries.

    Raises:
        EnsembledClientError: the error that it carries instead.
    """
    answer = _answer(response)
    members = str(answer.parameters.get("members", ""))
    return Prediction(
        values=answer.output,
        members=tuple(members.split(",")) if members else (),
        degraded=bool(answer.parameters.get("degraded", False)),
        timing=timing,
    )


def classes_of(response: httpx.Response) -> list[list[tuple[str, float]]]:
    """Return each row's best classes, (label, score), best first.

    A class without a label goes by its index.

    Raises:
        EnsembledClientError: the error that the response carries instead.
    """
    output = _answer(response).output
    try:
        return [[_class(element.decode()) for element in row] for row in output]
    except (AttributeError, TypeError, ValueError) as error:
        raise ServerFailure(f"the server's classes can't be understood: {error!r}") from error


def _class(text: str) -> tuple[str, float]:
    """``score:index`` or ``score:index:label``."""
    score, index, *label = text.split(":", 2)
    return label[0] if label else index, float(score)


def check_top(top: int) -> int:
    """Return how many classes are wanted.

    Raises:
        RequestRejected: if it is not at least one.
    """
    if top < 1:
        raise RequestRejected(f"top is 1 or more, not {top}")
    return top
