"""A running server goes from one deployment to the next."""

import signal

import numpy as np
import pytest
import yaml
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

X = np.array([[1.0, 2.0]], np.float32)


class Served:
    """A server whose configuration changes."""

    def __init__(self, serve, **members):
        self.document = configuration(members)
        self.server = serve(self.document)
        self.path = self.server.log.with_name("config.yaml")

    def write(self, **members):
        """Write another configuration."""
        self.document["members"] |= members
        self.document["ensembles"] = configuration(self.document["members"])["ensembles"]
        self.path.write_text(yaml.safe_dump(self.document))

    def reload(self):
        """Have the server go to what is written; the lines that it has logged meanwhile."""
        before = len(self.server.stderr)
        self.server.process.send_signal(signal.SIGHUP)
        return wait_for(lambda: self._outcome(before), "the end of a reload")

    def _outcome(self, start):
        log = self.server.stderr[start:]
        return log if "is served" in log or "nothing is changed" in log else ""


@pytest.fixture
def served(serve):
    return lambda **members: Served(serve, **members)


def test_another_add_is_served_after_a_signal(served):
    one = served(m=fake(1))
    np.testing.assert_array_equal(one.server.predict("all", X).values, X + 1)
    one.write(m=fake(5))
    log = one.reload()
    assert "generation 2 is served" in log
    answer = one.server.predict("all", X)
    np.testing.assert_array_equal(answer.values, X + 5)
    assert answer.json["parameters"]["generation"] == 2
