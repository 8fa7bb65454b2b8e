"""Roll-outs of a configuration, as the front-end gets them."""

from types import SimpleNamespace

from server.config import RolloutConfig
from server.deployment.rollouts import rollout_specs
from server.rollout.spec import Limits


def specs(**sections):
    made = {
        name: SimpleNamespace(rollout=section and RolloutConfig.model_validate(section))
        for name, section in sections.items()
    }
    return rollout_specs(SimpleNamespace(members=made, ensembles={}))


def test_each_name_has_one():
    one = {"version": "2", "mode": "shadow", "promote": {"after_requests": 5}}
    (spec,) = specs(**{"cat@1": one, "cat@2": one, "dog": None})
    assert (spec.model, spec.version, spec.mode, spec.percent) == ("cat", "2", "shadow", 100)
    assert spec.promote == Limits(after_requests=5)
    assert spec.rollback is None


def test_what_requests_stay_by():
    canary = {"version": "2", "mode": "canary"}
    (by_chance,) = specs(**{"cat@1": canary})
    assert (by_chance.sticky, by_chance.percent) == ("none", 10)
    (by_id,) = specs(**{"cat@1": {**canary, "sticky": "request_id"}})
    assert (by_id.sticky, by_id.header) == ("request_id", "")
    (by_header,) = specs(**{"cat@1": {**canary, "sticky": {"header": "X-User"}, "percent": 0}})
    assert (by_header.sticky, by_header.header, by_header.percent) == ("header", "x-user", 0)
