from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.inference.traffic import difference


def test_what_was_counted_between_two_moments():
    before = Traffic(
        3,
        0.0,
        {"e": ModelTraffic(10, 20, 1, 2, 3, (15, 5)), "idle": ModelTraffic(4, 4)},
        {"a": 100, "idle": 4},
        {"cpu:0": {"a": InstanceTraffic(10, 100, 1.0)}, "cpu:1": {"a": InstanceTraffic(1, 1, 1.0)}},
    )
    after = Traffic(
        3,
        0.0,
        {
            "e": ModelTraffic(15, 30, 1, 2, 4, (20, 10)),
            "idle": ModelTraffic(4, 4),
            "new": ModelTraffic(refused=3),
        },
        {"a": 130, "idle": 4, "b": 1},
        {
            "cpu:0": {"a": InstanceTraffic(12, 130, 1.5), "b": InstanceTraffic(1, 1, 0.5)},
            "cpu:1": {"a": InstanceTraffic(1, 1, 1.0)},
        },
    )
    assert difference(after, before, 2.0) == Traffic(
        3,
        2.0,
        {"e": ModelTraffic(5, 10, 0, 0, 1, (5, 5)), "new": ModelTraffic(refused=3)},
        {"a": 30, "b": 1},
        {"cpu:0": {"a": InstanceTraffic(2, 30, 0.5), "b": InstanceTraffic(1, 1, 0.5)}},
    )
