"""The load of a measurement: its requests, and what counts as answered."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from server.measurement.load import Exchange, make_requests, measure_rows_s, rows_within
from server.measurement.server import MeasurementError


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
        self.asked = []

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
        self.reply(200, {"inputs": self.server.INPUTS[self.path.rsplit("/", 1)[1]]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.reply(status, {"parameters": self.server.answer, "outputs": []}, b"\xff\x00")

    def reply(self, status, document, raw=b""):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", len(body) + len(raw))
        if raw and status == 200:
            self.send_header("Inference-Header-Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body + raw)

    def log_message(self, *_):
        pass


def requests_of(stub, rows=4, max_bytes=1 << 20):
    return make_requests(stub.address, {"pixels": 5, "tensors": 0}, rows, max_bytes=max_bytes)


def test_requests_are_what_the_models_take():
    with Stub() as stub:
        pixels, tensors = requests_of(stub)
        small = requests_of(stub, max_bytes=4 * 75)
    length = int(pixels.headers["Inference-Header-Content-Length"])
    (image,) = json.loads(pixels.body[:length])["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "UINT8", [4, 5, 5, 3])
    assert len(np.unique(np.frombuffer(pixels.body[length:], np.uint8))) > 100
    length = int(tensors.headers["Inference-Header-Content-Length"])
    x, ids = json.loads(tensors.body[:length])["inputs"]
    assert (x["datatype"], x["shape"], ids["shape"]) == ("FP16", [4, 3, 2], [4])
    assert len(tensors.body) == length + 4 * (6 * 2 + 8)
    assert tensors.path == "/v2/models/tensors/infer"
    assert [one.rows for one in (pixels, tensors)] == [4, 4]
    assert [one.rows for one in small] == [2, 4]


def test_all_models_are_asked_and_a_server_that_is_busy_has_not_failed():
    with Stub(statuses=[429, 504]) as stub:
        rows_s = measure_rows_s(stub.address, requests_of(stub), 2, 0.5)
    assert rows_s > 0
    assert abs(stub.asked.count("/v2/models/pixels/infer") * 2 - len(stub.asked)) <= 2


def test_answers_of_some_members_do_not_count():
    with Stub(degraded=True) as stub:
        assert measure_rows_s(stub.address, requests_of(stub), 2, 0.1) == 0


def test_a_request_that_fails_ends_the_measurement():
    with Stub(statuses=[200] * 5 + [500]) as stub:
        requests = requests_of(stub)
        with pytest.raises(MeasurementError, match="it answers 500"):
            measure_rows_s(stub.address, requests, 3, 60.0)
    with pytest.raises(MeasurementError):
        measure_rows_s(stub.address, requests, 3, 60.0)  # the server is gone
