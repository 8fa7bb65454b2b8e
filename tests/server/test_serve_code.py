"""A running server goes over to users' code that has changed, under load."""

import pytest
import yaml
from changes import ChangingServer
from serving import configuration

pytestmark = pytest.mark.process

NET = """
import numpy as np
from net_parts import ADD

class Net:
    inputs = {"x": ("FP32", [2])}

    def predict(self, x):
        return {"sum": x + np.float32(ADD)}
"""
RULE = """
from rule_parts import ADD

def combine(predictions, weights, members):
    return predictions.mean(axis=0) + ADD
"""


def test_code_that_changes_on_disk_is_served_after_a_reload_and_not_before(serve, tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def write(member, rule):
        (home / "net_parts.py").write_text(f"ADD = {member}")
        (home / "rule_parts.py").write_text(f"ADD = {rule}")

    (home / "net.py").write_text(NET)
    (home / "our_rule.py").write_text(RULE)
    write(1, 10)
    members = {"a": {"model": {"python": "net.py:Net"}}, "b": {"model": {"python": "net:Net"}}}
    document = configuration(members, ensemble={"rule": "our_rule:combine"})
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    one = ChangingServer(lambda _: serve(path), document, 11)
    one.path = path
    with one.under_load():
        write(2, 10)
        one.check()
        one.go_to(12)
        write(2, 20)
        one.go_to(22)
        write(3, "1 / 0")
        assert "division by zero" in one.refuse()
        write(3, 30)
        one.go_to(33)
