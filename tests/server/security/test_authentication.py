import hashlib
import hmac
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Forbidden, QueueFull, Unauthenticated
from server.security import authentication
from server.security.authentication import Authenticator, Scope
from server.security.spec import ApiKey, SecuritySpec

ALICE, BOB, EVE = "ensembled_alice", "ensembled_bob", "ensembled_eve"


def api_key(name, key, *scopes):
    return ApiKey(name, hashlib.sha256(key.encode()).digest(), scopes)


KEYS = (api_key("alice", ALICE, "infer"), api_key("bob", BOB, "admin"))


class RecordingAuthenticator(Authenticator):
    def __init__(self, keys=KEYS, limit=0):
        self.refused = []
        super().__init__(SecuritySpec(keys, limit), lambda error, _: self.refused.append(error))

    def request(self, scope, key=None, certified="", address="10.0.0.1"):
        return self.admit(scope, None if key is None else f"Bearer {key}", certified, address)


@pytest.mark.parametrize(
    ("keys", "limit", "is_enabled"), [((), 0, False), (KEYS, 0, True), ((), 1, True)]
)
def test_enabled_if_there_are_keys_or_a_limit(keys, limit, is_enabled):
    assert RecordingAuthenticator(keys, limit).is_enabled is is_enabled


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        (ALICE, {Scope.PUBLIC, Scope.READ, Scope.INFER}),
        (BOB, {Scope.PUBLIC, Scope.READ, Scope.ADMIN}),
        (EVE, {Scope.PUBLIC}),
        (None, {Scope.PUBLIC}),
    ],
)
def test_scopes_of_a_key(key, allowed, scope):
    authenticator = RecordingAuthenticator()
    if scope in allowed:
        assert authenticator.request(scope, key) == (
            "" if scope is Scope.PUBLIC else {ALICE: "alice", BOB: "bob"}[key]
        )
        assert authenticator.refused == []
        return
    with pytest.raises(Forbidden if key in {ALICE, BOB} else Unauthenticated) as refusal:
        authenticator.request(scope, key)
    assert authenticator.refused == [refusal.value]
    for secret in (ALICE, BOB, EVE):
        assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer  ", ALICE, f"Basic {ALICE}", f"Bearer{ALICE}", "Bearer é"],
)
def test_malformed_authorization(authorization):
    with pytest.raises(Unauthenticated):
        RecordingAuthenticator().admit(Scope.INFER, authorization, "", "")


@pytest.mark.parametrize(
    "authorization", [f"bearer {ALICE}", f"BEARER {ALICE}", f"Bearer  {ALICE} "]
)
def test_accepted_spellings_of_authorization(authorization):
    assert RecordingAuthenticator().admit(Scope.INFER, authorization, "", "") == "alice"


@given(st.text())
def test_no_other_text_is_a_key(text):
    with pytest.raises(Unauthenticated):
        RecordingAuthenticator().admit(Scope.READ, text, "", "")
    with pytest.raises(Unauthenticated):
        RecordingAuthenticator().request(Scope.READ, text)


def test_all_keys_are_compared_even_after_a_match(monkeypatch):
    seen = []

    def compare(a, b):
        seen.append(a)
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(authentication, "hmac", SimpleNamespace(compare_digest=compare))
    RecordingAuthenticator().request(Scope.INFER, ALICE)
    assert seen == [key.digest for key in KEYS]


def test_a_client_is_named_by_key_else_certificate_else_address():
    assert RecordingAuthenticator().request(Scope.INFER, ALICE, "certified") == "alice"
    assert RecordingAuthenticator((), 1).request(Scope.INFER, None, "certified") == "certified"
    assert RecordingAuthenticator((), 1).request(Scope.INFER, None) == "10.0.0.1"


def test_an_update_applies_at_once_and_keeps_running_requests():
    authenticator = RecordingAuthenticator(limit=1)
    name = authenticator.request(Scope.INFER, ALICE)
    authenticator.update(SecuritySpec((api_key("alice", EVE, "infer"),), 1))
    with pytest.raises(Unauthenticated):
        authenticator.request(Scope.INFER, ALICE)
    with pytest.raises(QueueFull):
        authenticator.request(Scope.INFER, EVE)
    authenticator.limiter.release(name)
    assert authenticator.request(Scope.INFER, EVE) == "alice"


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=60),
)
def test_the_limit_of_concurrent_requests(limit, steps):
    authenticator, active = RecordingAuthenticator((), limit), {"a": 0, "b": 0, "c": 0}
    for address, comes in steps:
        if comes and active[address] < limit:
            assert authenticator.request(Scope.INFER, address=address) == address
            active[address] += 1
        elif comes:
            with pytest.raises(QueueFull) as refusal:
                authenticator.request(Scope.INFER, address=address)
            assert refusal.value.reason == "client"
            assert authenticator.refused[-1] is refusal.value
        elif active[address]:
            authenticator.limiter.release(address)
            active[address] -= 1
        assert authenticator.limiter._active == {name: n for name, n in active.items() if n}


def test_public_requests_are_not_counted():
    authenticator = RecordingAuthenticator((), 1)
    for _ in range(3):
        authenticator.limiter.release(authenticator.request(Scope.PUBLIC))
        authenticator.request(Scope.PUBLIC)
    assert authenticator.limiter._active == {}


def test_urgent_requests_are_restricted_once_a_key_has_the_scope():
    authenticator = RecordingAuthenticator()
    assert not authenticator.restricts_urgent
    authenticator.authorize_urgent(f"Bearer {ALICE}")
    authenticator.update(SecuritySpec((*KEYS, api_key("eve", EVE, "infer", "urgent"))))
    assert authenticator.restricts_urgent
    authenticator.authorize_urgent(f"Bearer {EVE}")
    with pytest.raises(Forbidden, match="the API key of 'alice' lacks the scope 'urgent'"):
        authenticator.authorize_urgent(f"Bearer {ALICE}")
    with pytest.raises(Unauthenticated):
        authenticator.authorize_urgent(None)
    assert not RecordingAuthenticator((), 1).restricts_urgent
