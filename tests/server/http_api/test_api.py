import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http_api.api import scope_of
from server.security.authentication import Scope


@pytest.mark.parametrize(
    ("path", "need"),
    [
        ("/v2/health/live", Scope.PUBLIC),
        ("/v2/health/ready/", Scope.PUBLIC),
        ("/v2/health", Scope.ADMIN),
        ("/v2/health/live/more", Scope.ADMIN),
        ("/v2", Scope.READ),
        ("/v2/models/m", Scope.READ),
        ("/v2/models/m/versions/1", Scope.READ),
        ("/v2/models/m/versions/1/ready", Scope.READ),
        ("/v2/models/m/config", Scope.READ),
        ("/v2/models/m/infer", Scope.INFER),
        ("/v2/models/m/versions/1/infer", Scope.INFER),
        ("/v2/models/stats", Scope.ADMIN),
        ("/v2/models/stats/", Scope.ADMIN),
        ("/v2/models/m/stats", Scope.ADMIN),
        ("/v2/models/m/versions/1/stats", Scope.ADMIN),
        ("/v2/models", Scope.ADMIN),
        ("/v2/models/", Scope.ADMIN),
        ("/v2/repository/index", Scope.ADMIN),
        ("/v2/repository/models/m/load", Scope.ADMIN),
        ("/metrics", Scope.ADMIN),
        ("/openapi.json", Scope.ADMIN),
        ("/", Scope.ADMIN),
        ("", Scope.ADMIN),
        ("//v2/health/live", Scope.ADMIN),
        ("/V2", Scope.ADMIN),
    ],
)
def test_what_a_path_needs(path, need):
    assert scope_of(path) is need


@given(
    st.lists(st.sampled_from(["v2", "models", "m", "versions", "1", "infer", "..", "", "stats"]))
)
def test_nothing_but_health_is_open(parts):
    assert scope_of("/" + "/".join(parts)) is not Scope.PUBLIC
