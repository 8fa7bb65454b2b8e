"""A server that is killed is what it was when it starts again; one that stops leaves nothing."""

import signal

import numpy as np
import pytest
import yaml
from networks import write_linear
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

X = np.ones((1, 2), np.float32)


def test_a_killed_server_serves_again_what_it_served_whatever_the_file_says(serve, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(configuration({"m": fake(1)})))
    cache = str(tmp_path / "cache")
    killed = serve(config, ENSEMBLED_CACHE=cache)
    states = tmp_path / "cache/states"
    assert len([*states.glob("*.json")]) == 1
    killed.exits_with = (-signal.SIGKILL,)
    killed.children()
    killed.process.kill()
    killed.close()
    config.write_text(yaml.safe_dump({**configuration({"m": fake(5)}), "membres": {}}))
    again = serve(config, ENSEMBLED_CACHE=cache)
    assert again.predict("m", X).values.tolist() == [[2.0, 2.0]]
    assert "the server was killed when it served generation 1" in again.stderr
    assert "membres: unknown key, did you mean 'members'?" in again.stderr
    again.close()
    assert [*states.glob("*.json")] == []
    config.write_text(yaml.safe_dump(configuration({"m": fake(5)})))
    last = serve(config, ENSEMBLED_CACHE=cache)
    assert last.predict("m", X).values.tolist() == [[6.0, 6.0]]
    assert "killed" not in last.stderr


def test_a_worker_that_restarts_loads_what_it_served_after_the_file_was_replaced(serve, tmp_path):
    def write(factor):
        write_linear(tmp_path / "new.onnx", factor * np.eye(2, dtype=np.float32))
        (tmp_path / "new.onnx").replace(tmp_path / "m.onnx")

    write(2)
    config = configuration({"m": {"model": str(tmp_path / "m.onnx")}})
    server = serve(config, ENSEMBLED_CACHE=str(tmp_path / "cache"))
    assert server.predict("m", X).values.tolist() == [[2.0, 2.0]]
    write(3)
    server.kill("worker cpu:0")
    wait_for(lambda: server.predict("m", X).status == 200, "the worker's return")
    assert server.predict("m", X).values.tolist() == [[2.0, 2.0]]
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.predict("m", X).values.tolist() == [[3.0, 3.0]], "the reload")
