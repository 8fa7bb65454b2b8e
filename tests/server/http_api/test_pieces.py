"""What is given to TLS, and when."""

from hypothesis import given
from hypothesis import strategies as st

from server.http_api.pieces import PieceTransport

PIECE = 1 << 16


class Tls:
    """A transport with room for some pieces, which says so when it is full."""

    def __init__(self, room):
        self.room = room
        self.sent = b""
        self.state = "open"
        self.pieces = PieceTransport(self)

    def set_write_buffer_limits(self, high):
        assert high == PIECE

    def get_write_buffer_size(self):
        return 7

    def write(self, data):
        assert self.state == "open"
        assert len(data) <= PIECE
        self.sent += bytes(data)
        self.room -= 1
        if self.room <= 0:
            self.pieces.pause()

    def is_closing(self):
        return self.state != "open"

    def close(self):
        self.state = "closed"

    def abort(self):
        self.state = "aborted"


answers = st.lists(
    st.lists(st.integers(0, 5 * PIECE // 2), min_size=1, max_size=3), min_size=1, max_size=4
)


@given(answers, st.integers(1, 4), st.booleans())
def test_all_goes_in_its_order_and_no_sooner_than_it_is_asked_for(sizes, room, closes):
    tls = Tls(room)
    expected = b""
    for number, chunks in enumerate(sizes):
        data = [bytes([number + 1]) * size for size in chunks]
        expected += b"".join(data)
        if len(data) == 1:
            tls.pieces.write(data[0])
        else:
            tls.pieces.writelines(data)
        assert tls.pieces.get_write_buffer_size() == 7 + len(expected) - len(tls.sent)
    assert expected.startswith(tls.sent)
    if closes:
        tls.pieces.close()
        assert tls.pieces.is_closing()
    while len(tls.sent) < len(expected):
        assert tls.state == "open"
        before = len(tls.sent)
        tls.room = room
        is_done = tls.pieces.resume()
        assert len(tls.sent) > before
        assert is_done == (len(tls.sent) == len(expected) and tls.room > 0)
    assert tls.sent == expected
    assert tls.state == ("closed" if closes else "open")


def test_what_is_ended_sends_no_more():
    tls = Tls(1)
    tls.pieces.write(bytes(3 * PIECE))
    tls.pieces.abort()
    assert tls.state == "aborted"
    assert tls.pieces.resume()
    assert (len(tls.sent), tls.pieces.get_write_buffer_size()) == (PIECE, 7)


def test_a_client_that_goes_meanwhile_gets_no_more():
    tls = Tls(1)
    tls.pieces.write(bytes(3 * PIECE))
    tls.state = "lost"
    assert tls.pieces.resume()
    assert len(tls.sent) == PIECE
