"""The combiner process: ends the rows of all arenas that are ready, and notifies the front-end.

In: `Predicted` from the workers, `Close` and `Reset` from the front-end. Out: `Combined` and
`Unsure`. Messages from workers and to the front-end go through rings (`workers.runtime.queues`). A
restart loses no state: a new combiner scans the arenas and continues, and the same scan, four times
a second, finds rows whose message was lost. How a row ends is in `workers.combiner.arena_combiner`.
"""

from __future__ import annotations

import time
from typing import BinaryIO

import zmq

from workers.combiner.arena_combiner import ArenaCombiner, Outcome
from workers.runtime.arena import Arena
from workers.runtime.bootstrap import Started, StatusChannel, exit_with_supervisor, run_role
from workers.runtime.logs import ProcessName
from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
    Close,
    Combined,
    CombinerHello,
    Deferred,
    Ended,
    Predicted,
    Reset,
    ToCombiner,
    Unsure,
    encode,
)
from workers.runtime.queues import Queues, Sleeper
from workers.runtime.sockets import COMBINER, FRONT_END, Decoder, descriptor, drain, open_socket
from workers.runtime.spec import CombinerSpec, GenerationSpec

__all__ = ["main"]

_SCAN_S = 0.25


class Combiner:
    """The process's loop."""

    def __init__(self, spec: CombinerSpec) -> None:
        memory = SharedMemory(spec.memory)
        self._board = memory.board("combiner")
        self._memory = memory
        self._paused = spec.paused
        self._arenas: dict[int, ArenaCombiner] = {}
        for load in spec.loads:
            self._add(load.generation)
        self._inbox = open_socket(zmq.PULL, spec.sockets, COMBINER, bind=True)
        self._front_end = open_socket(zmq.PUSH, spec.sockets, FRONT_END, bind=False)
        self._decoder: Decoder[ToCombiner] = Decoder(ToCombiner)
        queues = Queues(memory.buffer, spec.memory.queues)
        self._predicted = list(queues.predicted.values())
        self._combined = queues.combined
        self._bell = queues.bell("front-end", lambda: self._front_end.send(b""))
        self._sleeper = Sleeper(
            queues.asleep["combiner"],
            self._predicted,
            (*queues.own_descriptors("combiner"), descriptor(self._inbox)),
        )

    def _add(self, generation: GenerationSpec) -> None:
        """Combine the rows of a generation's arenas, too."""
        mapping = self._memory.map(generation)
        for spec in generation.arenas:
            arena = Arena(mapping, spec)
            self._arenas[spec.index] = ArenaCombiner(arena, self._board, self._paused)

    def run(self) -> None:
        """Run until the supervisor releases the process."""
        for ring in self._predicted:
            ring.skip()  # the scan finds these rows
        self._front_end.send(encode(CombinerHello(epoch=0)))
        next_scan = 0.0
        while True:
            self._board.beat()
            self._handle(self._receive())
            if time.monotonic() >= next_scan:
                next_scan = time.monotonic() + _SCAN_S
                self._send_outcomes(
                    [outcome for arena in self._arenas.values() for outcome in arena.scan()]
                )
            self._sleeper.wait(_SCAN_S)

    def _receive(self) -> list[ToCombiner]:
        messages: list[ToCombiner] = []
        for ring in self._predicted:
            for _, payload in ring.pop():
                messages.append(self._decoder.decode(payload))
        return messages + drain(self._inbox, self._decoder)

    def _handle(self, messages: list[ToCombiner]) -> None:
        ranges: dict[tuple[int, int, int], str] = {}
        for message in messages:
            match message:
                case Predicted():
                    for item in message.ranges:
                        key = (item.arena, item.start, item.stop)
                        ranges[key] = item.error or ranges.get(key, "")
                case Close():
                    ranges.setdefault((message.arena, message.start, message.stop), "")
                case Reset():
                    self._front_end.send(encode(CombinerHello(epoch=message.epoch)))
        outcomes: list[Outcome] = []
        for (arena, start, stop), error in ranges.items():
            outcomes += self._arenas[arena].evaluate(start, stop, error)
        self._send_outcomes(outcomes)

    def _send_outcomes(self, outcomes: list[Outcome]) -> None:
        # Tuples from lists, as everywhere on a request's path: CPython makes one from a generator
        # by shrinking a longer one, and keeps up to 2,000 of the resulting length.
        ended = tuple([outcome for outcome in outcomes if isinstance(outcome, Ended)])
        if ended:
            self._send(encode(Combined(ended)))
        if len(ended) < len(outcomes):
            deferred = tuple([outcome for outcome in outcomes if isinstance(outcome, Deferred)])
            self._send(encode(Unsure(deferred)))

    def _send(self, message: bytes) -> None:
        if self._combined.push(message):
            self._bell.ring_if_needed()
        else:
            self._front_end.send(message)


def _run(spec: CombinerSpec, commands: BinaryIO, status: StatusChannel) -> None:
    exit_with_supervisor(commands)
    combiner = Combiner(spec)
    status.send(Started())
    combiner.run()


def main() -> None:
    """Entry point of the combiner process."""
    run_role(lambda _: ProcessName("combiner"), CombinerSpec, _run)


if __name__ == "__main__":
    main()
