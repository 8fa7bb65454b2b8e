"""A well-behaved client beside the others: unique payloads, and an answer that must be right."""

from __future__ import annotations

import json
import struct
import threading

import grpc
import numpy as np
from PIL import Image

from tests.fuzz.findings import Findings
from tests.fuzz.grpc_lane import ENDED
from tests.fuzz.pictures import encoded
from tests.support.grpc_calls import Channel
from tests.support.serving import Answer, Client, Server

#: Between two questions, so that the canary is a small part of the load.
_PAUSE_S = 0.02
#: In a row, because too much waits: after some seconds it must be answered again.
_MOST_REFUSED = 100


class Refused(Exception):
    """The answer was 429."""


def _values(answer: Answer) -> np.ndarray:
    if answer.status == 429:
        raise Refused
    return answer.values


class Canary(threading.Thread):
    """Asks the ensembles of a campaign in every form, in turn, until it is stopped.

    Args:
        server: to ask; its ensembles `all` and `photos` add 3 to what they are given.
        findings: takes wrong answers.

    Attributes:
        answered: how often the answer was right.
    """

    def __init__(self, server: Server, findings: Findings) -> None:
        super().__init__(name="canary")
        self._server, self._findings = server, findings
        self._ended = threading.Event()
        self.answered = 0

    def run(self) -> None:
        client, channel = Client(self._server.url), Channel(self._server.grpc)
        try:
            number = refused = 0
            while not self._ended.wait(_PAUSE_S):
                number += 1
                try:
                    self._ask(client, channel, number)
                    self.answered += 1
                    refused = 0
                except grpc.RpcError as error:
                    if error.code().name in ENDED:
                        self._findings.end()
                    elif error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        refused += 1
                    else:
                        self._findings.violate("canary", f"{error.code()}: {error.details()}")
                except Refused:
                    refused += 1
                except Exception as error:
                    self._findings.violate("canary", f"{type(error).__name__}: {error}"[:500])
                if refused == _MOST_REFUSED:
                    self._findings.violate("canary", f"refused {refused} times in a row")
        finally:
            client.close()
            channel.raw.close()

    def end(self) -> None:
        """Stop, after the question that is being asked."""
        self._ended.set()
        self.join()

    def _ask(self, client: Client, channel: Channel, number: int) -> None:
        x = np.array([[number, -0.5], [0.25, number]], np.float32)
        match number % 4:
            case 0:
                values = _values(client.predict("all", x))
            case 1:
                values = _values(client.predict("all", x, binary=False))
            case 2:
                values = channel.infer("all", x).values
            case _:
                self._ask_photos(client, number)
                return
        if not np.array_equal(values, x + 3):
            raise AssertionError(f"asked {x.tolist()}, answered {values.tolist()}")

    def _ask_photos(self, client: Client, number: int) -> None:
        greys = [number % 256, (number * 7 + 1) % 256]
        images = [encoded(Image.new("RGB", (9, 9), (grey,) * 3), "PNG") for grey in greys]
        raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
        tensor = {
            "name": "image",
            "shape": [len(images)],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(raw)},
        }
        header = json.dumps({"inputs": [tensor]}).encode()
        told = {"Inference-Header-Content-Length": str(len(header))}
        values = _values(client.post("/v2/models/photos/infer", header + raw, told))
        expected = np.array([[grey, grey] for grey in greys], np.float32) + 3
        if not np.allclose(values, expected, atol=0.01):
            raise AssertionError(f"asked photos {greys}, answered {values.tolist()}")
