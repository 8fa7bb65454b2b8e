import logging

import pytest

from server.config.environment import check_variables
from server.errors import ConfigError

KEYS = ("host", "http_port", "log_level")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ENSEMBLED_SERVER__HTTP_PORT", "1"),
        ("ENSEMBLED_CONFIG", "a.yaml"),
        ("ENSEMBLED_API_KEY", "k"),
        ("ENSEMBLED_SERVER_PORT", "tcp://10.0.0.7:8000"),
        ("ENSEMBLED_SERVICE_HOST", "10.0.0.7"),
        ("ENSEMBLED_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("ENSEMBLED_SERVICE_PORT_HTTP", "8000"),
        ("ENSEMBLED_MEMBERS__A__MODEL", ""),
        ("PATH", "/bin"),
    ],
)
def test_what_has_a_meaning_or_belongs_to_others_is_left_alone(variable, value, caplog):
    check_variables({variable: value}, KEYS)
    assert not caplog.records


@pytest.mark.parametrize(
    ("variable", "complaint"),
    [
        ("ENSEMBLED_MEMBERS__A__BATCH_SIZE", "by the environment, as ENSEMBLED_SERVER__KEY"),
        ("ENSEMBLED_DEVICES__0__MEMORY", "as ENSEMBLED_SERVER__KEY"),
        ("ENSEMBLED_SERVR__HTTP_PORT", "did you mean 'ENSEMBLED_SERVER__HTTP_PORT'?"),
        ("ensembled_ensembles__all", "environment: ensembled_ensembles__all: only"),
    ],
)
def test_what_only_the_file_can_set_is_refused(variable, complaint):
    with pytest.raises(ConfigError) as refusal:
        check_variables({variable: "1", "ENSEMBLED_SERVER__HOST": "h"}, KEYS)
    (problem,) = refusal.value.problems
    assert variable in problem
    assert complaint in problem


def test_what_has_no_meaning_is_named_with_the_nearest(caplog):
    check_variables({"ENSEMBLED_HTTP_PORT": "8000"}, KEYS)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "environment: ENSEMBLED_HTTP_PORT has no meaning here, "
        "did you mean 'ENSEMBLED_SERVER__HTTP_PORT'?"
    )
