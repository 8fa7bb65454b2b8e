"""The routes of roll-outs, over a supervisor that is played."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
from repositories import PlayedControl, repository

from server.control import ChangeResult, RolloutRequest
from server.errors import UnknownModel
from server.http_api.api import make_api, scope_of
from server.http_api.body import BodyReader
from server.inference.rollouts import Rollouts
from server.rollout.agreement import Agreement
from server.rollout.spec import RolloutSpec
from server.security.authentication import Scope

SPEC = RolloutSpec(model="m", version="2", mode="shadow", percent=50)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Site:
    """The API over models m, which has a roll-out, and n."""

    def __init__(self, threads, tmp_path):
        self.control = PlayedControl()
        self.engine = None
        self.endpoints = {}
        self.repository = repository(self.control, tmp_path, allows_control=False)
        self.rollouts = Rollouts(self, [SPEC])
        infer = SimpleNamespace(bodies=BodyReader(1 << 16, threads))
        self.transport = httpx.ASGITransport(make_api(self, infer, None, threads))

    def find(self, name, version=""):
        if name not in {"m", "n"}:
            raise UnknownModel(name, version)

    async def send(self, method, model, body=b""):
        async with httpx.AsyncClient(transport=self.transport, base_url="http://s") as client:
            content = body if isinstance(body, bytes) else json.dumps(body)
            return await client.request(method, f"/v2/models/{model}/rollout", content=content)


@pytest.fixture
async def site(tmp_path):
    with ThreadPoolExecutor(1) as threads:
        yield Site(threads, tmp_path)


def test_it_is_for_administrators():
    assert scope_of("/v2/models/m/rollout") is Scope.ADMIN


async def test_how_it_does(site):
    figures = site.rollouts.find("m").figures
    figures.new.answer(4, 0.02)
    figures.present.answer(4, 0.01)
    figures.present.errors += 1
    figures.agree(Agreement(4, 1.0, 0.25))
    told = (await site.send("GET", "m")).json()
    assert told.pop("began") > 0
    assert told == {
        "model": "m",
        "version": "2",
        "mode": "shadow",
        "percent": 50.0,
        "present": {"requests": 2, "rows": 4, "errors": 1, "mean_ms": 10.0},
        "new": {"requests": 1, "rows": 4, "errors": 0, "mean_ms": 20.0},
        "compared_requests": 1,
        "compared_rows": 4,
        "disagreeing_rows": 1.0,
        "max_difference": 0.25,
        "dropped_copies": 0,
    }


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        ({"action": "promote"}, RolloutRequest("m", "promote", 0.0, "by hand")),
        ({"action": "rollback"}, RolloutRequest("m", "rollback", 0.0, "by hand")),
        ({"action": "percent", "percent": 20}, RolloutRequest("m", "percent", 20.0, "by hand")),
        ({"action": "percent", "percent": 0}, RolloutRequest("m", "percent", 0.0, "by hand")),
    ],
)
async def test_by_hand(site, body, request_):
    site.control.result = ChangeResult(3, ("m: version 2",))
    response = await site.send("POST", "m", body)
    assert response.json() == {"generation": 3, "changes": ["m: version 2"]}
    assert site.control.asked == [request_]


@pytest.mark.parametrize(
    ("model", "body", "status", "error"),
    [
        ("m", b"", 400, "action: Field required"),
        ("m", {"action": "stop"}, 400, "action: Input should be 'promote'"),
        ("m", {"action": "percent"}, 400, "percent is for the action percent, which needs it"),
        ("m", {"action": "promote", "percent": 5}, 400, "percent is for the action percent"),
        ("m", {"action": "percent", "percent": 101}, 400, "percent: Input should be less"),
        ("n", {"action": "promote"}, 400, "model 'n' has no roll-out"),
        ("o", {"action": "promote"}, 404, "unknown model"),
    ],
)
async def test_what_is_wrong(site, model, body, status, error):
    response = await site.send("POST", model, body)
    assert (response.status_code, site.control.asked) == (status, [])
    assert error in response.json()["error"]


async def test_a_model_without_a_roll_out(site):
    assert (await site.send("GET", "n")).status_code == 400
    assert (await site.send("GET", "o")).status_code == 404


async def test_a_change_that_is_refused(site):
    site.control.result = ChangeResult(1, error="no room")
    response = await site.send("POST", "m", {"action": "promote"})
    assert (response.status_code, response.json()) == (409, {"error": "no room"})
