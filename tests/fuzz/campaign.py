"""A campaign: a server, clients that misbehave on purpose, one that does not, and the verdict."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.canary import Canary
from tests.fuzz.findings import Findings
from tests.fuzz.frames import frames_case
from tests.fuzz.grpc_cases import grpc_call
from tests.fuzz.grpc_lane import FramesLane, GrpcLane
from tests.fuzz.http_cases import MAX_REQUEST_BYTES, http_case
from tests.fuzz.http_lane import HttpLane
from tests.fuzz.resources import Sampler, held, judge
from tests.support.grpc_calls import connected
from tests.support.serving import Server, devices, fake, running, wait_for

__all__ = ["campaign", "configuration_of_campaign"]

#: Lanes of each kind, and the share of the requests that goes to all of them together.
_LANES = {"http": (6, 0.6), "grpc": (4, 0.3), "frames": (2, 0.1)}
_MAX_IMAGE_PIXELS = 1_000_000
_WARM_UP = 0.2, 2000
_CONNECTIONS = 10
_ENDED = "a gRPC server ended"
_ENDED_SHARE, _FEW_ENDED = 0.005, 20
#: To its last line, which is not indented further than its first.
_TRACEBACK = r"(?m)^( *)Traceback .*\n(?:\1 .*\n)*.*$"


def configuration_of_campaign() -> dict[str, Any]:
    """Two ensembles, of tensors and of images, which add 3, and a member with two inputs.

    One of the members is written in Python, one augments; `mixed` are members that differ,
    `numbers` one that gives a distribution, `outputs` one that has several, `long` has a variable
    dimension.
    """
    python = {
        "model": {"python": "benchmarks.chaos.python_member:Adds", "args": {"add": 6}},
        "inputs": {"x": {"datatype": "FP32", "shape": [2]}},
    }
    image = {"image": {"size": 8, "mean": 0, "std": 1, "crop": 1}}
    two = fake(0)
    two["fake"]["inputs"] = {"x": [2], "y": [2, 2]}
    two["inputs"] = {"y": {"datatype": "INT16"}}
    long = fake(0)
    long["fake"]["inputs"] = {"x": [-1]}
    long["inputs"] = {"x": {"max_shape": [64], "pad": 0}}
    several = fake(0, outputs={"first": [2], "second": [3, 2]})
    several["outputs"] = {"first": {"as": "logits"}, "second": {"max_shape": [4, 2]}}
    photos = {}
    for name, add in (("p", 0), ("q", 6)):
        photos[name] = fake(add)
        photos[name]["fake"]["inputs"] = {"pixels": [3, 8, 8]}
        photos[name]["input"] = image
    return {
        "members": {
            "a": {**fake(0), "augment": ["identity", "identity"]},
            "b": python,
            "two": two,
            "long": long,
            "normal": {**fake(0), "output": "normal", "spread": "log_variance"},
            "several": several,
            **photos,
        },
        "ensembles": {
            "all": {"members": ["a", "b"]},
            "photos": {"members": ["p", "q"]},
            "mixed": {"members": ["a", "two"]},
            "numbers": {"members": ["normal"], "rule": "mixture"},
            "outputs": {"members": ["several"], "rule": {"first": "mean", "second": "none"}},
        },
        "devices": devices(1),
        "server": {
            "grpc_port": 0,
            "max_request_bytes": MAX_REQUEST_BYTES,
            "max_image_pixels": _MAX_IMAGE_PIXELS,
        },
    }


def campaign(requests: int, seed: int, directory: Path) -> dict[str, Any]:
    """Run it.

    Args:
        requests: how many things the misbehaving clients do together.
        seed: of all that they do.
        directory: for the server's files.

    Returns:
        The report; it was passed if its `violations` are empty.
    """
    findings = Findings()
    began = time.monotonic()
    with running(configuration_of_campaign(), directory) as server:
        share, most = _WARM_UP
        _misbehave(server, findings, min(int(requests * share), most), f"{seed}/warm-up")
        before = held(server)
        canary, sampler = Canary(server, findings), Sampler(server, findings)
        canary.start()
        sampler.start()
        try:
            _misbehave(server, findings, requests - findings.done, str(seed))
        finally:
            sampler.end()
            canary.end()
        if canary.answered == 0:
            findings.violate("canary", "was never answered")
        slopes_mib = sampler.slopes_mib()
        rows = judge(server, before, slopes_mib, findings)
        try:
            wait_for(server.is_ready, "readiness")
            wait_for(partial(_answers_calls, server.grpc), "calls are answered")
        except AssertionError as error:
            findings.violate("readiness", str(error))
        _judge_log(server.stderr, findings)
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "canary_answers": canary.answered,
        "processes": rows,
        **findings.document(),
    }


def _answers_calls(address: str) -> bool:
    """Whether calls are answered on each of several connections."""
    for _ in range(_CONNECTIONS):
        with connected(address) as channel:
            if not channel.is_ready():
                return False
    return True


def _judge_log(log: str, findings: Findings) -> None:
    """Nothing failed inside, but for servers that broken frames have ended, within gRPC."""
    if findings.ended and _ENDED not in log:
        findings.violate("log", f"{findings.ended} calls were ended, and no server was")
    if findings.ended > max(_FEW_ENDED, findings.done * _ENDED_SHARE):
        findings.violate("gRPC", f"{findings.ended} calls were ended with their servers")
    for found in re.finditer(_TRACEBACK, log):
        if "_cygrpc" not in found[0]:
            findings.violate("log", found[0][:3000])


def _misbehave(server: Server, findings: Findings, requests: int, seed: str) -> None:
    """Do so many things on all lanes side by side; each lane goes its own way from the seed."""
    lanes: list[threading.Thread] = []
    makers: dict[str, Callable[[], Any]] = {
        "http": lambda: HttpLane((server.host, server.port), findings),
        "grpc": lambda: GrpcLane(server.grpc, findings),
        "frames": lambda: FramesLane(server.grpc, findings),
    }
    for kind, (count, share) in _LANES.items():
        for number in range(count):
            times = round(requests * share * (number + 1) / count) - round(
                requests * share * number / count
            )
            target = partial(_lane, kind, makers[kind], times, f"{seed}/{kind}/{number}", findings)
            lanes.append(threading.Thread(target=target, name=f"{kind} {number}"))
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()


_CASES: dict[str, Callable[[random.Random], Any]] = {
    "http": http_case,
    "grpc": grpc_call,
    "frames": frames_case,
}


def _lane(kind: str, make: Callable[[], Any], times: int, seed: str, findings: Findings) -> None:
    lane = make()
    try:
        for number in range(times):
            lane.do(_CASES[kind](random.Random(f"{seed}/{number}")))
    except Exception as error:
        findings.violate(kind, f"the client failed: {type(error).__name__}: {error}")
        raise
    finally:
        lane.close()
