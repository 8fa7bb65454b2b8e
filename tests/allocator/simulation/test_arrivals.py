from itertools import islice
from random import Random

import pytest

from allocator.simulation import ClosedLoop, ConstantRate, Poisson, Trace, read_trace


def test_a_constant_rate_has_equal_gaps():
    moments = list(islice(ConstantRate(4, rows=3).moments(Random(0)), 4))
    assert moments == [(0.25, 3), (0.5, 3), (0.75, 3), (1.0, 3)]


def test_poisson_has_its_rate_on_average():
    moments = list(islice(Poisson(50).moments(Random(1)), 20_000))
    assert moments[-1][0] == pytest.approx(400, rel=0.03)
    assert moments == sorted(moments)


@pytest.mark.parametrize(
    "document",
    [
        "seconds,rows\n0.5\n1.5,3\n\n# a remark\n",
        "0.5\n1.5,3",
        "[0.5, [1.5, 3]]",
        "0.5,2\r\n1.5,3\r\n",
    ],
)
def test_reads_a_trace(document):
    assert read_trace(document, rows=2) == Trace(((0.5, 2), (1.5, 3)))


@pytest.mark.parametrize(
    "document", ["seconds,rows,model\n0.5,2,a\n1.5,3, b", '[[0.5, 2, "a"], [1.5, 3, "b"]]']
)
def test_a_trace_may_say_what_requests_are_for(document):
    assert read_trace(document) == Trace(((0.5, 2), (1.5, 3)), ("a", "b"))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("[1,", "is not JSON"),
        ("1.0\nsoon", "line 2: should be seconds, or seconds and rows"),
        ("1,2,a,b", "line 1: should be seconds"),
        ("1,2,a\n2,2", "of all requests what they are for, or of none"),
        ("[null]", "entry 1"),
        ("2.0\n1.0", "should not be before"),
        ("1.0,0", "rows should be 1 or more"),
        ("nan", "nan"),
    ],
)
def test_says_what_is_wrong_with_a_trace(document, text):
    with pytest.raises(ValueError, match=text):
        read_trace(document)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClosedLoop(0),
        lambda: ClosedLoop(1, rows=0),
        lambda: ClosedLoop(1, think_s=-1),
        lambda: Poisson(0),
        lambda: Poisson(float("inf")),
        lambda: ConstantRate(-1),
    ],
)
def test_refuses_loads_that_make_no_sense(make):
    with pytest.raises(ValueError, match="should be"):
        make()
