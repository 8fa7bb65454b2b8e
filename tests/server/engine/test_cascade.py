import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena
from hypothesis import given
from hypothesis import strategies as st

from allocator.dispatch.flows import NORMAL, Flows
from server.engine.cascade import advance, move_on, stage_terms
from server.engine.request import Admission, InferOptions, PreparedRequest, Request
from server.engine.spec import ServedModel
from workers.runtime.arena import Terms, unpack

STAGES = (0b001, 0b011, 0b111)


def test_stages_come_in_turn():
    assert advance(STAGES, 0, 0b111) == (1, 0b001)
    assert advance(STAGES, 1, 0b111) == (2, 0b010)
    assert advance(STAGES, 2, 0b111) == (3, 0b100)
    assert advance(STAGES, 3, 0b111) == (3, 0)


def test_a_stage_without_members_is_passed_over():
    assert advance(STAGES, 0, 0b110) == (2, 0b010)
    assert advance(STAGES, 1, 0b101) == (3, 0b100)
    assert advance(STAGES, 1, 0b001) == (3, 0)


@given(st.integers(0, 7), st.integers(0, 3))
def test_whoever_is_asked_is_up_and_new(available, stage):
    reached, mask = advance(STAGES, stage, available)
    asked = STAGES[stage - 1] if stage else 0
    assert mask & ~available == 0
    assert mask & asked == 0
    assert mask & ~STAGES[reached - 1] == 0


def test_the_quorum_of_a_stage_is_no_more_than_its_members():
    assert stage_terms(2, STAGES, 1) == Terms(1, stage=1)
    assert stage_terms(2, STAGES, 3) == Terms(2, stage=3)


@given(st.integers(1, 64), st.booleans(), st.booleans(), st.integers(0, 63))
def test_terms_survive_their_cell(quorum, scores, early, stage):
    terms = Terms(quorum, scores, early, stage)
    assert unpack(terms.pack()) == terms


START = 32 * 3


@pytest.fixture
def arena():
    spec = arena_spec(ensembles=(ensemble("all", (0, 1, 2), quorum=2, stages=STAGES),))
    with mapped(spec) as memory:
        yield open_arena(memory)


@pytest.fixture
def request_of_eight(arena):
    served = ServedModel(0, 0, arena.spec.ensembles[0])
    claim(arena, START, START + 8, expected=0b001, quorum=1, stage=1)
    flow = Flows().get("", NORMAL)
    terms = Terms(1, stage=1)
    admission = Admission(0, 0b111, 0b001, 2, terms, terms.pack(), flow)
    return Request(PreparedRequest(served, InferOptions()), admission, [], 8, None, 0.0)


def test_rows_move_on_once(arena, request_of_eight):
    rows = (START + 1, START + 5)
    assert move_on(arena, request_of_eight, rows, 1, 0b111) == ([rows], 0b010)
    slots = arena.slots(*rows)
    assert (arena.expected[slots] == 0b011).all()
    assert [unpack(int(cell)) for cell in arena.terms[slots]] == [Terms(2, stage=2)] * 4
    assert move_on(arena, request_of_eight, rows, 1, 0b111) == ([], 0b010), "told twice"
    whole = (START, START + 8)
    ranges, _ = move_on(arena, request_of_eight, whole, 1, 0b111)
    assert ranges == [(START, START + 1), (START + 5, START + 8)]


def test_closed_rows_stay(arena, request_of_eight):
    slots = arena.slots(START, START + 8)
    arena.closing[slots] = np.where(arena.row[slots] % 2 == 0, arena.row[slots], 0)
    ranges, _ = move_on(arena, request_of_eight, (START, START + 4), 1, 0b111)
    assert ranges == [(START + 1, START + 2), (START + 3, START + 4)]


def test_rows_whom_nobody_is_left_to_ask_come_to_their_last_stage(arena, request_of_eight):
    rows = (START, START + 8)
    assert move_on(arena, request_of_eight, rows, 1, 0b001) == ([rows], 0)
    slots = arena.slots(*rows)
    assert (arena.expected[slots] == 0b001).all()
    assert unpack(int(arena.terms[slots][0])) == Terms(2, stage=3)
