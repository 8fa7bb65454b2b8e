"""More work than can be done: what is refused, at once and why; who goes first; who is not starved.

Members that sleep make the queues: what must not wait for a flood is answered before the flood is.
"""

from collections import Counter
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from crowd import Load
from grpc_calls import connected
from serving import TINY, canary, configuration, fake, post, wait_for

pytestmark = pytest.mark.process

#: A flood takes ten seconds, if nobody stops it.
ROWS = 200
SLOW = {"batch_size": 1, "sleep_ms": 50}


def pending(server, member):
    """Rows that wait for a member."""
    line = f'ensembled_member_pending_rows{{member="{member}"}} '
    metrics = server.client.get("/metrics").text.splitlines()
    return next(float(text.removeprefix(line)) for text in metrics if text.startswith(line))


@contextmanager
def flood(server, model, member):
    """Much to do for a member, given up in the end; it must not be through by then."""
    with post(server, model, np.ones((ROWS, 2))):
        wait_for(lambda: pending(server, member) > 0, "the flood")
        yield
        assert pending(server, member) > 0, "whoever was asked meanwhile waited for the flood"
    wait_for(lambda: pending(server, member) == 0, "the flood's end")


def test_what_is_urgent_goes_before_what_waits(serve):
    server = serve(configuration({"slow": fake(1, **SLOW)}))
    with flood(server, "slow", "slow"):
        for _ in range(5):
            answer = server.predict("slow", [[1, 2]], priority=1)
            np.testing.assert_array_equal(answer.values, [[2, 3]])
        with connected(server.grpc) as channel:
            assert channel.infer("slow", [[1, 2]], priority=1).values[0, 0] == 2
    canary(server, "slow", 1.0)


@pytest.mark.parametrize("asked", ["another member", "the same member"])
def test_a_flood_on_one_ensemble_does_not_starve_another(serve, asked):
    members = {"a": fake(1, **SLOW), "b": fake(2, **SLOW)}
    server = serve(configuration(members, ensemble={"members": ["a"]}))
    model, add = ("b", 2) if asked == "another member" else ("a", 1)
    with flood(server, "all", "a"):
        for number in range(5):
            answer = server.predict(model, [[number, 1]])
            np.testing.assert_array_equal(answer.values, [[number + add, 1 + add]])


def test_what_can_not_make_its_deadline_is_refused_at_once(serve):
    server = serve(configuration({"slow": fake(1, **SLOW)}))
    with flood(server, "slow", "slow"):
        refused = server.predict("slow", [[1, 2]], timeout=500_000)
        assert refused.status == 429
        assert "deadline" in refused.error
        assert int(refused.headers["retry-after"]) >= 1
        with connected(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
            channel.infer("slow", [[1, 2]], within_s=3)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(error.value.trailing_metadata())["retry-after"]
    canary(server, "slow", 1.0)


def test_what_would_wait_too_long_is_refused(serve):
    server = serve(configuration({"slow": fake(1, **SLOW)}, limits={"queue_s": 2.0}))
    with flood(server, "slow", "slow"):
        refused = server.predict("slow", [[1, 2]])
        assert refused.status == 429
        assert "what waits for 'slow' would take" in refused.error
    # A lone request may take longer than that: nothing waits before it.
    canary(server, "slow", 1.0)


def test_each_model_has_a_waiting_room_of_its_own(serve):
    members = {"a": fake(1, **SLOW), "b": fake(2, **SLOW)}
    server = serve(configuration(members, **TINY))
    with flood(server, "a", "a"):
        wait_for(lambda: server.predict("a", [[1, 2]]).status == 429, "a full room")
        np.testing.assert_array_equal(server.predict("b", [[1, 2]]).values, [[3, 4]])


def test_an_overload_leaves_only_right_answers_and_refusals(serve):
    members = {name: fake(3 * i, batch_size=4, sleep_ms=20) for i, name in enumerate("abc")}
    config = configuration(members, ensemble={"deadline_ms": 400})
    config["ensembles"]["patient"] = {"members": list(members)}
    server = serve(config)
    statuses = Counter()

    def check(answer, x):
        statuses[answer.status] += 1
        if answer.status == 200:
            np.testing.assert_array_equal(answer.values, x + 3)
        else:
            assert answer.status in {429, 504}, answer.json
            assert answer.error

    with Load(server, "all", check, clients=24) as load:
        wait_for(lambda: statuses[429] > 50 and statuses[200] > 0, "refusals, and answers")
        load.wait_answers(50)
        load.stop()
    canary(server, "patient")
