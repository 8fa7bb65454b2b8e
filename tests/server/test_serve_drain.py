"""Told to stop: who is still answered, who is refused, and what is left behind."""

import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from crowd import Load, occupy
from grpc_calls import connected
from scraping import Scrape
from serving import STOP_S, TINY, ask, configuration, fake, wait_for

pytestmark = pytest.mark.process

POISON = -1234.0


def test_requests_are_accepted_until_everybody_has_noticed(serve):
    server = serve(configuration({"a": fake(1)}, drain_delay_s=600))
    assert "connection" not in server.predict("a", [[1, 2]]).headers
    with connected(server.grpc) as channel:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), "not being ready")
        assert server.client.get("/v2/models/a/ready").status_code == 503
        live = server.client.get("/v2/health/live")
        assert (live.status_code, live.headers["connection"]) == (200, "close")
        assert "ensembled_draining 1" in server.client.get("/metrics").text
        assert not channel.is_ready()
        for _ in range(3):
            answer = server.predict("a", [[1, 2]])
            np.testing.assert_array_equal(answer.values, [[2, 3]])
            assert answer.headers["connection"] == "close"  # the next one goes elsewhere
            np.testing.assert_array_equal(channel.infer("a", [[1, 2]]).values, [[2, 3]])
        server.process.send_signal(signal.SIGTERM)  # whoever can't wait says so again
        assert server.wait_end() == 0


def test_sigterm_under_load_answers_what_was_accepted(serve):
    slow = fake(1, sleep_ms=200, batch_size=2)
    config = configuration({"a": fake(0, sleep_ms=20), "b": fake(6, sleep_ms=20), "slow": slow})
    config["ensembles"]["all"]["members"] = ["a", "b"]
    server = serve(config)

    def is_right(answer, x):
        assert answer.status == 200, answer.json
        np.testing.assert_array_equal(answer.values, x + 3)

    def in_flight():
        scrape = Scrape(server.client)
        return scrape.value("requests_in_flight", model="slow", priority="normal")

    def is_answered(x):
        try:
            answer = ask(server, "slow", x)
        except httpx.TransportError:  # it came when nobody was there any more
            return False
        if answer.status == 503:
            return False
        np.testing.assert_array_equal(answer.values, x + 1)
        return True

    with Load(server, "all", is_right) as load, ThreadPoolExecutor(12) as pool:
        load.wait_answers(20)
        asked = [pool.submit(is_answered, np.full((2, 2), float(i))) for i in range(12)]
        accepted = wait_for(lambda: (count := in_flight()) >= 3 and count, "some to be accepted")
        load.tolerates_absence = True  # once the door is shut
        server.process.send_signal(signal.SIGTERM)
        assert sum(request.result() for request in asked) >= accepted
        assert server.wait_end() == 0
        load.stop()


def test_sigterm_answers_requests_in_flight_and_waiting(serve):
    server = serve(configuration({"slow": fake(1, sleep_ms=50, batch_size=1)}, **TINY))
    with ThreadPoolExecutor(2) as pool:
        asked = occupy(server, pool, "slow", value=3.0)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.client.get("/v2/health/ready").status_code == 503, "draining")
        assert server.client.get("/v2/health/live").status_code == 200
        assert server.predict("slow", [[1, 2]]).status == 503
        assert (asked.result().values == 4.0).all()
    assert server.wait_end() == 0


def test_the_grace_period_ends(serve):
    hangs = {"h": fake(0, fail="hang", fail_value=POISON, batch_size=1)}
    server = serve(configuration(hangs, drain_s=0.2, **TINY))
    with ThreadPoolExecutor(2) as pool:
        stuck = occupy(server, pool, "h", POISON)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_end(STOP_S) == 0
        assert isinstance(stuck.exception(), httpx.TransportError)
    assert "still in flight after the grace period" in server.stderr


def test_a_worker_killed_while_draining_is_replaced(serve):
    server = serve(configuration({"slow": fake(1, sleep_ms=50, batch_size=1)}, **TINY))
    with ThreadPoolExecutor(2) as pool:
        asked = occupy(server, pool, "slow", value=3.0)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.client.get("/v2/health/ready").status_code == 503, "draining")
        server.kill("worker cpu:0")
        assert (asked.result().values == 4.0).all()
    assert server.wait_end() == 0


@pytest.mark.parametrize("children", range(4))
def test_sigterm_during_start_up_leaves_nothing(serve, children):
    server = serve(configuration({"a": fake(0), "b": fake(3), "c": fake(6)}), ready=False)
    server.exits_with = (0, -signal.SIGTERM)
    wait_for(
        lambda: server.has_ended or len(server.children()) >= children, "children to be started"
    )
    server.process.send_signal(signal.SIGTERM)
    server.children()
    server.wait_end()


def test_a_second_signal_forces_the_end(serve):
    server = serve(
        configuration({"h": fake(0, fail="hang", fail_value=POISON, batch_size=1)}, **TINY)
    )
    with ThreadPoolExecutor(2) as pool:
        stuck = occupy(server, pool, "h", POISON)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), "draining")
        server.process.send_signal(signal.SIGTERM)
        server.wait_end(STOP_S)
        assert isinstance(stuck.exception(), httpx.TransportError)
    assert "still in flight after a second signal" in server.stderr
