"""Every built-in rule, by its name, over any of an ensemble's members."""

import math

import numpy as np
import pytest
from arenas import vector
from hypothesis import given
from hypothesis import strategies as st
from predictions import applied, close, shares, weights_for

from workers.rules import RULES, TRAITS, RuleError, load_rule
from workers.rules.catalogue import JOINT_RULES
from workers.runtime.spec import RuleSpec

BY_OUTPUT = sorted(set(RULES) - {"vote", "weighted_vote", "rank_average", "geometric_mean"})


def spec_of(rule, given_predictions, **changes):
    _, _, outputs = given_predictions.shape
    return RuleSpec(rule, (0,), (vector(outputs),), **changes)


def over(spec, chosen, given_predictions):
    names = [f"m{i}" for i in range(len(given_predictions))]
    rule = load_rule(spec, names).for_members(chosen)
    return applied(lambda given, _, out: rule([given], [out]), given_predictions[chosen])


@pytest.mark.parametrize("name", sorted(RULES))
@given(given_predictions=shares, data=st.data())
def test_a_subset_is_an_ensemble_of_its_own(name, given_predictions, data):
    """Weights are those of the members that are there, renormalised."""
    count = len(given_predictions)
    chosen = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    weights = np.ones(count)
    if TRAITS[name].weights != "none":
        weights = data.draw(weights_for(given_predictions))
    spec = spec_of(name, given_predictions, weights=tuple(weights.tolist()))
    answer = over(spec, chosen, given_predictions)
    wanted = applied(
        RULES[name], given_predictions[chosen], weights[chosen] / weights[chosen].sum()
    )
    close(answer, wanted)
    if name == "weighted_mean":
        close(answer, np.average(given_predictions[chosen], axis=0, weights=weights[chosen]))


@given(shares, st.sampled_from([0.2, 0.25, 0.4]))
def test_the_share_that_is_cut_is_the_configurations(given_predictions, trim):
    spec = spec_of("trimmed_mean", given_predictions, options={"trim": trim})
    everybody = list(range(len(given_predictions)))
    wanted = applied(RULES["trimmed_mean"], given_predictions, trim=trim)
    close(over(spec, everybody, given_predictions), wanted)


@pytest.mark.parametrize("name", sorted(RULES))
def test_one_member_alone(name):
    alone = np.array([[[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]], np.float32)
    wanted = {
        "vote": [[0, 1, 0], [0, 0, 1]],
        "weighted_vote": [[0, 1, 0], [0, 0, 1]],
        "rank_average": [[0.25, 1, 0.25], [0.25, 0.25, 1]],
    }.get(name, alone[0])
    close(applied(RULES[name], alone), wanted)


@pytest.mark.parametrize("name", BY_OUTPUT)
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_outputs_of_any_shape(name, shape):
    given_predictions = np.arange(3 * 2 * math.prod(shape), dtype=np.float32)
    given_predictions = given_predictions.reshape(3, 2, *shape)
    wanted = given_predictions[{"max": 2, "min": 0}.get(name, 1)]
    close(applied(RULES[name], given_predictions), wanted)


@pytest.mark.parametrize("name", sorted(RULES))
def test_zeros(name):
    zeros = np.zeros((5, 2, 4), np.float32)
    wanted = {
        "vote": [1, 0, 0, 0],
        "weighted_vote": [1, 0, 0, 0],
        "rank_average": [0.5] * 4,
        "geometric_mean": [0.25] * 4,
    }.get(name, [0] * 4)
    close(applied(RULES[name], zeros), [wanted] * 2)


def test_every_rule_is_described():
    assert set(TRAITS) == {*RULES, *JOINT_RULES, "stack"}


def test_a_rule_that_can_not_be_made():
    spec = RuleSpec("no_such_module_at_all:rule", (0,), (vector(2),))
    with pytest.raises(RuleError, match="there is no module 'no_such_module_at_all'"):
        load_rule(spec, ["a"])
