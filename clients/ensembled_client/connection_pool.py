"""Pools of connections to one server: blocking, and for asyncio.

Runs in the caller's process; requests in, responses out, read to their end. The connections are
httpcore's. Its own pools go through all connections for all waiting requests whenever one comes or
goes: 200 concurrent requests then take seconds. Here there is one server, so a stack does: the
connection that was used last is reused first, those that have been idle for long are closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence

import httpcore

__all__ = ["AsyncConnectionPool", "ConnectionPool"]

#: Status, headers, body.
Response = tuple[int, Sequence[tuple[bytes, bytes]], bytes]


class ConnectionPool:
    """Blocking; shared by threads (the operations of a deque are atomic).

    Args:
        limit: the most connections; requests beyond wait for one.
        connect: makes a connection.
    """

    def __init__(self, limit: int, connect: Callable[[], httpcore.ConnectionInterface]) -> None:
        self._slots = threading.BoundedSemaphore(limit)
        self._connect = connect
        self._idle: deque[httpcore.ConnectionInterface] = deque()

    def exchange(self, request: httpcore.Request) -> Response:
        """Send a request on any connection and read its response.

        Raises:
            httpcore.TimeoutException: if none becomes free in time, and as httpcore does.
        """
        if not self._slots.acquire(timeout=_wait_s(request) or threading.TIMEOUT_MAX):
            raise httpcore.PoolTimeout
        try:
            return self._exchange(self._acquire(), request)
        finally:
            self._slots.release()

    def _acquire(self) -> httpcore.ConnectionInterface:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if not connection.has_expired():
                return connection
            connection.close()
        return self._connect()

    def _exchange(
        self, connection: httpcore.ConnectionInterface, request: httpcore.Request
    ) -> Response:
        try:
            response = connection.handle_request(request)
            try:
                body = response.read()
            finally:
                response.close()
        except BaseException:
            connection.close()
            raise
        if connection.is_idle():
            self._idle.append(connection)
            self._close_oldest()
        else:
            connection.close()
        return response.status, response.headers, body

    def _close_oldest(self) -> None:
        """Close one connection that was not needed for long, if there is one."""
        try:
            oldest = self._idle.popleft()
        except IndexError:
            return
        if oldest.has_expired():
            oldest.close()
        else:
            self._idle.appendleft(oldest)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


class AsyncConnectionPool:
    """For asyncio; shared by the tasks of one event loop.

    Args:
        limit: the most connections; requests beyond wait for one.
        connect: makes a connection.
    """

    def __init__(
        self, limit: int, connect: Callable[[], httpcore.AsyncConnectionInterface]
    ) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._connect = connect
        self._idle: deque[httpcore.AsyncConnectionInterface] = deque()

    async def exchange(self, request: httpcore.Request) -> Response:
        """Send a request on any connection and read its response.

        Raises:
            httpcore.TimeoutException: if none becomes free in time, and as httpcore does.
        """
        if self._slots.locked():
            try:
                async with asyncio.timeout(_wait_s(request)):
                    await self._slots.acquire()
            except TimeoutError:
                raise httpcore.PoolTimeout from None
        else:
            await self._slots.acquire()
        try:
            return await self._exchange(await self._acquire(), request)
        finally:
            self._slots.release()

    async def _acquire(self) -> httpcore.AsyncConnectionInterface:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return self._connect()

    async def _exchange(
        self, connection: httpcore.AsyncConnectionInterface, request: httpcore.Request
    ) -> Response:
        try:
            response = await connection.handle_async_request(request)
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except BaseException:
            await connection.aclose()
            raise
        if connection.is_idle():
            self._idle.append(connection)
            if self._idle[0].has_expired():
                await self._idle.popleft().aclose()
        else:
            await connection.aclose()
        return response.status, response.headers, body

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().aclose()


def _wait_s(request: httpcore.Request) -> float | None:
    """How long a request may wait for a connection, None for any time."""
    wait_s: float | None = request.extensions["timeout"]["pool"]
    return wait_s
