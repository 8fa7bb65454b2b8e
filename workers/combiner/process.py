"""The combiner process: ends the rows of all arenas that are ready, and notifies the front-end.

In: `Predicted` from the workers, `Close` and `Reset` from the front-end. Out: `Combined` and
`Unsure`. Messages from workers and to the front-end go through rings (`workers.runtime.queues`). A
restart loses no state: a new combiner scans the arenas and continues, and the same scan, four times
a second, finds rows whose message was lost. How a row ends is in `workers.combiner.arena_combiner`.
Generations come and go by the supervisor's commands, through a mailbox; rules are loaded in a
thread.
"""

from __future__ import annotations

import logging
import time
from typing import BinaryIO

import msgspec
import zmq

from workers.combiner.arena_combiner import ArenaCombiner, Outcome
from workers.combiner.loading import ArenaLoader, Part
from workers.runtime.bootstrap import Started, StatusChannel, follow_supervisor, run_role
from workers.runtime.loader import Built, Loader
from workers.runtime.logs import ProcessName
from workers.runtime.mailbox import Mailbox
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
from workers.runtime.spec import Attach, CombinerSpec, Detach, Load, Loaded, Unload

__all__ = ["main"]

_log = logging.getLogger(__name__)

_SCAN_S = 0.25

_Command = Load | Unload | Attach | Detach
_Mail = _Command | Built[Part]


class Combiner:
    """The process's loop; commands come through `mailbox`, reports on them go to `status`."""

    def __init__(self, spec: CombinerSpec, mailbox: Mailbox[_Mail], status: StatusChannel) -> None:
        memory = SharedMemory(spec.memory)
        self._board = memory.board("combiner")
        self._arenas: dict[int, ArenaCombiner] = {}
        self._parts: dict[int, Part] = {}
        self._mailbox, self._mail = mailbox, mailbox.items
        self._status = status
        builder = ArenaLoader(memory, self._board, spec.paused)
        for load in spec.loads:
            self._adopt(load.generation.number, builder.start(load.generation))
        for error in [error for arena in self._arenas.values() for error in arena.load_errors]:
            _log.error("%s", error)
        self._loader = Loader(builder, mailbox, self._board, status, lowers_priority=True)
        self._inbox = open_socket(zmq.PULL, spec.sockets, COMBINER, bind=True)
        self._front_end = open_socket(zmq.PUSH, spec.sockets, FRONT_END, bind=False)
        self._decoder: Decoder[ToCombiner] = Decoder(ToCombiner)
        queues = Queues(memory.buffer, spec.memory.queues)
        self._queues = queues
        self._predicted = list(queues.predicted.values())
        self._combined = queues.combined
        self._bell = queues.bell("front-end", lambda: self._front_end.send(b""))
        self._sleeper = Sleeper(
            queues.asleep["combiner"],
            self._predicted,
            (*queues.own_descriptors("combiner"), descriptor(self._inbox), mailbox.descriptor),
        )

    def run(self) -> None:
        """Run until the supervisor releases the process."""
        for ring in self._predicted:
            ring.skip()  # the scan finds these rows
        self._front_end.send(encode(CombinerHello(epoch=0)))
        next_scan = 0.0
        while True:
            self._board.beat()
            if self._mail:
                self._open_mail()
            self._handle(self._receive())
            if time.monotonic() >= next_scan:
                next_scan = time.monotonic() + _SCAN_S
                self._send_outcomes(
                    [outcome for arena in self._arenas.values() for outcome in arena.scan()]
                )
            self._sleeper.wait(_SCAN_S)

    def _open_mail(self) -> None:
        """Follow the supervisor's commands, and take over what has been loaded for them."""
        for item in self._mailbox.take():
            match item:
                case Load():
                    self._loader.load(item)
                case Built():
                    if self._loader.is_wanted(item.generation):
                        self._adopt(item.generation, item.part)
                        self._status.send(Loaded(item.generation))
                case Unload():
                    for arena in self._parts.pop(item.generation, ()):
                        del self._arenas[arena]
                    self._loader.unload(item.generation)
                case Attach():
                    self._queues.attach(item.device.name, item.slot)
                    self._predicted.append(self._queues.predicted[item.device.name])
                case Detach():
                    self._predicted.remove(self._queues.predicted[item.device])
                    self._queues.detach(item.device)

    def _adopt(self, generation: int, part: Part) -> None:
        self._parts[generation] = part
        self._arenas |= part

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
            if arena in self._arenas:  # otherwise it was unloaded: nobody waits for its rows
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
    mailbox: Mailbox[_Mail] = Mailbox()
    decode = msgspec.json.Decoder(_Command).decode
    follow_supervisor(commands, lambda line: mailbox.put(decode(line)))
    combiner = Combiner(spec, mailbox, status)
    status.send(Started())
    combiner.run()


def main() -> None:
    """Entry point of the combiner process."""
    run_role(lambda _: ProcessName("combiner"), CombinerSpec, _run)


if __name__ == "__main__":
    main()
