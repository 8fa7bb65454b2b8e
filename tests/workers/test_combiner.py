"""The combiner's loop without its sockets."""

import gc
import sys

from workers.combiner import Combiner
from workers.messages import Deferred, Ended


def test_what_is_told_leaves_nothing_behind():
    combiner = object.__new__(Combiner)
    combiner._send = lambda message: None
    outcomes = [Ended(0, 1, 2, 1, True), Ended(0, 3, 4, 1, True), Deferred(0, 5, 6, 1)]
    gc.collect()
    before, times = sys.getallocatedblocks(), 1000
    for _ in range(times):
        combiner._tell(outcomes)
        combiner._tell(outcomes[:1])
    assert sys.getallocatedblocks() - before < times / 10
