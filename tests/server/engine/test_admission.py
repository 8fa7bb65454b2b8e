import msgspec
import pytest
from arenas import ensemble

from allocator.dispatch.flows import NORMAL, Flows
from server.engine.admission import admit, check_time, time_left_s
from server.engine.forecast import Prospect
from server.engine.request import InferOptions, PreparedRequest, Request
from server.engine.spec import ServedModel
from server.errors import InvalidRequest, QueueFull, Unavailable
from workers.runtime.arena import Terms

ALL = 0b111
FLOW = Flows().get("", NORMAL)


def model(**changes):
    return ServedModel(0, 0, ensemble("all", (0, 1, 2), **{"quorum": 2, **changes}))


def admitted(options, *, available=ALL, **changes):
    return admit(PreparedRequest(model(**changes), options), available, FLOW)


def accepted(options, spent_s=0.0):
    """A request whose admission took so long."""
    prepared = PreparedRequest(model(), options)
    admission = admit(prepared, ALL, FLOW)
    return Request(prepared, admission, [], 4, None, 5.0, time_left_s(prepared, spent_s))


def test_a_plain_request_asks_all_that_are_up():
    admission = admitted(InferOptions(), available=0b101)
    assert (admission.requested, admission.expected, admission.quorum) == (ALL, 0b101, 2)
    assert (admission.terms, admission.cell) == (Terms(2), Terms(2).pack())


@pytest.mark.parametrize(
    ("options", "quorum"),
    [
        (InferOptions(members=0b001), 1),
        (InferOptions(members=0b011), 2),
        (InferOptions(quorum=3), 3),
        (InferOptions(members=0b110, quorum=1), 1),
    ],
)
def test_the_quorum_is_the_requests_or_the_ensembles_or_all_that_are_asked(options, quorum):
    assert admitted(options).quorum == quorum


def test_no_more_members_can_be_needed_than_are_asked():
    with pytest.raises(InvalidRequest, match="quorum of 2 can't be met by 1"):
        admitted(InferOptions(members=0b100, quorum=2))


def test_what_is_impossible_now_is_refused_now():
    with pytest.raises(Unavailable, match="only 1 of its members are up"):
        admitted(InferOptions(), available=0b100)
    with pytest.raises(Unavailable, match="quorum of 1"):
        admitted(InferOptions(members=0b001), available=0b110)


def test_extras_and_the_class_alone_are_terms():
    assert admitted(InferOptions(scores=True)).terms == Terms(2, scores=True)
    assert admitted(InferOptions(class_only=True)).terms == Terms(2, early=True)
    assert PreparedRequest(model(), InferOptions(masks=True)).has_extras


STAGES = {"stages": (0b001, 0b111), "thresholds": (0.9,)}


def test_a_cascade_begins_with_its_first_stage_that_is_up():
    request = admitted(InferOptions(), **STAGES)
    assert (request.requested, request.expected, request.terms) == (ALL, 0b001, Terms(1, stage=1))
    request = admitted(InferOptions(), available=0b110, **STAGES)
    assert (request.expected, request.terms) == (0b110, Terms(2, stage=2))


@pytest.mark.parametrize(
    "options",
    [InferOptions(members=ALL), InferOptions(scores=True), InferOptions(predictions=(2,))],
)
def test_a_request_that_needs_every_member_asks_all_at_once(options):
    request = admitted(options, **STAGES)
    assert (request.expected, request.terms.stage) == (ALL, 0)


# -- time --------------------------------------------------------------------------------------


def test_the_earlier_deadline_counts_from_the_arrival():
    def left_s(timeout_s, deadline_s):
        served = msgspec.structs.replace(model(), deadline_s=deadline_s)
        return time_left_s(PreparedRequest(served, InferOptions(timeout_s=timeout_s)), spent_s=1.0)

    assert left_s(0, 0) == 0.0
    assert (left_s(3.0, 0), left_s(0, 3.0), left_s(9.0, 3.0), left_s(3.0, 9.0)) == (2.0,) * 4
    assert 0 < left_s(0.5, 0) < 1e-6, "it has passed, which is not the same as none"


@pytest.mark.parametrize(
    ("own", "beside", "together"),
    [(0, 0, 0), (0, 3.0, 3), (2, 0, 2), (2, 3.0, 2), (2, 1.0, 1)],
)
def test_so_does_that_of_one_request_beside_them(own, beside, together):
    prepared = PreparedRequest(model(), InferOptions(timeout_s=own))
    assert time_left_s(prepared, 0.0, beside) == together


def test_what_would_wait_too_long_is_refused():
    request = accepted(InferOptions())
    check_time(request, Prospect(9.9, 99.0), max_wait_s=10.0)
    with pytest.raises(QueueFull) as refusal:
        check_time(request, Prospect(12.5, 13.0), max_wait_s=10.0)
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("time", 2.5)


def test_what_can_not_make_its_deadline_is_refused():
    request = accepted(InferOptions(timeout_s=5.0), spent_s=1.0)
    check_time(request, Prospect(1.0, 2.9), max_wait_s=10.0)
    with pytest.raises(QueueFull) as refusal:
        check_time(request, Prospect(1.0, 3.5), max_wait_s=10.0)
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("deadline", 0.5)
