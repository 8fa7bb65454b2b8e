"""The allocation of a running server follows the traffic, and what happens to devices."""

import json
import threading

import numpy as np
import pytest
from serving import Client, title, wait_for

pytestmark = pytest.mark.process

X = np.array([[1.0, 2.0]], np.float32)
FOLLOW = {
    "follow": True,
    "spare_memory": "leave",
    "follow_window_s": 5,
    "follow_pause_s": 0,
    "follow_payback_s": 60,
    "batch_sizes": [1, 4],
    "time_limit_s": 2,
}
CODE = """
import pathlib, time
import numpy as np
import setproctitle

class Member:
    inputs = {"x": ("FP32", [2])}

    def __init__(self, add):
        self.add = np.float32(add)

    def load(self, device):
        broken = pathlib.Path(__file__).with_name("broken")
        if broken.exists() and "cpu:1" in setproctitle.getproctitle():
            raise RuntimeError("this device is broken")

    def predict(self, x):
        time.sleep(0.02)  # as long for both, so that each gets a device
        return {"sum": x + self.add}
"""


def part(name):
    return {"name": name, "part_of": "cpu", "cores": [0], "memory_bytes": "1GiB"}


def fake(add):
    return {
        "model": "fake",
        "fake": {"inputs": {"x": [2]}, "outputs": 2, "sleep_ms": 20, "add": add},
    }


def document(members, **placement):
    return {
        "members": members,
        "devices": [part("cpu:0"), part("cpu:1")],
        "placement": FOLLOW | placement,
    }


class Load:
    """Clients that send requests to one model until the end of the block."""

    def __init__(self, server, model, expected, clients=4):
        self.server, self.model, self.expected = server, model, expected
        self.answers, self.wrong = 0, []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self):
        client = Client(self.server.url)
        while not self._stopped.is_set():
            answer = client.predict(self.model, X)
            if answer.status != 200 or not np.array_equal(answer.values, self.expected):
                self.wrong.append(answer.json)
            self.answers += 1
        client.close()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def generation(server, model="a"):
    return server.predict(model, X).json.get("parameters", {}).get("generation")


def test_the_allocation_follows_the_traffic_and_no_request_is_lost(serve):
    server = serve(document({"a": fake(1), "b": fake(2)}))
    assert generation(server) == 1
    with Load(server, "a", X + 1) as load, Load(server, "b", X + 2, clients=1) as other:
        wait_for(lambda: generation(server) == 2, "a change of the allocation")
        answers = load.answers
        wait_for(lambda: load.answers > answers + 50, "answers by the new allocation")
    assert load.wrong == other.wrong == []
    (line,) = [line for line in server.stderr.splitlines() if "the allocation changes" in line]
    assert "rows/s of the present mix are possible" in line


def test_members_of_a_worker_that_is_given_up_are_served_by_what_is_left(serve, tmp_path):
    (tmp_path / "member.py").write_text(CODE)
    members = {
        name: {"model": {"python": f"{tmp_path}/member.py:Member", "args": {"add": add}}}
        for name, add in (("a", 1), ("b", 2))
    }
    server = serve(document(members))
    (tmp_path / "broken").touch()
    server.kill("worker cpu:1")
    wait_for(lambda: "worker cpu:1 is down" in server.stderr, "the end of a worker's restarts")
    wait_for(lambda: "lost: cpu:1" in server.stderr, "a decision about the allocation")

    def allocation(name):
        return server.client.get(f"/v2/models/{name}/config").json()["allocation"]

    # The first allocation, which noise decides, may have all members on what is left already.
    wait_for(lambda: allocation("a").get("cpu:0") and allocation("b").get("cpu:0"), "both there")
    for name, add in (("a", 1), ("b", 2)):
        np.testing.assert_array_equal(server.predict(name, X).values, X + add)
    if generation(server) == 2:
        assert "cpu:1" not in {**allocation("a"), **allocation("b")}
        wait_for(
            lambda: "ensembled worker cpu:1" not in map(title, server.children()), "a worker's end"
        )


def test_an_allocation_is_applied_by_hand(serve):
    server = serve(document({"a": fake(1), "b": fake(2)}))
    matrix = {"members": ["a", "b"], "devices": ["cpu:1"], "matrix": [[4, 4]]}
    body = json.dumps(matrix).encode()
    told = server.client.post("/v2/repository/placement?dry_run=true", body)
    assert told.status == 200, told.json
    assert told.json["generation"] == generation(server) == 1
    assert told.json["changes"]
    assert server.client.post("/v2/repository/placement", body).json["generation"] == 2
    assert generation(server) == 2
    wrong = json.dumps({**matrix, "devices": ["cpu:7"]}).encode()
    refused = server.client.post("/v2/repository/placement", wrong)
    assert refused.status == 400
    assert "device 'cpu:7' is not there" in refused.error
    assert generation(server) == 2
