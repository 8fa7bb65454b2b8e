"""What happens before a test: the model's metadata is fetched, and each kind of request is tried.

Runs in the parent. Mistakes (no server, no such model, inputs that don't fit) end here, in a line.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx

from ensembled_client.load.connection import LoadConnection, RequestResult, connect_error
from ensembled_client.load.errors import LoadTestError
from ensembled_client.load.generator import GeneratorConfig, connections
from ensembled_client.load.target import LoadTarget, authorization

__all__ = ["fetch_metadata", "try_requests"]

_TIMEOUT_S = 10.0
#: Errors that a load test is there to count; others mean that the request is wrong.
_COUNTED = ("429", "500", "503", "504", "RESOURCE", "UNAVAILABLE", "DEADLINE", "INTERNAL", "no ")


def fetch_metadata(target: LoadTarget) -> dict[str, Any]:
    """Return the model's metadata, as HTTP has it.

    Raises:
        LoadTestError: if the server can't be reached, has no such model, or replies nonsense.
    """
    if target.protocol == "grpc":
        from ensembled_client.load.grpc_connection import (  # noqa: PLC0415  (an extra)
            fetch_grpc_metadata,
        )

        document = asyncio.run(fetch_grpc_metadata(target, _TIMEOUT_S))
    else:
        document = _fetch_http(target)
    try:
        inputs = [(one["name"], one["datatype"], one["shape"][0]) for one in document["inputs"]]
    except (KeyError, TypeError, IndexError):
        inputs = []
    if not inputs:
        raise LoadTestError(f"{target.url} does not speak the Open Inference Protocol")
    return document


def _fetch_http(target: LoadTarget) -> Any:
    url = f"{target.address.scheme}://{target.address.authority}{target.model_path}"
    try:
        # As the load: straight to the server, whatever proxy the environment names.
        with httpx.Client(
            trust_env=False, verify=ssl.create_default_context(), timeout=_TIMEOUT_S
        ) as client:
            response = client.get(url, headers=authorization())
        document = response.json()
    except httpx.HTTPError as error:
        raise LoadTestError(f"{target.url} can't be reached: {error}") from None
    except ValueError:
        document = None
    if response.status_code != httpx.codes.OK:
        message = document.get("error") if isinstance(document, dict) else None
        status = f"{response.status_code} {response.reason_phrase}"
        raise LoadTestError(f"{target.url}: {message or status}")
    return document


def try_requests(config: GeneratorConfig) -> None:
    """Send one request of each number of rows.

    Raises:
        LoadTestError: if the server refuses it, or the response is wrong.
    """
    for rows, requests in config.workload.requests.items():
        result = asyncio.run(_exchange(config, rows, requests[0]))
        if result.error is not None and not result.error.startswith(_COUNTED):
            raise LoadTestError(f"a request of {rows} rows was tried, and failed: {result.error}")


async def _exchange(config: GeneratorConfig, rows: int, request: bytes) -> RequestResult:
    options = config.options
    ended: asyncio.Future[RequestResult] = asyncio.get_running_loop().create_future()

    def on_result(_: LoadConnection, result: RequestResult) -> None:
        if not ended.done():
            ended.set_result(result)

    async with connections(options, 1) as new_connection:
        connection = new_connection(on_result)
        try:
            await connection.open()
            connection.rows = rows
            connection.send(request)
            async with asyncio.timeout(options.patience_s):
                return await ended
        except TimeoutError:
            return RequestResult("no response to the trial")
        except OSError as error:
            raise LoadTestError(f"{options.target.url}: {connect_error(error)}") from None
        finally:
            await connection.close()
