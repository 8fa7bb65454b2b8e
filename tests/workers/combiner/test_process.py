"""The combiner's loop without its sockets."""

import gc
import sys
from types import SimpleNamespace

from workers.combiner.process import Combiner
from workers.runtime.messages import Deferred, Ended
from workers.runtime.rings import RING_HEADER_BYTES, Ring


def test_what_is_told_leaves_nothing_behind():
    combiner = object.__new__(Combiner)
    combiner._send = lambda message: None
    outcomes = [Ended(0, 1, 2, 1, True), Ended(0, 3, 4, 1, True), Deferred(0, 5, 6, 1)]
    gc.collect()
    before, times = sys.getallocatedblocks(), 1000
    for _ in range(times):
        combiner._send_outcomes(outcomes)
        combiner._send_outcomes(outcomes[:1])
    assert sys.getallocatedblocks() - before < times / 10


def test_what_has_no_room_in_the_ring_goes_over_zeromq():
    combiner, sent, rung = object.__new__(Combiner), [], []
    combiner._combined = Ring(memoryview(bytearray(RING_HEADER_BYTES + 64)))
    combiner._front_end = SimpleNamespace(send=sent.append)
    combiner._bell = SimpleNamespace(ring_if_needed=lambda: rung.append(1))
    for number in range(5):
        combiner._send(b"%d" % number)
    assert combiner._combined.pop() == [(0, b"%d" % number) for number in range(4)]
    assert (sent, len(rung)) == ([b"4"], 4)
