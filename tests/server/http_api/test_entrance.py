import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http_api.entrance import need_of
from server.security.doorkeeper import Need


@pytest.mark.parametrize(
    ("path", "need"),
    [
        ("/v2/health/live", Need.NOTHING),
        ("/v2/health/ready/", Need.NOTHING),
        ("/v2/health", Need.ADMIN),
        ("/v2/health/live/more", Need.ADMIN),
        ("/v2", Need.LOOK),
        ("/v2/models/m", Need.LOOK),
        ("/v2/models/m/versions/1", Need.LOOK),
        ("/v2/models/m/versions/1/ready", Need.LOOK),
        ("/v2/models/m/config", Need.LOOK),
        ("/v2/models/m/infer", Need.INFER),
        ("/v2/models/m/versions/1/infer", Need.INFER),
        ("/v2/models/stats", Need.ADMIN),
        ("/v2/models/stats/", Need.ADMIN),
        ("/v2/models/m/stats", Need.ADMIN),
        ("/v2/models/m/versions/1/stats", Need.ADMIN),
        ("/v2/models", Need.ADMIN),
        ("/v2/models/", Need.ADMIN),
        ("/v2/repository/index", Need.ADMIN),
        ("/v2/repository/models/m/load", Need.ADMIN),
        ("/metrics", Need.ADMIN),
        ("/openapi.json", Need.ADMIN),
        ("/", Need.ADMIN),
        ("", Need.ADMIN),
        ("//v2/health/live", Need.ADMIN),
        ("/V2", Need.ADMIN),
    ],
)
def test_what_a_path_needs(path, need):
    assert need_of(path) is need


@given(
    st.lists(st.sampled_from(["v2", "models", "m", "versions", "1", "infer", "..", "", "stats"]))
)
def test_nothing_but_health_is_open(parts):
    assert need_of("/" + "/".join(parts)) is not Need.NOTHING
