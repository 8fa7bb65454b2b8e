"""A short campaign of damaged requests; `make fuzz` is the long one."""

import random

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.frames import frames_case
from tests.fuzz.grpc_cases import grpc_call
from tests.fuzz.http_cases import http_case

REQUESTS = 1500


@pytest.mark.process
def test_damaged_requests_do_no_harm(tmp_path):
    report = campaign(REQUESTS, 1, tmp_path)
    assert report["violations"] == []
    assert report["requests"] == REQUESTS
    assert report["canary_answers"] > 0
    assert len(report["kinds"]) > 25


@pytest.mark.parametrize("make", [http_case, grpc_call, frames_case])
def test_a_seed_says_it_all(make):
    assert make(random.Random("7")) == make(random.Random("7"))
    assert make(random.Random("7")) != make(random.Random("8"))
