import pytest

from server import errors
from server.errors import (
    ChangeFailed,
    ConfigError,
    DeadlineExceeded,
    EnsembledError,
    InvalidRequest,
    MemberFailed,
    QueueFull,
    RequestError,
    RequestTooLarge,
    StartError,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
)


@pytest.mark.parametrize(
    ("error", "http", "grpc"),
    [
        (InvalidRequest("x"), 400, "INVALID_ARGUMENT"),
        (UnknownModel("x"), 404, "NOT_FOUND"),
        (ChangeFailed("x"), 409, "FAILED_PRECONDITION"),
        (RequestTooLarge("x"), 413, "RESOURCE_EXHAUSTED"),
        (UnsupportedMediaType("x"), 415, "INVALID_ARGUMENT"),
        (QueueFull(), 429, "RESOURCE_EXHAUSTED"),
        (MemberFailed("x"), 500, "INTERNAL"),
        (Unavailable("x"), 503, "UNAVAILABLE"),
        (DeadlineExceeded(), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_requests_fail_with_the_protocols_codes(error, http, grpc):
    assert isinstance(error, RequestError)
    assert (error.http_status, error.grpc_status) == (http, grpc)
    assert error.message == str(error) != ""


def test_exit_codes():
    assert ConfigError("x").exit_code == 2
    assert StartError("x").exit_code == 1


def test_the_module_exports_one_tree():
    classes = [thing for name in errors.__all__ if isinstance(thing := getattr(errors, name), type)]
    assert len(classes) > 10
    for one in classes:
        assert issubclass(one, EnsembledError)


def test_messages_name_what_they_are_about():
    assert str(UnknownModel("x")) == "Request for unknown model: 'x' is not found"
    assert QueueFull("x", 2.5).retry_after_s == QueueFull(retry_after_s=2.5).retry_after_s == 2.5
    assert str(ConfigError(["a", "b"])) == "a\nb"
