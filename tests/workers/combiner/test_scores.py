import numpy as np
import pytest
from ensembled_client.wire import CLASS_SCORES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from workers.combiner.scores import score
from workers.runtime.spec import VALUE_SCORES


def scored(predictions, names=CLASS_SCORES):
    out = np.full((predictions.shape[1], len(names)), np.nan, np.float32)
    score(predictions, names, out)
    return dict(zip(names, out.T, strict=True))


@st.composite
def probabilities(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6)))
    weights = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1)))
    weights[..., 0] += 1e-3  # something to divide by
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(dtype)


@given(probabilities())
def test_scores_are_what_their_formulas_say(p):
    members, rows, _ = p.shape
    found = scored(p)
    wide = p.astype(np.float64)
    for row in range(rows):
        own = wide[:, row]
        winners = own.argmax(axis=-1)
        total = stats.entropy(own.mean(axis=0))
        expected = np.mean([stats.entropy(one) for one in own])
        pairs = [(i, j) for i in range(members) for j in range(i)]
        differ = [winners[i] != winners[j] for i, j in pairs]
        wanted = {
            "entropy": total,
            "expected_entropy": expected,
            "mutual_information": max(total - expected, 0),
            "variance": np.mean([np.var(own[:, c]) for c in range(p.shape[-1])]),
            "vote_share": np.mean(winners == stats.mode(winners).mode),
            "disagreement": np.mean(differ) if pairs else 0.0,
        }
        for name, value in wanted.items():
            assert found[name][row] == pytest.approx(value, abs=2e-6), name


def test_members_that_are_sure_and_agree_leave_no_doubt():
    p = np.zeros((3, 2, 4), np.float32)
    p[..., 2] = 1
    found = scored(p)
    assert found.pop("vote_share").tolist() == [1, 1]
    assert all(values.tolist() == [0, 0] for values in found.values())


def test_members_that_are_sure_of_different_classes_disagree_wholly():
    found = scored(np.eye(3, dtype=np.float32)[:, np.newaxis])
    assert found["entropy"] == pytest.approx([np.log(3)])
    assert found["expected_entropy"].tolist() == [0]
    assert found["mutual_information"] == pytest.approx([np.log(3)])
    assert found["disagreement"].tolist() == [1]
    assert found["vote_share"] == pytest.approx([1 / 3])


def test_a_lone_member_agrees_with_itself():
    found = scored(np.array([[[0.5, 0.5]]]))
    assert found["disagreement"].tolist() == [0]
    assert found["vote_share"].tolist() == [1]
    assert found["mutual_information"].tolist() == [0]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_other_values_have_their_variance(shape):
    values = np.random.default_rng(0).normal(size=shape)
    found = scored(values, VALUE_SCORES)["variance"]
    wanted = values.var(axis=0).reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_maps_have_scores_at_each_point():
    """Those of every point by itself."""
    maps = np.random.default_rng(0).dirichlet(np.ones(4), size=(3, 2, 5, 6))
    out = np.zeros((2, 6, 5, 6), np.float32)
    score(maps, CLASS_SCORES, out)
    points = maps.reshape(3, -1, 4)
    single = np.zeros((points.shape[1], 6), np.float32)
    score(points, CLASS_SCORES, single)
    np.testing.assert_allclose(np.moveaxis(out, 1, -1).reshape(-1, 6), single, rtol=1e-6)
