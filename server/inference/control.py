"""Asks the supervisor for changes of what is served, and waits for what became of them.

Runs in the front-end. Requests of clients flow in, as lines (`Ask`) out to the supervisor; its
`Answer` commands come back. A front-end that dies loses what it waits for, the supervisor does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from server.control import Answer, Ask, ChangeRequest, ChangeResult
from server.errors import QueueFull

__all__ = ["Control"]

#: The supervisor makes one change at a time.
_MAX_WAITING = 16
_RETRY_AFTER_S = 5.0


class Control:
    """The changes that this front-end has asked for; `send` must not wait.

    Ids differ from those of earlier front-ends, of which `epoch` is the number: the supervisor may
    answer what one of them has asked.
    """

    def __init__(self, send: Callable[[Ask], None], epoch: int) -> None:
        self._send = send
        self._ids = count(epoch << 32)
        self._waiting: dict[int, asyncio.Future[ChangeResult]] = {}

    async def ask(self, request: ChangeRequest) -> ChangeResult:
        """Have the supervisor make a change; it is made even if the task is cancelled.

        Raises:
            QueueFull: if too many changes are waiting.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise QueueFull(
                f"{len(self._waiting)} changes of what is served are waiting", _RETRY_AFTER_S
            )
        ask = Ask(next(self._ids), request)
        future: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
        self._waiting[ask.id] = future  # until it is answered: so long, the supervisor has it
        self._send(ask)
        return await future

    def answer(self, answer: Answer) -> None:
        """Pass a result on to the one who waits for it, if somebody does."""
        future = self._waiting.pop(answer.id, None)
        if future is not None and not future.done():
            future.set_result(answer.result)
