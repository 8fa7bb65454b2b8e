from pathlib import Path

from server.config import load_config
from server.config.reference import EXAMPLE, reference, schema

DOCS = Path(__file__).resolve().parents[3] / "docs"
STALE = "run `python -m server.config.reference`"


def test_the_committed_reference_is_up_to_date():
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == reference(), STALE
    assert (DOCS / "configuration.schema.json").read_text(encoding="utf-8") == schema(), STALE


def test_every_key_has_a_meaning():
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert not [row for row in rows if row.endswith("|  |")]


def test_the_example_is_valid(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    (tmp_path / "models").mkdir()
    for name in ("net.onnx", "second.ts", "photo.onnx", "labels.txt"):
        (tmp_path / "models" / name).touch()
    assert load_config(path).ensembles["digits"].weights == (2.0, 1.0, 0.5)
