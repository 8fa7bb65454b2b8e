"""What is asked of the server before the test: the model's metadata, and one request as a trial.

Runs in the parent. Mistakes (no server, no such model, inputs that don't fit) end here, in a line.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from ensembled_client.load.answers import Verdict
from ensembled_client.load.api_key import authorization, metadata
from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.http_lane import connect_error
from ensembled_client.load.job import Job
from ensembled_client.load.lanes import Lane
from ensembled_client.load.making import lane_factory
from ensembled_client.load.target import Target

__all__ = ["ask_metadata", "try_once"]

_ASK_S = 10.0
#: Errors of a trial that a load test is there to measure; others mean that the request is wrong.
_MEASURED = ("429", "500", "503", "504", "RESOURCE", "UNAVAILABLE", "DEADLINE", "INTERNAL", "no ")


def ask_metadata(target: Target) -> dict[str, Any]:
    """Return what the server tells of the model.

    Raises:
        LoadTestError: if it can't be reached, has no such model, or tells nonsense.
    """
    document = _ask_grpc(target) if target.protocol == "grpc" else _ask_http(target)
    try:
        names = [(one["name"], one["datatype"], one["shape"][0]) for one in document["inputs"]]
    except (KeyError, TypeError, IndexError):
        names = []
    if not names:
        raise LoadTestError(f"{target.url} does not speak the Open Inference Protocol")
    return document


def _ask_http(target: Target) -> dict[str, Any]:
    scheme = "https" if target.is_secure else "http"
    url = f"{scheme}://{target.authority}{target.model_path}"
    tls = [urllib.request.HTTPSHandler(context=ssl.create_default_context())]
    # The load goes straight to the server: so does this, whatever proxy the environment names.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *(tls if target.is_secure else [])
    )
    try:
        question = urllib.request.Request(url, headers=authorization())
        with opener.open(question, timeout=_ASK_S) as response:
            document: dict[str, Any] = json.loads(response.read())
            return document
    except urllib.error.HTTPError as error:
        with error:
            raise LoadTestError(f"{target.url}: {_error_text(error)}") from None
    except urllib.error.URLError as error:
        reason = error.reason
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        raise LoadTestError(f"{target.url} can't be reached: {text}") from None
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{target.url} does not answer as a server would: {error}") from None


def _error_text(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"


def _ask_grpc(target: Target) -> dict[str, Any]:
    import grpc  # noqa: PLC0415  (an extra)
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    from ensembled_client.load import grpc_messages as messages  # noqa: PLC0415

    if target.is_secure:
        channel = grpc.secure_channel(target.authority, grpc.ssl_channel_credentials())
    else:
        channel = grpc.insecure_channel(target.authority)
    with channel:
        call = channel.unary_unary(messages.METADATA)
        try:
            question = messages.metadata_request(target.model)
            answer = call(question, timeout=_ASK_S, metadata=metadata())
            return messages.metadata_document(answer)
        except grpc.RpcError as error:
            code, details = error.code(), " ".join((error.details() or "").split())
            if code is grpc.StatusCode.UNAVAILABLE:
                raise LoadTestError(f"{target.url} can't be reached: {details}") from None
            raise LoadTestError(f"{target.url}: {details or code.name}") from None
        except DecodeError:
            raise LoadTestError(f"{target.url} does not answer as a server would") from None


def try_once(job: Job) -> None:
    """Send each kind of request once.

    Raises:
        LoadTestError: if the server refuses it, or the answer is wrong.
    """
    for rows in job.workload.requests:
        verdict = asyncio.run(_exchange(job, rows))
        if verdict.error is not None and not verdict.error.startswith(_MEASURED):
            raise LoadTestError(f"a request of {rows} rows was tried, and failed: {verdict.error}")


async def _exchange(job: Job, rows: int) -> Verdict:
    ended: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    def on_end(_: Lane, verdict: Verdict) -> None:
        if not ended.done():
            ended.set_result(verdict)

    async with lane_factory(job) as make:
        lane = make(on_end)
        try:
            await lane.open()
            lane.rows = rows
            lane.send(job.workload.requests[rows][0])
            async with asyncio.timeout(job.patience_s):
                return await ended
        except TimeoutError:
            return Verdict("no answer to the trial")
        except OSError as error:
            raise LoadTestError(f"{job.target.url}: {connect_error(error)}") from None
        finally:
            await lane.close()
