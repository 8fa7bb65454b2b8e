import pytest

from server.config import load_config, read_config
from server.errors import ConfigError

TRITON = """
name: "cat"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "p" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_GPU } ]
version_policy: { latest { num_versions: 2 } }
"""


@pytest.fixture
def repository(tmp_path):
    """Writes a repository from the contents of its files, and returns its directory."""
    directory = tmp_path / "models"

    def repository(files):
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return directory

    return repository


@pytest.fixture
def problems(repository):
    def problems(files):
        directory = repository(files)
        with pytest.raises(ConfigError) as caught:
            load_config(directory)
        return [line.removeprefix(f"{directory}") for line in caught.value.problems]

    return problems


def test_a_directory_is_a_configuration(repository):
    directory = repository(
        {
            "cat/1/model.onnx": "",
            "cat/3/model.onnx": "",
            "dog/1/model.pt2": "",
            "dog/2/model.pt2": "",
            "dog/member.yaml": "{output: logits, labels: dog/names.txt, model: {policy: all}}",
            "dog/names.txt": "",
            "ensembles.yaml": "pets: {members: [cat, dog@1], rule: median}",
            "repository.yaml": "{devices: [{name: 'cpu:0', cores: [0]}], server: {http_port: 0}}",
        }
    )
    config = load_config(directory)
    assert {name: member.model for name, member in config.members.items()} == {
        "cat@3": directory / "cat/3/model.onnx",
        "dog@1": directory / "dog/1/model.pt2",
        "dog@2": directory / "dog/2/model.pt2",
    }
    assert config.members["dog@2"].output == "logits"
    assert config.members["dog@2"].labels == directory / "dog/names.txt"
    assert config.ensembles["pets"].members == ("cat@3", "dog@1")
    assert (config.devices[0].name, config.server.http_port) == ("cpu:0", 0)
    assert (config.directory, config.path) == (directory, directory)


def test_triton_says_names_labels_batches_and_versions(repository, caplog):
    directory = repository(
        {
            "cat/config.pbtxt": TRITON,
            "cat/labels.txt": "",
            "cat/1/model.onnx": "",
            "cat/2/model.onnx": "",
            "cat/3/model.onnx": "",
        }
    )
    config = load_config(directory)
    assert list(config.members) == ["cat@2", "cat@3"]
    member = config.members["cat@3"]
    assert member.batch_size == 8
    (output,) = member.served_outputs.items()
    assert output[0] == "p"
    assert output[1].labels == directory / "cat/labels.txt"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{directory}: in config.pbtxt, this has no meaning here: "
        "cat: instance_group (the allocation says what runs where, and how often)"
    )


def test_the_members_own_section_has_the_last_word(repository):
    own = "{output: logits, temperature: 2, batch_size: 4, model: {policy: all}}"
    directory = repository(
        {
            "cat/config.pbtxt": TRITON,
            "cat/labels.txt": "",
            "cat/member.yaml": own,
            "cat/1/model.onnx": "",
            "cat/2/model.onnx": "",
            "cat/3/model.onnx": "",
        }
    )
    config = load_config(directory)
    assert list(config.members) == ["cat@1", "cat@2", "cat@3"]
    member = config.members["cat@1"]
    assert (member.batch_size, member.output) == (4, "values")
    output = member.outputs["p"]
    assert (output.kind, output.temperature) == ("logits", 2)
    assert output.labels == directory / "cat/labels.txt"


def test_outputs_of_the_members_own_section(repository):
    directory = repository(
        {
            "cat/config.pbtxt": TRITON,
            "cat/labels.txt": "",
            "cat/member.yaml": "outputs: {q: {as: logits}}",
            "cat/1/model.onnx": "",
        }
    )
    assert list(load_config(directory).members["cat@1"].outputs) == ["q"]


def test_what_is_not_read_is_named_in_one_warning_each(repository, caplog):
    ensemble = 'platform: "ensemble" ensemble_scheduling { step [ { model_name: "cat" } ] }'
    directory = repository(
        {
            "cat/1/model.onnx": "",
            "cat/config.pbtxt": 'dynamic_batching { } parameters { key: "a" }',
            "dog/1/model.onnx": "",
            "dog/config.pbtxt": "optimization { }",
            "both/config.pbtxt": ensemble,
            "both/1/.keep": "",
            "notes/readme.txt": "",
            ".git/1/x": "",
            "ensemble.yaml": "",
            "README.md": "",
        }
    )
    assert list(load_config(directory).members) == ["cat@1", "dog@1"]
    triton, others = (record.getMessage() for record in caplog.records)
    assert triton == (
        f"{directory}: in config.pbtxt, this has no meaning here: "
        "cat: dynamic_batching (batches need no configuration), parameters; dog: optimization; "
        "both: ensembles of Triton, of which nothing is read: write ensembles.yaml"
    )
    assert others == (
        f"{directory}: is not read: ensemble.yaml, did you mean 'ensembles.yaml'?, notes/"
    )


def test_members_of_other_kinds_beside_the_folders(repository):
    fake = "{model: fake, fake: {inputs: {x: [4]}, outputs: 3}}"
    directory = repository({"cat/1/model.onnx": "", "repository.yaml": f"members: {{dog: {fake}}}"})
    assert list(load_config(directory).members) == ["cat@1", "dog"]


def test_a_repository_is_read_anew_each_time(repository):
    directory = repository({"cat/1/model.onnx": ""})
    before = read_config(directory)
    repository({"cat/2/model.onnx": "", "dog/1/model.onnx": ""})
    assert list(before.members) == ["cat"]
    assert list(load_config(directory).members) == ["cat@2", "dog@1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"notes.txt": ""}, ": has no folder of a member, such as NAME/1/model.onnx"),
        (
            {"cat/1/x.onnx": ""},
            ": members.cat.model.versions.1: there is no model.onnx in",
        ),
        (
            {"cat/member.yaml": "output: logits"},
            ": members.cat.model: there is no version in",
        ),
        (
            {"cat/1/model.onnx": "", "cat/member.yaml": "outptu: logits"},
            ": members.cat.outptu: unknown key, did you mean 'output'?",
        ),
        (
            {"cat/1/model.onnx": "", "cat/member.yaml": "model: a.onnx"},
            "/cat/member.yaml: model: is in the folders of the versions",
        ),
        (
            {"cat/1/model.onnx": "", "cat/member.yaml": "- a"},
            "/cat/member.yaml: should be a mapping",
        ),
        (
            {"cat/1/model.onnx": "", "cat/member.yaml": "{a: 1, a: 2}"},
            "/cat/member.yaml, line 1, column 8: the key 'a' is there twice",
        ),
        (
            {"cat/1/model.onnx": "", "cat/config.pbtxt": "name: {"},
            "/cat/config.pbtxt: line 1: expected the name of a field, not the end",
        ),
        (
            {"cat/1/model.onnx": "", "cat/config.pbtxt": 'name: "dog"'},
            "/cat/config.pbtxt: name: should be that of the folder, not 'dog'",
        ),
        (
            {"cat/1/model.plan": "", "cat/config.pbtxt": 'platform: "tensorrt_plan"'},
            "/cat/config.pbtxt: platform: 'tensorrt_plan' is not served here",
        ),
        (
            {"cat/1/model.onnx": "", "cat/config.pbtxt": TRITON},
            ": members.cat.outputs.p.labels: there is no file",
        ),
        (
            {
                "cat/1/model.onnx": "",
                "ensembles.yaml": "e: {members: [cat]}",
                "repository.yaml": "ensembles: {f: {members: [cat]}}",
            },
            "/repository.yaml: ensembles: they are in ensembles.yaml, too",
        ),
        (
            {"cat/1/model.onnx": "", "repository.yaml": "members: {cat: {model: fake}}"},
            "/repository.yaml: members.cat: there is a folder cat, too",
        ),
        (
            {"cat/1/model.onnx": "", "repository.yaml": "members: [cat]"},
            ": members: should be a mapping",
        ),
        (
            {"a b/1/model.onnx": ""},
            ": members.a b: the name 'a b' should consist of letters",
        ),
        (
            {"cat/1/model.onnx": "", "ensembles.yaml": "e: {members: [dog]}"},
            ": ensembles.e.members: unknown member 'dog'",
        ),
    ],
)
def test_mistakes(problems, files, expected):
    (line,) = problems(files)
    assert line.startswith(expected)
