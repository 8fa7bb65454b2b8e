"""Answers that nobody reads: who is ended for them."""

from hypothesis import given
from hypothesis import strategies as st

from server.inference.unread_responses import UnreadResponses

LIMIT = 1000


class Client:
    def __init__(self, nbytes):
        self.nbytes = nbytes
        self.ended = False
        self.several = False

    def has_several(self):
        return self.several

    def end_unread(self):
        assert not self.ended
        self.ended = True

    def unsent_bytes(self):
        return self.nbytes


def holding(unread, *sizes):
    """Clients with so much, one after another."""
    clients = [Client(nbytes) for nbytes in sizes]
    for client in clients:
        unread.hold(client)
    return clients


def ended(clients):
    return [client.ended for client in clients]


def test_within_the_limit_no_reader_is_ended():
    unread = UnreadResponses(LIMIT)
    clients = holding(unread, 500, 400, 100)
    assert unread.held_bytes == LIMIT
    for client in clients:
        unread.let_go(client)
        unread.let_go(client)
    assert unread.held_bytes == 0
    assert not any(ended(clients))


def test_the_longest_waiting_of_large_readers_are_ended():
    unread = UnreadResponses(LIMIT)
    clients = holding(unread, 10, 450, 450, 200)
    assert ended(clients) == [False, True, False, False]
    assert unread.held_bytes == 660
    clients += holding(unread, 400)
    assert ended(clients) == [False, True, True, False, False]


def test_a_single_reader_may_have_one_larger_response():
    unread = UnreadResponses(LIMIT)
    clients = holding(unread, 5000)
    assert ended(clients) == [False]
    clients += holding(unread, 1)
    assert ended(clients) == [True, False]


def test_a_single_reader_with_several_responses_is_ended():
    unread = UnreadResponses(LIMIT)
    (client,) = holding(unread, 900)
    client.nbytes, client.several = 1800, True
    unread.hold(client)
    assert (client.ended, unread.held_bytes) == (True, 0)


def test_bytes_sent_meanwhile_do_not_count():
    unread = UnreadResponses(LIMIT)
    clients = holding(unread, 600, 300)
    clients[0].nbytes = 50
    clients += holding(unread, 600)
    assert (any(ended(clients)), unread.held_bytes) == (False, 950)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 700)), max_size=60))
def test_the_limit_holds_and_small_responses_survive(steps):
    unread = UnreadResponses(LIMIT)
    held = {}
    for number, nbytes in steps:
        client = held.setdefault(number, Client(nbytes))
        client.nbytes = nbytes
        if nbytes == 0:
            unread.let_go(held.pop(number))
            continue
        unread.hold(client)
        for other in [other for other in held if held[other].ended]:
            assert held[other].nbytes * len(held) >= LIMIT
            del held[other]
        assert unread.held_bytes <= LIMIT or len(held) == 1
        assert unread.held_bytes >= sum(other.nbytes for other in held.values())
