"""The service over calls and an engine that do what a test says."""

import asyncio
from types import SimpleNamespace

from ensembled_client.wire.messages import SERVICE

from server.engine.memory_budget import MemoryBudget
from server.engine.statistics import ModelCounters
from server.grpc_api.service import Service
from server.inference.access_log import AccessLog
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator
from server.security.spec import SecuritySpec


def make_service():
    inference = SimpleNamespace(
        engine=None,
        access=AccessLog("none"),
        tracer=None,
        unaddressed=ModelCounters(),
        deployments=SimpleNamespace(on_routes=lambda renew: None),
    )
    authenticator = Authenticator(SecuritySpec(), lambda *_: None)
    return Service(
        inference, authenticator, ClientLimits(), MemoryBudget(), UnreadResponses(1 << 20)
    )


def make_call(method):
    call = SimpleNamespace(
        path=f"/{SERVICE}/{method}".encode(), metadata=(), trailing=(), is_cancelled=False
    )
    call.receive = lambda on_message: setattr(call, "on_message", on_message)
    return call


def test_a_client_that_cancels_before_its_request_begins():
    async def run():
        service, call = make_service(), make_call("ModelInfer")
        service.handle(call)
        call.on_message(b"a message")
        assert service.calls.open == 1
        call.is_cancelled = True
        call.on_cancelled()  # in the same turn, before the task has run
        await asyncio.gather(
            *asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True
        )
        await asyncio.sleep(0)
        assert service.calls.open == 0

    asyncio.run(run())
