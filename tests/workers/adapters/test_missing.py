"""A library that is not installed is named with the extra that installs it."""

import sys

import pytest

from tests.workers.model_files import CPU
from workers import backends
from workers.backends import ModelError
from workers.runtime.spec import ModelSource, PythonSource

ADAPTERS = {
    "sklearn": "SklearnModel",
    "xgboost": "XgboostModel",
    "lightgbm": "LightgbmModel",
    "catboost": "CatboostModel",
    "keras": "KerasModel",
}


@pytest.mark.parametrize("library", ADAPTERS)
def test_the_extra_is_named(library, monkeypatch):
    for module in (library, f"{library}.base"):
        monkeypatch.setitem(sys.modules, module, None)
    target = f"workers.adapters.{library}:{ADAPTERS[library]}"
    monkeypatch.delitem(sys.modules, f"workers.adapters.{library}", raising=False)
    python = PythonSource(target, {"path": "model"}, extra=library)
    source = ModelSource("m", "python", path="model", python=python)
    with pytest.raises(ModelError) as caught:
        backends.load(source, CPU)
    text = str(caught.value)
    assert text.startswith(f"member m (model): needs {library}: pip install 'ensembled[{library}]'")
    assert "\n" not in text
