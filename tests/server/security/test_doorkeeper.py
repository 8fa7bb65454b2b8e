import hashlib
import hmac
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Forbidden, QueueFull, Unauthenticated
from server.security import doorkeeper
from server.security.doorkeeper import Doorkeeper, Need
from server.security.spec import ApiKey, SecuritySpec

ALICE, BOB, EVE = "ensembled_alice", "ensembled_bob", "ensembled_eve"


def api_key(name, key, *scopes):
    return ApiKey(name, hashlib.sha256(key.encode()).digest(), scopes)


KEYS = (api_key("alice", ALICE, "infer"), api_key("bob", BOB, "admin"))


class Door(Doorkeeper):
    def __init__(self, keys=KEYS, limit=0):
        self.refused = []
        super().__init__(SecuritySpec(keys, limit), lambda error, _: self.refused.append(error))

    def ask(self, need, key=None, certified="", address="10.0.0.1"):
        return self.admit(need, None if key is None else f"Bearer {key}", certified, address)


@pytest.mark.parametrize(
    ("keys", "limit", "is_guarded"), [((), 0, False), (KEYS, 0, True), ((), 1, True)]
)
def test_a_door_is_guarded_if_there_is_something_to_look_at(keys, limit, is_guarded):
    assert Door(keys, limit).is_guarded is is_guarded


@pytest.mark.parametrize("need", list(Need))
@pytest.mark.parametrize(
    ("key", "may"),
    [
        (ALICE, {Need.NOTHING, Need.LOOK, Need.INFER}),
        (BOB, {Need.NOTHING, Need.LOOK, Need.ADMIN}),
        (EVE, {Need.NOTHING}),
        (None, {Need.NOTHING}),
    ],
)
def test_what_a_key_is_good_for(key, may, need):
    door = Door()
    if need in may:
        assert door.ask(need, key) == (
            "" if need is Need.NOTHING else {ALICE: "alice", BOB: "bob"}[key]
        )
        assert door.refused == []
        return
    with pytest.raises(Forbidden if key in {ALICE, BOB} else Unauthenticated) as refusal:
        door.ask(need, key)
    assert door.refused == [refusal.value]
    for secret in (ALICE, BOB, EVE):
        assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer  ", ALICE, f"Basic {ALICE}", f"Bearer{ALICE}", "Bearer é"],
)
def test_what_is_no_key(authorization):
    with pytest.raises(Unauthenticated):
        Door().admit(Need.INFER, authorization, "", "")


@pytest.mark.parametrize(
    "authorization", [f"bearer {ALICE}", f"BEARER {ALICE}", f"Bearer  {ALICE} "]
)
def test_how_a_key_may_be_written(authorization):
    assert Door().admit(Need.INFER, authorization, "", "") == "alice"


@given(st.text())
def test_no_other_text_is_a_key(text):
    with pytest.raises(Unauthenticated):
        Door().admit(Need.LOOK, text, "", "")
    with pytest.raises(Unauthenticated):
        Door().ask(Need.LOOK, text)


def test_all_keys_are_compared_whatever_is_found(monkeypatch):
    seen = []

    def compare(a, b):
        seen.append(a)
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(doorkeeper, "hmac", SimpleNamespace(compare_digest=compare))
    Door().ask(Need.INFER, ALICE)
    assert seen == [key.digest for key in KEYS]


def test_a_client_is_its_key_else_its_certificate_else_its_address():
    assert Door().ask(Need.INFER, ALICE, "certified") == "alice"
    assert Door((), 1).ask(Need.INFER, None, "certified") == "certified"
    assert Door((), 1).ask(Need.INFER, None) == "10.0.0.1"


def test_other_keys_count_at_once_and_who_is_in_stays_in():
    door = Door(limit=1)
    name = door.ask(Need.INFER, ALICE)
    door.change(SecuritySpec((api_key("alice", EVE, "infer"),), 1))
    with pytest.raises(Unauthenticated):
        door.ask(Need.INFER, ALICE)
    with pytest.raises(QueueFull):
        door.ask(Need.INFER, EVE)
    door.leave(name)
    assert door.ask(Need.INFER, EVE) == "alice"


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60),
)
def test_no_client_has_more_at_work_than_it_may(limit, steps):
    door, inside = Door((), limit), {"a": 0, "b": 0, "c": 0}
    for address, comes in steps:
        if comes and inside[address] < limit:
            assert door.ask(Need.INFER, address=address) == address
            inside[address] += 1
        elif comes:
            with pytest.raises(QueueFull) as refusal:
                door.ask(Need.INFER, address=address)
            assert refusal.value.reason == "client"
            assert door.refused[-1] is refusal.value
        elif inside[address]:
            door.leave(address)
            inside[address] -= 1
        assert door._at_work == {name: n for name, n in inside.items() if n}


def test_questions_about_health_count_for_nobody():
    door = Door((), 1)
    for _ in range(3):
        door.leave(door.ask(Need.NOTHING))
        door.ask(Need.NOTHING)
    assert door._at_work == {}


def test_all_may_be_urgent_until_a_key_is_made_for_that():
    door = Door()
    assert not door.keeps_urgent
    door.check_urgent(f"Bearer {ALICE}")
    door.change(SecuritySpec((*KEYS, api_key("eve", EVE, "infer", "urgent"))))
    assert door.keeps_urgent
    door.check_urgent(f"Bearer {EVE}")
    with pytest.raises(Forbidden, match="the API key of 'alice' lacks the scope 'urgent'"):
        door.check_urgent(f"Bearer {ALICE}")
    with pytest.raises(Unauthenticated):
        door.check_urgent(None)
    assert not Door((), 1).keeps_urgent
