import numpy as np
import pytest
from ensembled_client import Prediction, Timing


def prediction(values, **options):
    return Prediction(np.array(values, np.float32), ("a", "b"), False, Timing(0.25), **options)


def test_labels_are_those_of_the_best_classes():
    given = prediction([[0.25, 0.5, 0.25], [1, 0, 0]], class_names=("x", "y", "z"))
    assert given.labels == ("y", "x")
    assert given.top(2) == [[("y", 0.5), ("x", 0.25)], [("x", 1), ("y", 0)]]
    assert len(given.top()[0]) == 3


@pytest.mark.parametrize("names", [(), ("too", "few")])
def test_without_labels_classes_go_by_their_index(names):
    given = prediction([[0.25, 0.75, 0]], class_names=names)
    assert given.labels is None
    assert given.top(1) == [[("1", 0.75)]]


def test_what_is_not_of_classes():
    given = prediction([[[1.0]]])
    assert given.labels is None
    with pytest.raises(ValueError, match="not of classes"):
        given.top()
    with pytest.raises(ValueError, match="1 or more"):
        prediction([[1.0]]).top(0)


def test_it_is_its_values_for_numpy():
    given = prediction([[1, 2]])
    assert np.mean(given) == 1.5
    assert np.asarray(given) is not None
    assert np.asarray(given, np.float64).dtype == np.float64
    assert len(given) == 1


def test_it_says_what_it_is():
    scores = {"entropy": np.zeros(1)}
    assert repr(prediction([[1, 2]])) == "Prediction(values=[1, 2], members=a,b, 250.0 ms)"
    assert "uncertainty=entropy" in repr(prediction([[1, 2]], uncertainty=scores))


def test_timing_is_a_number_of_seconds():
    assert float(Timing(0.5)) == 0.5
