"""In which order an ensemble without a cascade would ask its members."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from allocator.profiles import Profile, Profiles
from server.calibration.target import stage_order
from server.profiling import Measurements

NAMES = ("a", "b", "c")
NO_CASCADE = SimpleNamespace(cascade=None)


@dataclass
class Member:
    name: str
    parameter_bytes: int = 0

    @property
    def signature(self):
        return self


def measured(seconds, kind="cpu-1", estimated=()):
    profiles = [
        Profile(name, kind, batch, latency_s, 0)
        for name, batches in seconds.items()
        for batch, latency_s in batches.items()
    ]
    return Measurements(Profiles(profiles), estimated=estimated)


#: The best batch counts: a 1, b 0.5 and c 0.75 seconds per row.
SECONDS = {"a": {1: 1.0, 4: 8.0}, "b": {1: 2.0, 4: 2.0}, "c": {1: 0.75, 4: 4.0}}


def order(found, sizes=(0, 0, 0), ensemble=NO_CASCADE):
    members = [Member(name, size) for name, size in zip(NAMES, sizes, strict=True)]
    return stage_order(ensemble, members, found)


def test_a_cascade_that_is_configured():
    cascade = (("c", "b"), ("a",))
    ensemble = SimpleNamespace(cascade=cascade)
    assert order(None, ensemble=ensemble) == (cascade, "as configured")


def test_by_measured_time():
    stages, why = order(measured(SECONDS), sizes=(1, 2, 3))
    assert stages == (("b",), ("c",), ("a",))
    assert "measured" in why


@pytest.mark.parametrize(
    "found",
    [
        None,
        measured(SECONDS, estimated=(("b", "cpu-1"),)),
        measured({name: SECONDS[name] for name in ("a", "b")}),
    ],
)
def test_by_size_if_not_all_are_measured(found):
    stages, why = order(found, sizes=(30, 10, 20))
    assert stages == (("b",), ("c",), ("a",))
    assert "size" in why


def test_as_listed_if_nothing_is_known():
    stages, why = order(None)
    assert stages == (("a",), ("b",), ("c",))
    assert "listed" in why
