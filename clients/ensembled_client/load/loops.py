"""What the two ways to make load have in common. Runs in each load process.

A *closed loop* is a number of clients, each of which sends its next request when it has its
answer. Nothing says when a request should have been sent, so latency counts from the sending: a
server that stalls is asked less, and its stall is one latency per connection.

An *open loop* sends when a schedule says so, whatever the server does. Latency counts from that
intended moment, so a request that was due during a stall carries its wait, whether it waited in
the server, in the network, or here because all connections were busy (no coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from ensembled_client.load.lanes import Lane

__all__ = ["Loop", "expire"]


class Loop(Protocol):
    """What the two have in common.

    Attributes:
        done: set when the last answer is there.
        in_flight: requests without their answer.
    """

    done: asyncio.Event

    @property
    def in_flight(self) -> int:
        """Requests that were sent and have no answer."""

    async def open(self) -> None:
        """Connect what should be connected before the test."""

    def start(self, at_ns: int) -> None:
        """Begin to send; the start of the warm-up is (or was just) `at_ns`."""

    def stop(self) -> None:
        """Send no more requests; those in flight may end."""

    def expire(self, before_ns: int, error: str) -> None:
        """Give up requests that were due before that time."""

    def abandon(self) -> None:
        """Count all that have no answer as abandoned."""

    async def close(self) -> None:
        """Close all connections."""


def expire(lanes: Sequence[Lane], before_ns: int, error: str) -> None:
    """Give up what these lanes carry, if it was due before that time."""
    for lane in lanes:
        if lane.is_busy and lane.intended_ns < before_ns:
            lane.give_up(error)
