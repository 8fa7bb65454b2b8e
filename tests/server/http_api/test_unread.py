"""Answers that nobody reads: who is ended for them."""

from hypothesis import given
from hypothesis import strategies as st

from server.http_api.unread import UnreadAnswers

LIMIT = 1000


class Client:
    def __init__(self, nbytes):
        self.nbytes = nbytes

    def unsent_bytes(self):
        return self.nbytes


def holding(unread, *sizes):
    clients = [Client(nbytes) for nbytes in sizes]
    return clients, [ended for client in clients for ended in unread.hold(client)]


def test_within_the_limit_nobody_is_ended():
    unread = UnreadAnswers(LIMIT)
    clients, ended = holding(unread, 500, 400, 100)
    assert (ended, unread.held_bytes) == ([], LIMIT)
    for client in clients:
        unread.let_go(client)
        unread.let_go(client)
    assert unread.held_bytes == 0


def test_those_with_much_are_ended_and_of_them_who_has_waited_longest():
    unread = UnreadAnswers(LIMIT)
    (_, first, second, _), ended = holding(unread, 10, 450, 450, 200)
    assert ended == [first]
    assert unread.held_bytes == 660
    clients, ended = holding(unread, 400)
    assert ended == [second]


def test_whoever_is_alone_may_have_a_larger_answer():
    unread = UnreadAnswers(LIMIT)
    (large,), ended = holding(unread, 5000)
    assert ended == []
    _, ended = holding(unread, 1)
    assert ended == [large]


def test_what_was_read_meanwhile_counts_no_more():
    unread = UnreadAnswers(LIMIT)
    (quick, _), _ = holding(unread, 600, 300)
    quick.nbytes = 50
    _, ended = holding(unread, 600)
    assert (ended, unread.held_bytes) == ([], 950)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 700)), max_size=60))
def test_the_limit_holds_and_small_answers_are_left_alone(steps):
    unread = UnreadAnswers(LIMIT)
    clients = [Client(0) for _ in range(10)]
    held = []
    for number, nbytes in steps:
        client = clients[number]
        client.nbytes = nbytes
        if nbytes == 0:
            unread.let_go(client)
            held = [other for other in held if other is not client]
            continue
        held = held if client in held else [*held, client]
        for ended in unread.hold(client):
            assert ended.nbytes * len(held) >= LIMIT
            held.remove(ended)
        assert unread.held_bytes <= LIMIT or len(held) == 1
        assert unread.held_bytes >= sum(other.nbytes for other in held)
