import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic, demand_of, total

STAGES = {"both": [["a", "b"]], "cascade": [["a"], ["b"], ["c"]], "c": [["c"]]}


def traffic(members, **models):
    return Traffic(1, 10.0, models, members)


def test_the_mix_weights_the_members_of_its_ensembles():
    seen = traffic(
        {"a": 400, "b": 300, "c": 100},
        both=ModelTraffic(30, 300),
        cascade=ModelTraffic(10, 100, ended=(100, 0, 0)),
        c=ModelTraffic(100, 100),
    )
    assert demand_of(seen, STAGES) == pytest.approx({"a": 0.8, "b": 0.6, "c": 0.2})


def test_later_stages_are_asked_by_the_rows_that_reach_them():
    seen = traffic({"a": 200, "b": 80, "c": 20}, cascade=ModelTraffic(10, 200, ended=(120, 60, 20)))
    assert demand_of(seen, STAGES) == pytest.approx({"a": 1.0, "b": 0.4, "c": 0.1})


def test_early_answers_spare_the_members_that_they_did_not_wait_for():
    seen = traffic({"a": 300, "b": 180}, both=ModelTraffic(30, 300, saved=120))
    assert demand_of(seen, STAGES) == pytest.approx({"a": 1.0, "b": 0.6, "c": 0.001})


def test_what_degraded_answers_lack_is_asked_for_all_the_same():
    model = ModelTraffic(30, 300, degraded=12)
    assert demand_of(traffic({"a": 300, "b": 180}, both=model), STAGES)["b"] == 1.0
    model = ModelTraffic(30, 300, degraded=6, saved=60)
    assert demand_of(traffic({"a": 300, "b": 180}, both=model), STAGES)["b"] == pytest.approx(0.8)


def test_refused_requests_are_asked_for_too_up_to_as_many_as_were_answered():
    both = ModelTraffic(10, 100, refused=1000)
    seen = traffic({"a": 100, "b": 100, "c": 100}, both=both, c=ModelTraffic(100, 100))
    assert demand_of(seen, STAGES) == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 1 / 3})


def test_no_traffic_has_no_demand_and_unknown_models_none():
    assert demand_of(traffic({}), STAGES) == {}
    assert demand_of(traffic({"z": 9}, z=ModelTraffic(9, 9)), STAGES) == {}


def test_copies_for_a_roll_out_are_asked_for_too():
    seen = traffic({"a": 100, "b": 100, "c": 50}, both=ModelTraffic(10, 100))
    assert demand_of(seen, STAGES) == pytest.approx({"a": 1.0, "b": 1.0, "c": 0.5})


COUNTS = st.integers(0, 1000)
MODELS = st.builds(
    ModelTraffic, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.tuples(COUNTS, COUNTS, COUNTS)
)


@given(
    st.dictionaries(st.sampled_from([*STAGES]), MODELS),
    st.dictionaries(st.sampled_from("abc"), COUNTS),
)
def test_a_demand_is_of_all_members_and_above_nothing(models, members):
    demand = demand_of(Traffic(1, 1.0, models, members), STAGES)
    assert not demand or demand.keys() == {*"abc"}
    rows = sum(model.rows for model in models.values())
    for member, asked in demand.items():
        assert 0 < asked <= 1 + members.get(member, 0) / rows + 1e-9


def test_observations_add_up():
    first = Traffic(
        2, 1.0, {"both": ModelTraffic(1, 2, 3, 4, 5, (6,))}, {"a": 1},
        {"cpu:0": {"a": InstanceTraffic(1, 2, 0.5)}},
    )  # fmt: skip
    second = Traffic(
        2, 2.0, {"both": ModelTraffic(1, 1, 1, 1, 1, (1, 1)), "c": ModelTraffic(1)}, {"b": 2},
        {"cpu:0": {"a": InstanceTraffic(1, 1, 0.5)}, "cpu:1": {"b": InstanceTraffic(1)}},
    )  # fmt: skip
    assert total([first, second]) == Traffic(
        2,
        3.0,
        {"both": ModelTraffic(2, 3, 4, 5, 6, (7, 1)), "c": ModelTraffic(1)},
        {"a": 1, "b": 2},
        {"cpu:0": {"a": InstanceTraffic(2, 3, 1.0)}, "cpu:1": {"b": InstanceTraffic(1)}},
    )
