"""The trials in their storage: what is settled, lost and repeated."""

import pytest
from optuna.trial import TrialState

from server.errors import ConfigError
from server.growth.training import Trained
from server.growth.trials import (
    Failure,
    StudySpec,
    Trials,
    failure_of,
    is_settled,
    member_of,
    was_put_back,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('storage') / 'trials.db'}"


@pytest.fixture
def spec(database, request):
    return StudySpec(database, request.node.name, budget=9)


def begin(trials):
    trial = trials.ask()
    return trial, trial.suggest_float("a", 0, 1)


def test_a_trial_ends_complete_pruned_or_failed(spec):
    trials = Trials(spec)
    complete, pruned, failed = (begin(trials)[0] for _ in range(3))
    trials.complete(complete, Trained(0.5, {"model": "trials/0000/m.onnx"}, 7))
    trials.prune(pruned)
    trials.fail(failed.number, Failure("ValueError", "no"))
    ended = Trials(spec).all()
    assert [one.state for one in ended] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert all(map(is_settled, ended))
    assert member_of(ended[0]) == ({"model": "trials/0000/m.onnx"}, 7)
    assert [failure_of(one) for one in ended] == [None, None, Failure("ValueError", "no")]


def test_a_lost_trial_is_put_back_and_repeated_with_its_configuration(spec):
    trials = Trials(spec, worker=1)
    lost, chosen = begin(trials)
    other = Trials(spec, worker=2).ask()
    trials.lose([1], Failure("process died", "SIGKILL"))
    (first, second, waiting) = trials.all()
    assert was_put_back(first)
    assert not is_settled(first)
    assert second.number == other.number
    assert second.state is TrialState.RUNNING
    assert waiting.state is TrialState.WAITING
    repeated, again = begin(trials)
    assert (repeated.number, again) == (waiting.number, chosen)


def test_what_has_killed_two_processes_has_failed(spec):
    trials = Trials(spec)
    for _ in range(2):
        begin(trials)
        trials.lose([0], Failure("process died", "SIGKILL"))
    assert [is_settled(one) for one in trials.all()] == [False, True]
    assert failure_of(trials.all()[1]) == Failure("process died", "SIGKILL")


def test_what_is_interrupted_again_and_again_is_no_failure(spec):
    trials = Trials(spec)
    for _ in range(3):
        begin(trials)
        Trials(spec).lose()
    states = [one.state for one in trials.all()]
    assert states == [TrialState.FAIL] * 3 + [TrialState.WAITING]
    assert not any(map(is_settled, trials.all()))


def test_a_trial_that_was_lost_before_it_had_a_configuration_is_not_repeated(spec):
    trials = Trials(spec)
    trials.ask()
    trials.lose()
    (lost,) = trials.all()
    assert not is_settled(lost)


def test_a_process_that_continues_draws_other_numbers(spec):
    drawn = {begin(Trials(spec))[1] for _ in range(3)}
    assert len(drawn) == 3


def test_time_is_remembered(spec):
    trials = Trials(spec)
    assert trials.spent_s == 0
    trials.spent_s = 12.5
    assert Trials(spec).spent_s == 12.5


@pytest.mark.parametrize("pruning", ["hyperband", "asha", "none"])
def test_of_many_trials_the_worse_are_pruned(database, pruning):
    spec = StudySpec(database, pruning, pruning=pruning, budget=9)
    trials = Trials(spec)
    for value in range(9, 0, -1):
        trial = trials.ask()
        trial.report(value, 1)
        stopped = trial.should_prune()
        trials.prune(trial)
    assert stopped == (pruning != "none")


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"minimize": True}, "--minimize"), ({"budget": 3}, "--trial-budget: .* begun with 9")],
)
def test_what_trials_are_compared_by_can_not_change(database, changed, message):
    begun = StudySpec(database, message, budget=9)
    Trials(begun)
    with pytest.raises(ConfigError, match=message):
        Trials(StudySpec(database, message, **{"budget": 9, **changed}))


@pytest.mark.parametrize("url", ["no url", "nosuch://host/db", "sqlite:////no/such/place/t.db"])
def test_a_storage_that_can_not_be_used_is_told(url):
    with pytest.raises(ConfigError, match="--storage: "):
        Trials(StudySpec(url, "any"))
