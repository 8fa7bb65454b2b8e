"""What is given to TLS, and when."""

from hypothesis import given
from hypothesis import strategies as st

from server.http_api.tls_writer import TlsWriter

CHUNK = 1 << 16


class Tls:
    """A transport with room for some pieces, which says so when it is full."""

    def __init__(self, room):
        self.room = room
        self.sent = b""
        self.state = "open"
        self.writer = TlsWriter(self)

    def set_write_buffer_limits(self, high):
        assert high == CHUNK

    def get_write_buffer_size(self):
        return 7

    def write(self, data):
        assert self.state == "open"
        assert len(data) <= CHUNK
        self.sent += bytes(data)
        self.room -= 1
        if self.room <= 0:
            self.writer.pause()

    def is_closing(self):
        return self.state != "open"

    def close(self):
        self.state = "closed"

    def abort(self):
        self.state = "aborted"


answers = st.lists(
    st.lists(st.integers(0, 5 * CHUNK // 2), min_size=1, max_size=3), min_size=1, max_size=4
)


@given(answers, st.integers(1, 4), st.booleans())
def test_all_goes_in_its_order_and_no_sooner_than_it_is_asked_for(sizes, room, closes):
    tls = Tls(room)
    expected = b""
    for number, chunks in enumerate(sizes):
        data = [bytes([number + 1]) * size for size in chunks]
        expected += b"".join(data)
        if len(data) == 1:
            tls.writer.write(data[0])
        else:
            tls.writer.writelines(data)
        assert tls.writer.get_write_buffer_size() == 7 + len(expected) - len(tls.sent)
    assert expected.startswith(tls.sent)
    if closes:
        tls.writer.close()
        assert tls.writer.is_closing()
    while len(tls.sent) < len(expected):
        assert tls.state == "open"
        before = len(tls.sent)
        tls.room = room
        is_done = tls.writer.resume()
        assert len(tls.sent) > before
        assert is_done == (len(tls.sent) == len(expected) and tls.room > 0)
    assert tls.sent == expected
    assert tls.state == ("closed" if closes else "open")


def test_what_is_ended_sends_no_more():
    tls = Tls(1)
    tls.writer.write(bytes(3 * CHUNK))
    tls.writer.abort()
    assert tls.state == "aborted"
    assert tls.writer.resume()
    assert (len(tls.sent), tls.writer.get_write_buffer_size()) == (CHUNK, 7)


def test_a_client_that_goes_meanwhile_gets_no_more():
    tls = Tls(1)
    tls.writer.write(bytes(3 * CHUNK))
    tls.state = "lost"
    assert tls.writer.resume()
    assert len(tls.sent) == CHUNK
