"""Roll-outs over an engine that is played: which version answers, what is copied, who decides."""

import asyncio
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from arenas import ensemble

from allocator.dispatch.flows import LOW, NORMAL
from server.control import ChangeResult, RolloutRequest
from server.engine.request import Answer, PreparedRequest
from server.engine.spec import ServedModel
from server.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidRequest,
    MemberFailed,
    QueueFull,
    Unavailable,
    UnknownModel,
)
from server.inference.binding import bind_tensors
from server.inference.endpoint import Endpoint
from server.inference.outputs import infer_options
from server.inference.requests import BoundRequest, InferRequest, RequestParameters
from server.inference.rollouts import Rollouts
from server.inference.spec import InputSpec, ModelSpec, StoredView
from server.inference.tensors import InputTensor
from server.rollout.spec import Limits, RolloutSpec
from workers.runtime.spec import TensorSpec

OUTPUT = TensorSpec("output", "FP32", (1,))


def endpoint(version, width=2):
    served = ServedModel(0, 0, ensemble(f"m@{version}", (0,), output=OUTPUT))
    tensor = TensorSpec("x", "FP32", (width,))
    return Endpoint(ModelSpec(served, (InputSpec(tensor, (StoredView(0, 1),)),), ("m",)))


def spec(mode="canary", **more):
    given = {"model": "m", "version": "2", "mode": mode, "percent": 100, **more}
    return RolloutSpec(**given)


def request_of(rows=3, width=2, id="", **parameters):
    tensor = InputTensor("x", "FP32", [rows, width], np.ones((rows, width), np.float32))
    return InferRequest(id, [tensor], parameters=RequestParameters(**parameters))


def answer_of(rows=3, value=1.0, seconds=0.01, degraded=False):
    values = np.full(rows, value, np.float32).tobytes()
    return Answer(values, rows, 1, degraded, started=5.0, ended=5.0 + seconds)


class Stage:
    """Two versions of a model; the second answers copies as the test says."""

    def __init__(self, *specs, width=2):
        self.endpoints = {"1": endpoint("1"), "2": endpoint("2", width)}
        self.is_idle = True
        self.engine = SimpleNamespace(is_idle_for=lambda model: self.is_idle)
        self.control = self
        self.asked, self.result = [], ChangeResult(2)
        self.copied = []
        self.outcome = answer_of()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.rollouts = Rollouts(self, specs)

    def find(self, name, version=""):
        if version not in self.endpoints:
            raise UnknownModel(name, version)
        return self.endpoints[version]

    async def bind(self, endpoint, request):
        options = infer_options(endpoint.model, request.parameters, request.outputs)
        rows, inputs = bind_tensors(endpoint.model, request.tensors)
        return BoundRequest(PreparedRequest(endpoint.model.served, options), inputs, rows)

    async def answer(self, bound, arrived, *, within_s=0.0):
        self.copied.append(bound)
        await self.may_answer.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def ask(self, request):
        self.asked.append(request)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def choose(self, request=None, **headers):
        request = request or request_of()
        return self.rollouts.choose(
            self.endpoints["1"], request, lambda name: headers.get(name, "")
        )

    @property
    def figures(self):
        return self.rollouts.find("m").figures


async def settle():
    """Run everything that can run, but the clock."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_without_a_roll_out_nothing_changes():
    async def run():
        stage = Stage()
        assert stage.choose() is stage.endpoints["1"]
        with pytest.raises(InvalidRequest, match="'m' has no roll-out"):
            stage.rollouts.find("m")

    asyncio.run(run())


def test_a_canary_answers_its_share():
    async def run():
        stage = Stage(spec(percent=25))
        for _ in range(400):
            chosen = stage.choose()
            chosen.succeed(0.0, answer_of())
        assert stage.endpoints["2"].counters.outcomes["ok"] == 100
        assert stage.endpoints["1"].counters.outcomes["ok"] == 300
        assert (stage.figures.new.answered, stage.figures.present.rows) == (100, 900)
        assert stage.figures.new.times.count == 100

    asyncio.run(run())


def test_a_version_that_is_held_back_gets_nothing():
    async def run():
        for mode in ("canary", "shadow"):
            stage = Stage(spec(mode))
            stage.endpoints["2"].is_open = False
            chosen = stage.choose()
            chosen.succeed(0.0, answer_of())
            await settle()
            assert (chosen.model.version, stage.copied) == ("1", [])
            assert stage.figures.dropped == (mode == "shadow")

    asyncio.run(run())


def test_it_is_sticky_by_a_header_or_the_request_id():
    async def run():
        stage = Stage(spec(percent=50, sticky="header", header="x-user"))
        for user in map(str, range(50)):
            assert len({stage.choose(**{"x-user": user}).model.version for _ in range(4)}) == 1
        both = {stage.choose(**{"x-user": str(user)}).model.version for user in range(50)}
        assert both == {"1", "2"}
        assert {stage.choose().model.version for _ in range(4)} == {"1", "2"}
        stage.rollouts.replace([spec(percent=50, sticky="request_id")])
        for number in map(str, range(50)):
            by_header = stage.choose(**{"x-request-id": number}).model.version
            assert stage.choose(request_of(id=number)).model.version == by_header

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "is_own"),
    [
        (MemberFailed("no"), True),
        (DeadlineExceeded(), True),
        (ZeroDivisionError(), True),
        (Unavailable("no quorum"), True),
        (Unavailable("draining", "draining"), False),
        (QueueFull("full"), False),
        (ClientGone(), False),
        (asyncio.CancelledError(), False),
        (InvalidRequest("no picture"), False),
    ],
)
def test_whose_fault_a_failure_is(error, is_own):
    async def run():
        stage = Stage(spec())
        stage.choose().fail(0.0, error)
        assert stage.figures.new.errors == is_own
        assert sum(stage.endpoints["2"].counters.outcomes.values()) == 1

    asyncio.run(run())


def test_what_only_the_present_version_takes_is_an_error_of_the_new_one():
    async def run():
        stage = Stage(spec(), width=3)
        chosen = stage.choose(request_of(width=2))
        chosen.fail(0.0, InvalidRequest("input 'x' has shape [-1, 3]"))
        assert stage.figures.new.errors == 1
        chosen = stage.choose(request_of(width=7))
        chosen.fail(0.0, InvalidRequest("input 'x' has shape [-1, 3]"))
        assert stage.figures.new.errors == 1

    asyncio.run(run())


def test_a_shadow_gets_copies_and_answers_nobody():
    async def run():
        stage = Stage(spec("shadow"))
        stage.outcome = answer_of(value=1.5, seconds=0.02)
        chosen = stage.choose(request_of(timeout_s=0.001, is_urgent=True))
        assert chosen.model is stage.endpoints["1"].model
        assert not stage.copied
        chosen.succeed(0.0, answer_of())
        await settle()
        (copy,) = stage.copied
        assert copy.prepared.options.priority == LOW != NORMAL
        assert (copy.prepared.limit_s, copy.rows) == (0.0, 3)
        assert copy.prepared.model is stage.endpoints["2"].model.served
        figures = stage.figures
        assert (figures.compared, figures.compared_rows, figures.disagreeing_rows) == (1, 3, 3.0)
        assert figures.difference == 0.5
        assert (figures.present.answered, figures.new.answered) == (1, 1)
        assert not stage.endpoints["2"].counters.outcomes, "those are of clients"

    asyncio.run(run())


def test_only_a_share_is_copied():
    async def run():
        stage = Stage(spec("shadow", percent=10))
        for _ in range(100):
            stage.choose().succeed(0.0, answer_of())
            await settle()
        assert len(stage.copied) == 10

    asyncio.run(run())


def test_a_busy_server_copies_nothing():
    async def run():
        stage = Stage(spec("shadow"))
        stage.is_idle = False
        stage.choose().succeed(0.0, answer_of())
        await settle()
        assert (stage.copied, stage.figures.dropped) == ([], 1)

    asyncio.run(run())


def test_copies_are_bounded_in_number_and_memory():
    async def run():
        stage = Stage(spec("shadow"))
        stage.may_answer.clear()
        for _ in range(40):
            stage.choose().succeed(0.0, answer_of())
        await settle()
        assert (len(stage.copied), stage.figures.dropped) == (16, 24)
        stage.may_answer.set()
        await settle()
        assert stage.figures.compared == 16
        stage.may_answer.clear()
        big = request_of(rows=5 << 20)
        for _ in range(3):
            stage.choose(big).succeed(0.0, answer_of())
        await settle()
        assert (len(stage.copied), stage.figures.dropped) == (17, 26)
        stage.rollouts.stop()
        await settle()
        stage.choose(big).succeed(0.0, answer_of())
        await settle()
        assert len(stage.copied) == 18, "its memory is free again"
        stage.rollouts.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("outcome", "errors", "dropped"),
    [
        (MemberFailed("no"), 1, 0),
        (Unavailable("none of its members is up"), 1, 0),
        (Unavailable("draining", "draining"), 0, 1),
        (QueueFull("full"), 0, 1),
        (DeadlineExceeded(), 0, 1),
        (ZeroDivisionError("oh"), 1, 0),
        (answer_of(degraded=True), 0, 0),
    ],
)
def test_what_becomes_of_a_copy(outcome, errors, dropped, caplog):
    async def run():
        stage = Stage(spec("shadow"))
        stage.outcome = outcome
        with caplog.at_level(logging.ERROR):
            stage.choose().succeed(0.0, answer_of())
            await settle()
        figures = stage.figures
        assert (figures.new.errors, figures.dropped, figures.compared) == (errors, dropped, 0)
        assert bool(caplog.records) == isinstance(outcome, ZeroDivisionError)

    asyncio.run(run())


def test_a_shadow_that_takes_other_inputs_fails():
    async def run():
        stage = Stage(spec("shadow"), width=3)
        stage.choose().succeed(0.0, answer_of())
        await settle()
        assert (stage.figures.new.errors, stage.copied) == (1, [])

    asyncio.run(run())


def test_a_roll_out_that_goes_on_keeps_its_figures():
    async def run():
        stage = Stage(spec(percent=100))
        stage.choose().succeed(0.0, answer_of())
        stage.rollouts.replace([spec(percent=0)])
        assert stage.choose().model.version == "1"
        assert stage.figures.new.answered == 1
        stage.rollouts.replace([spec("shadow")])
        assert stage.figures.new.answered == 0
        stage.rollouts.replace([])
        assert stage.choose() is stage.endpoints["1"]

    asyncio.run(run())


def answered(stage, requests):
    for _ in range(requests):
        stage.choose().succeed(0.0, answer_of())


def test_a_good_version_is_promoted_and_that_is_logged_once(caplog):
    async def run():
        limits = Limits(after_requests=100, max_error_rate=0.1)
        stage = Stage(spec(promote=limits))
        answered(stage, 99)
        stage.rollouts.judge()
        await settle()
        assert stage.asked == []
        answered(stage, 1)
        stage.rollouts.judge()
        stage.rollouts.judge()
        await settle()
        reason = "0 of 100 requests failed (0.000%, limit 10.000%); after 100 requests"
        assert stage.asked == [RolloutRequest("m", "promote", reason=reason)]
        stage.rollouts.replace([])
        stage.rollouts.judge()
        (record,) = caplog.records
        assert record.message == f"the roll-out of version 2 of 'm' is promoted: {reason}"

    with caplog.at_level(logging.INFO):
        asyncio.run(run())


@pytest.mark.parametrize("result", [ChangeResult(1, error="no room"), QueueFull("too many")])
def test_a_bad_version_is_rolled_back_and_a_refusal_is_tried_again_later(caplog, result):
    async def run():
        stage = Stage(spec(rollback=Limits(after_requests=10, max_error_rate=0.1)))
        stage.result = result
        for _ in range(50):
            stage.choose().fail(0.0, MemberFailed("no"))
        stage.rollouts.judge()
        await settle()
        stage.rollouts.judge()
        await settle()
        assert [asked.action for asked in stage.asked] == ["rollback"]
        for _ in range(5):
            stage.choose().fail(0.0, MemberFailed("no"))
        stage.rollouts.judge()
        await settle()
        assert len(stage.asked) == 2
        stage.rollouts.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    said = [record.message for record in caplog.records]
    assert "is rolled back: 50 of 50 requests failed" in said[0]
    assert "goes on, rollback was refused: " in said[1]


def test_the_statistics_of_the_new_version_have_the_figures():
    async def run():
        stage = Stage(spec("shadow"))
        stage.choose().succeed(0.0, answer_of())
        await settle()
        entries = [{"name": "m", "version": "1"}, {"name": "m", "version": "2"}, {"name": "n"}]
        stage.rollouts.add_statistics(entries)
        assert [entry.keys() for entry in entries if "rollout" in entry] == [
            {"name", "version", "rollout"}
        ]
        told = entries[1]["rollout"]
        assert (told["mode"], told["percent"], told["compared_rows"]) == ("shadow", 100, 3)
        assert told["new"]["mean_ms"] == pytest.approx(10)

    asyncio.run(run())
