"""What workers load, from what the configuration says."""

from server.config import load_config
from server.members.sources import model_sources


def sources(tmp_path, model):
    path = tmp_path / "config.yaml"
    path.write_text(f"members: {{a: {{model: {model}}}}}")
    (source,) = model_sources(load_config(path))
    return source


def test_a_class_in_a_file_beside_the_configuration(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"w")
    source = sources(
        tmp_path,
        "{python: lib/mine.py:Net, args: {width: 3}, weights: w.safetensors, compile: true}",
    )
    assert (source.backend, source.path) == ("python", "")
    assert source.is_users_code
    assert source.origin == source.python.target == f"{tmp_path}/lib/mine.py:Net"
    assert source.python.directory == f"{tmp_path}/lib"
    assert source.python.weights == f"{tmp_path}/w.safetensors"
    assert source.python.args == {"width": 3}
    assert source.python.compile


def test_a_class_in_a_module(tmp_path):
    source = sources(tmp_path, "{python: 'mine.nets:Net'}")
    assert source.origin == "mine.nets:Net"
    assert source.python.directory == str(tmp_path)
    assert not source.python.compile


def test_a_library_gets_what_its_section_says(tmp_path):
    (tmp_path / "bert").mkdir()
    source = sources(tmp_path, "{transformers: bert, max_length: 32, buckets: [8, 32]}")
    assert source.path == source.origin == f"{tmp_path}/bert"
    assert not source.is_users_code
    assert (source.python.extra, source.python.packages[0]) == ("transformers", "transformers")
    assert source.python.args == {
        "path": f"{tmp_path}/bert",
        "takes": "text",
        "max_length": 32,
        "pooling": "mean",
        "buckets": (8, 32),
        "compile": False,
    }
