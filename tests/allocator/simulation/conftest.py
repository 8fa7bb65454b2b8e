import pytest

from tests.allocator.simulation.pools import Pool


@pytest.fixture
def one_device():
    """One member with batches of `batch` in `seconds`, on one GPU."""

    def make(seconds, batch=1):
        return Pool({"a": {"g": {batch: seconds}}}, {"cuda:0": "g"}, {"cuda:0": {"a": batch}})

    return make
