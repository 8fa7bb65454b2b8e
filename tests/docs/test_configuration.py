"""docs/configuration.md and its schema are what `make docs` generates."""

import runpy

from server.config import load_config
from tests.docs.pages import ROOT

PAGE = runpy.run_path(str(ROOT / "docs/tools/configuration.py"))
REFERENCE = PAGE["reference"]()


def test_the_committed_reference_is_up_to_date():
    docs = ROOT / "docs"
    assert (docs / "configuration.md").read_text(encoding="utf-8") == REFERENCE, "run `make docs`"
    schema = (docs / "configuration.schema.json").read_text(encoding="utf-8")
    assert schema == PAGE["schema"](), "run `make docs`"


def test_every_key_has_a_meaning():
    rows = [line for line in REFERENCE.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert not [row for row in rows if row.endswith("|  |")]


def test_the_example_is_valid(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(PAGE["EXAMPLE"])
    (tmp_path / "models").mkdir()
    for name in ("net.onnx", "second.ts", "photo.onnx", "labels.txt"):
        (tmp_path / "models" / name).touch()
    assert load_config(path).ensembles["digits"].weights == (2.0, 1.0, 0.5)
