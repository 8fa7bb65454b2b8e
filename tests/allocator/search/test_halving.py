import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.search.halving import first_seconds, successive_halving


class Measure:
    """Gives each candidate its score, and notes what was asked."""

    def __init__(self, scores):
        self.scores = scores
        self.asked = []

    def __call__(self, candidate, seconds):
        self.asked.append((candidate, seconds))
        score = self.scores[candidate]
        return score.pop(0) if isinstance(score, list) else score


def names(standings):
    return "".join(one.candidate for one in standings)


def test_losers_are_dropped_early_and_survivors_measured_longer():
    measure = Measure({"a": 3, "b": 7, "c": 1, "d": 8, "e": 2, "f": 5, "g": 4, "h": 6})
    standings = successive_halving("abcdefgh", measure, first_s=1)
    assert measure.asked == [
        *((name, 1) for name in "abcdefgh"),
        *((name, 2) for name in "dbhf"),
        *((name, 4) for name in "db"),
    ]
    assert names(standings) == "dbhfgaec"
    assert (standings[0].score, standings[0].seconds, standings[0].rounds) == (8, 7, 3)
    assert (standings[-1].score, standings[-1].seconds, standings[-1].rounds) == (1, 1, 1)


def test_earlier_rounds_count_by_their_length():
    measure = Measure({"a": [10, 40], "b": [20, 20], "c": 1})
    standings = successive_halving("abc", measure, first_s=1)
    assert names(standings) == "abc"
    assert [one.score for one in standings] == [pytest.approx((10 + 2 * 40) / 3), 20, 1]


def test_what_fails_is_out():
    measure = Measure({"a": 0, "b": 5, "c": 0, "d": 0, "e": 0})
    standings = successive_halving("abcde", measure, first_s=1)
    assert names(standings) == "bacde"
    assert len(measure.asked) == 5  # one is left, there is nothing to decide
    assert [one.score for one in standings] == [5, 0, 0, 0, 0]


def test_who_fails_late_is_worse_than_who_never_failed():
    measure = Measure({"a": [9, 0], "b": [8, 0], "c": 2, "d": 1})
    standings = successive_halving("abcd", measure, first_s=1)
    assert names(standings) == "cdab"
    assert [one.score for one in standings] == [2, 1, 0, 0]


def test_of_equals_the_earlier_is_better():
    assert names(successive_halving("abcd", lambda *_: 1.0, first_s=1)) == "abcd"


def test_one_is_measured_and_none_is_no_question():
    assert successive_halving("a", lambda *_: 3.0, first_s=2)[0].score == 3
    assert successive_halving("", lambda *_: 3.0, first_s=2) == ()


@pytest.mark.parametrize("wrong", [{"first_s": 0}, {"first_s": 1, "eta": 1}])
def test_what_would_never_end_is_refused(wrong):
    with pytest.raises(ValueError, match="first_s should be above 0 and eta 2 or more"):
        successive_halving("ab", lambda *_: 1.0, **wrong)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=20, unique=True), st.sampled_from((2, 3, 4))
)
def test_without_noise_the_best_wins_and_the_last_round_is_as_long_as_wanted(scores, eta):
    measure = Measure(dict(enumerate(scores)))
    first_s = first_seconds(len(scores), 4.0, eta=eta)
    standings = successive_halving(range(len(scores)), measure, first_s=first_s, eta=eta)
    assert standings[0].score == pytest.approx(max(scores))
    assert sorted(one.candidate for one in standings) == list(range(len(scores)))
    longest = max(seconds for _, seconds in measure.asked)
    assert longest <= 4.0 * (1 + 1e-9)
    if min(scores) > 0:
        assert longest == pytest.approx(4.0)
