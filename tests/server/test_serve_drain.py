"""Told to stop, the server is not ready at once; those who have not noticed are still answered."""

import signal

import numpy as np
import pytest
from grpc_calls import connected
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process


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
