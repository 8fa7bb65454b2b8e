import pytest
from profiled import Script

from server.profiling import profiler
from tests.workers.model_files import write_onnx


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    directory = tmp_path / "cache"
    monkeypatch.setenv("ENSEMBLED_CACHE", str(directory))
    return directory / "profiles"


@pytest.fixture
def script(monkeypatch):
    def install(answers, **options):
        one = Script(answers, **options)
        monkeypatch.setattr(profiler, "ProfilerProcess", one)
        return one

    return install


@pytest.fixture
def model(tmp_path):
    return write_onnx(tmp_path / "m.onnx")
