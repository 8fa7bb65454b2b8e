"""HTTP/2 by hand, for what no well-behaved gRPC client does: frames are made and taken apart."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW = 4
CANCEL = struct.pack(">I", 8)
SERVICE = "inference.GRPCInferenceService"


def frame(kind, flags, stream, payload=b""):
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes((kind, flags))
        + struct.pack(">I", stream)
        + payload
    )


def _text(value):
    assert len(value) < 127
    return bytes((len(value),)) + value.encode()


def call_headers(stream, method="ModelInfer", **more):
    """The HEADERS frame that begins a call, no name or value of which is compressed."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{SERVICE}/{method}",
        ":authority": "t",
        "te": "trailers",
        "content-type": "application/grpc",
        **more,
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return frame(HEADERS, END_HEADERS, stream, block)


def message(payload):
    """A gRPC message, as it goes into DATA frames."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


def data_frames(stream, payload):
    """DATA frames of a size that everybody takes; more may follow."""
    pieces = [payload[i : i + 16384] for i in range(0, len(payload), 16384)]
    return b"".join(frame(DATA, 0, stream, piece) for piece in pieces)


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


class RawConnection:
    """A connection that says what it is told to, and answers pings and settings.

    Args:
        address: ``HOST:PORT``.
        window: how many bytes the server may send of a stream before it is asked for more.
    """

    def __init__(self, address, window=65535):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 30)
        self.socket.sendall(PREFACE + settings((INITIAL_WINDOW, window)))
        self._received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *frames):
        self.socket.sendall(b"".join(frames))

    def read_frame(self):
        """The next frame that is no housekeeping, as (kind, flags, stream, payload); None at the
        end."""
        while True:
            head = self._take(9)
            if head is None:
                return None
            length = int.from_bytes(head[:3], "big")
            kind, flags = head[3], head[4]
            payload = self._take(length)
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            elif kind not in (SETTINGS, PING, WINDOW_UPDATE):
                return kind, flags, int.from_bytes(head[5:9], "big"), payload

    def _take(self, count):
        while len(self._received) < count:
            try:
                chunk = self.socket.recv(1 << 16)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return None
            self._received += chunk
        taken, self._received = self._received[:count], self._received[count:]
        return taken
