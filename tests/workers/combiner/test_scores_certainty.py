import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workers.combiner.scores import EARLY_RULES, is_certain
from workers.rules import RULES


@st.composite
def committees(draw):
    """Probabilities of all members [members, rows, classes], weights, and how many are there."""
    members = draw(st.integers(2, 6))
    shape = (members, draw(st.integers(1, 3)), draw(st.integers(2, 4)))
    sharp = draw(st.sampled_from([1.0, 8.0]))
    raw = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1))) ** sharp
    raw[..., 0] += 1e-6
    p = (raw / raw.sum(axis=-1, keepdims=True)).astype(np.float32)
    weights = draw(hnp.arrays(np.float64, members, elements=st.floats(0.1, 5)))
    return p, weights, draw(st.integers(1, members))


def answer(rule, p, weights):
    out = np.empty(p.shape[1:], np.float32)
    RULES[rule](p, weights, out)
    return out.argmax(axis=-1)


RULES_THERE = sorted(EARLY_RULES & set(RULES))


@given(committees(), st.sampled_from(RULES_THERE))
def test_what_is_certain_does_not_change(committee, rule):
    p, weights, there = committee
    if not rule.startswith("weighted"):
        weights = np.ones(len(p))
    certain = is_certain(rule, p[:there], weights[:there], weights[there:].sum())
    early = answer(rule, p[:there], weights[:there])
    # What they say, and the worst that they could say: all of them for any one class.
    whole = [p]
    for index in range(p.shape[-1]):
        worst = p.copy()
        worst[there:] = np.eye(p.shape[-1])[index]
        whole.append(worst)
    for predictions in whole:
        late = answer(rule, predictions, weights)
        assert (late == early)[certain].all()


def test_a_majority_is_certain_and_half_is_not():
    p = np.array([[[0.9, 0.1]], [[0.6, 0.4]], [[0.8, 0.2]]])
    ones = np.ones(3)
    assert is_certain("vote", p, ones, 2.0).tolist() == [True]
    assert is_certain("vote", p, ones, 3.0).tolist() == [False]
    assert is_certain("mean", p, ones, 1.5).tolist() == [True]
    assert is_certain("mean", p, ones, 1.7).tolist() == [False]


def test_weights_count():
    p = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert is_certain("weighted_mean", p, np.array([3.0, 1.0]), 1.5).tolist() == [True]
    assert is_certain("weighted_mean", p, np.array([3.0, 1.0]), 2.5).tolist() == [False]
