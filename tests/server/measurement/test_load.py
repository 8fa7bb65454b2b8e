"""The load of a measurement: its requests, and what counts as answered."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from server.config import Config
from server.measurement.load import Exchange, Intensity, measure_rows_s, rows_within
from server.measurement.server import MeasurementError

IMAGE = {"image": {"size": 5, "mean": 0, "std": 255}}
CONFIG = Config.model_validate(
    {
        "members": {
            "pixels": {
                "model": "fake",
                "fake": {"inputs": {"x": [3, 5, 5]}, "outputs": 1},
                "input": IMAGE,
            },
            "tensors": {"model": "fake", "fake": {"inputs": {"x": [3, 2]}, "outputs": 1}},
        }
    }
)


def test_an_exchange_counts_by_the_share_that_lies_within():
    exchanges = [
        Exchange(0, 2, 8),  # half
        Exchange(2, 3, 8),  # whole
        Exchange(0, 8, 8),  # three of eight seconds
        Exchange(4, 5, 8),  # after
        Exchange(2, 2, 8),  # the clock is coarse
    ]
    assert rows_within(exchanges, 1, 4) == pytest.approx(4 + 8 + 3)


class Stub(ThreadingHTTPServer):
    """Answers as a server does, with the statuses that it is given first."""

    INPUTS = {
        "pixels": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "tensors": [
            {"name": "x", "datatype": "FP16", "shape": [-1, 3, 2]},
            {"name": "ids", "datatype": "INT64", "shape": [-1]},
        ],
    }

    def __init__(self, statuses=(), **answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.answer = list(statuses), {"degraded": False, **answer}
        self.asked, self.bodies = [], []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name, *more = self.path.removeprefix("/v2/models/").split("/")
        self.reply(200, {} if more else {"inputs": self.server.INPUTS[name]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        self.server.asked.append(self.path)
        self.server.bodies.append((json.loads(body[:length])["inputs"], body[length:]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        output = {"name": "output", "datatype": "FP32", "shape": [4, 1], "data": [0.0] * 4}
        self.reply(status, {"parameters": self.server.answer, "outputs": [output]})

    def reply(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def measured(stub, clients, seconds):
    return measure_rows_s(stub.address, CONFIG, Intensity(clients, 4), seconds)


def test_requests_are_what_the_models_take():
    with Stub() as stub:
        measured(stub, 2, 0.1)
    assert set(stub.asked) == {"/v2/models/pixels/infer", "/v2/models/tensors/infer"}
    ((image,), pixels) = next(one for one in stub.bodies if len(one[0]) == 1)
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [4, 5, 5, 3])
    assert len(np.unique(np.frombuffer(pixels, np.uint8))) > 100
    ((x, ids), tensors) = next(one for one in stub.bodies if len(one[0]) == 2)
    assert (x["datatype"], x["shape"], ids["shape"]) == ("FP16", [4, 3, 2], [4])
    assert len(tensors) == 4 * (6 * 2 + 8)
    assert len(np.unique(np.frombuffer(tensors[: 4 * 6 * 2], np.float16))) > 10


def test_all_models_are_asked_and_a_server_that_is_busy_has_not_failed():
    with Stub(statuses=[429, 504]) as stub:
        assert measured(stub, 2, 0.5) > 0
    assert abs(stub.asked.count("/v2/models/pixels/infer") * 2 - len(stub.asked)) <= 2


def test_answers_of_some_members_do_not_count():
    with Stub(degraded=True) as stub:
        assert measured(stub, 2, 0.1) == 0


def test_a_request_that_fails_ends_the_measurement():
    with (
        Stub(statuses=[200] * 5 + [500]) as stub,
        pytest.raises(MeasurementError, match="it answers 500"),
    ):
        measured(stub, 3, 60.0)
    with pytest.raises(MeasurementError, match="it does not answer"):
        measured(stub, 3, 60.0)  # the server is gone
