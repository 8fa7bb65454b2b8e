import pytest

from server.config import load_config
from server.errors import ConfigError

FAKE = "{model: fake, fake: {inputs: {x: [4]}, outputs: 2}}"
MEMBERS = f"members: {{a: {FAKE}, b: {FAKE}}}\n"


def problems(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert raised.value.exit_code == 2
    return [line.replace(f"{path}", "c.yaml") for line in raised.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "c.yaml: is empty, it needs at least `members:`"),
        ("[1]", "c.yaml: should be a mapping with the key `members:`"),
        ("server: {}", "c.yaml: members: is required"),
        ("members: {}", "c.yaml: members: should not be empty"),
        ("a: [1", "c.yaml, line 1, column 6: while parsing a flow sequence"),
        ("a: 1\nb: 2\na: 3", "c.yaml, line 3, column 1: the key 'a' is there twice"),
        ("members: {a: {model: 'x\x01'}}", "c.yaml: is not YAML"),
        ("a: 2026-13-45", "c.yaml: is not YAML: month must be in 1..12"),
        ("a: " + "[" * 3000, "c.yaml: is not YAML: maximum recursion depth exceeded"),
        (f"members: {{c d: {FAKE}}}", "members.c d: the name 'c d' should consist of"),
        (f"members: {{-x: {FAKE}}}", "members.-x: the name '-x' should"),
        (f"members: {{stats: {FAKE}}}", "the name 'stats' is reserved"),
        (f"members: {{1: {FAKE}}}", "should be text (numbers and booleans need quotes)"),
        (MEMBERS + "ensemble: {}", "c.yaml: ensemble: unknown key, did you mean 'ensembles'?"),
        (
            MEMBERS + "server: {htp_port: 1}",
            "server.htp_port: unknown key, did you mean 'http_port'",
        ),
        (MEMBERS + "server: {http_port: 65536}", "server.http_port: should be less than"),
        (MEMBERS + "server: {http_port: yes}", "server.http_port: is true, which this key does"),
        (MEMBERS + "server: {http_port: 8001}", "http_port and grpc_port are both 8001"),
        (
            MEMBERS + "server: {arena_bytes: 5 apples}",
            "server.arena_bytes: should be a number of bytes",
        ),
        (MEMBERS + "server: {arena_bytes: -5}", "server.arena_bytes: should be a number"),
        (MEMBERS + "server: {drain_s: .inf}", "server.drain_s: should be a finite number"),
        (MEMBERS + "allocation: plan.json", "c.yaml: allocation: there is no file"),
        (MEMBERS + "allocation: ~nobody-is-called-so/x", "there is no home directory ~nobody-is"),
        (MEMBERS + f"allocation: {'x' * 300}", "allocation: cannot look at"),
        (MEMBERS + "allocation: 3", "allocation: should be auto or the path"),
        (
            MEMBERS + "placement: {follow: true}\nallocation: c.yaml",
            "c.yaml: allocation: a file stays as it is, remove it or placement.follow",
        ),
        (MEMBERS + "placement: {follow: true, follow_gain: 0}", "placement.follow_gain: should be"),
        (
            MEMBERS + "placement: {follow_gain: 0.2}",
            "placement: follow_gain has no effect without follow: true, remove it",
        ),
        (
            MEMBERS + "placement: {follow: true, objective: latency, arrival_rows_s: 9}",
            "placement: follow is for objective throughput only, remove one of them",
        ),
        (
            MEMBERS + "placement: {threads: [0]}",
            "c.yaml: placement.threads.0: should be greater than 0, not 0",
        ),
        (
            MEMBERS + "placement: {threads: 2}",
            "c.yaml: placement.threads: should be 'device' or 'auto', not 2",
        ),
        (MEMBERS + "server: {history: 3}", "c.yaml: server.history: should be a path, not 3"),
        (
            MEMBERS + "placement: {objective: energy}",
            "placement: objective energy needs min_rows_per_s",
        ),
        (
            MEMBERS + "placement: {min_rows_per_s: 9}",
            "placement: min_rows_per_s is for objective energy only, remove it",
        ),
        (MEMBERS + "devices: [{name: cuda:0, watts: 0}]", "devices.0.watts: should be"),
        (MEMBERS + "devices: all", "devices: should be auto or a list of devices, not 'all'"),
        (MEMBERS + "devices: []", "devices: should not be empty"),
        (MEMBERS + "devices: [{name: gpu}]", "devices.0: name should be cpu:N or cuda:N"),
        (MEMBERS + "devices: [{name: cuda:0, core: [1]}]", "unknown key, did you mean 'cores'?"),
        (MEMBERS + "devices: [{name: cuda:0, cores: [1]}]", "devices.0: cores are for CPU"),
        (MEMBERS + "devices: [{name: cpu:0, cores: []}]", "devices.0.cores: should not be empty"),
        (
            MEMBERS + "devices: [{name: cpu:0, cores: [1, 1]}]",
            "cores: 1 is listed more than once",
        ),
        (MEMBERS + "devices: [{name: cuda:0}, {name: cuda:0}]", "cuda:0 is listed more than once"),
        (
            MEMBERS + "devices: [{name: cpu:0, cores: [0, 1]}, {name: cpu:1, cores: [1]}]",
            "core 1 belongs to cpu:0 and to cpu:1",
        ),
        (MEMBERS + "devices: [{name: cpu:0}, {name: cpu:1, cores: [1]}]", "cpu:0 needs cores"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path, text, problem):
    lines = problems(tmp_path, text)
    assert len(lines) == 1
    assert problem in lines[0]
    assert lines[0].startswith("c.yaml")


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        ("{name: a, part_of: gpu}", "devices.0.part_of: should be cpu or cuda:N, not 'gpu'"),
        ("{name: a/b, part_of: cpu}", "devices.0: name should consist of letters, digits"),
        ("{name: cuda:1, part_of: cpu}", "begins like that of another device than cpu"),
        (
            "{name: cpu:1, part_of: cuda:0, memory_fraction: 1}",
            "name 'cpu:1' begins like that of another device than cuda:0",
        ),
        ("{name: a, part_of: cuda:0}", "needs memory_fraction or memory_bytes, and not both"),
        (
            "{name: a, part_of: cuda:0, memory_fraction: 0.5, memory_bytes: 1GiB}",
            "needs memory_fraction or memory_bytes, and not both",
        ),
        (
            "{name: a, part_of: cuda:0, memory_fraction: 1.5}",
            "devices.0.memory_fraction: should be less than or equal to 1",
        ),
        (
            "{name: a, part_of: cuda:0, memory_fraction: 1, cores: [0]}",
            "devices.0: cores are for CPU devices only",
        ),
        ("{name: a, part_of: cpu, memory_fraction: 1}", "is for parts of a GPU, give memory_bytes"),
        ("{name: cuda:0, memory_fraction: 0.5}", "memory_fraction is for parts of a GPU, name it"),
        (
            "{name: cuda:0}, {name: a, part_of: cuda:0, memory_fraction: 1}",
            "devices: cuda:0 is listed as a whole and in parts (a), remove one of them",
        ),
        (
            "{name: a, part_of: cuda:0, memory_fraction: 0.5}, "
            "{name: b, part_of: cuda:0, memory_fraction: 0.6}",
            "devices: memory_fraction of a and b adds up to 1.1, cuda:0 has only 1 to share",
        ),
        (
            "{name: a, part_of: cpu, cores: [0, 1]}, {name: cpu:0, cores: [1]}",
            "core 1 belongs to a and to cpu:0 (only devices with `part_of: cpu` may share it)",
        ),
        (
            "{name: a, part_of: cpu}, {name: cpu:0, cores: [1]}",
            "devices: a needs cores, since it shares the CPU",
        ),
    ],
)
def test_mistakes_in_virtual_devices(tmp_path, devices, problem):
    lines = problems(tmp_path, f"{MEMBERS}devices: [{devices}]")
    assert len(lines) == 1
    assert problem in lines[0]


@pytest.mark.parametrize(
    ("ensemble", "problem"),
    [
        ("{members: [a, c]}", "ensembles.e.members: unknown member 'c'"),
        ("{members: []}", "ensembles.e.members: should not be empty"),
        ("{members: a}", "ensembles.e.members: should be a list, not 'a'"),
        ("{members: [a, a]}", "ensembles.e.members: 'a' is listed more than once"),
        ("{members: [a], quorom: 1}", "ensembles.e.quorom: unknown key, did you mean 'quorum'?"),
        ("{members: [a, b], quorum: 3}", "quorum is 3, but there are only 2 members"),
        ("{members: [a, b], quorum: 0}", "ensembles.e.quorum: should be greater than"),
        ("{members: [a], deadline_ms: -1}", "ensembles.e.deadline_ms: should be greater than"),
        ("{members: [a], labels: l.txt}", "ensembles.e.labels: there is no file"),
        ("{members: [a], rule: maen}", "not 'maen', did you mean 'mean'?"),
        ("{members: [a], rule: 'best:'}", "should be package.module:function, not 'best:'"),
        ("{members: [a], rule: 'my/rules:best'}", "should be package.module:function, not"),
        ("{members: [a], weights: [1]}", "rule mean has no use for weights"),
        ("{members: [a], rule: {x: maen}}", "x: should be one of"),
        ("{members: [a], rule: {x: none}}", "combines no output: give at least one of them"),
        ("{members: [a], rule: {x: mean, y: weighted_mean}}", "rule weighted_mean needs weights"),
        ("{members: [a], rule: {x: mean, y: max}, trim: 0.1}", "trim is for rule trimmed_mean, no"),
        (
            "{members: [a], rule: {x: stack, y: stack}, meta: m.onnx}",
            "only one output can be stacked: there is one meta-model",
        ),
        ("{members: [a], rule: weighted_vote}", "rule weighted_vote needs weights"),
        ("{members: [a, b], rule: medoid}", "rule medoid needs at least 3 members"),
        ("{members: [a, b], trim: 0.1}", "trim is for rule trimmed_mean, not mean"),
        (
            "{members: [a, b], rule: trimmed_mean}",
            "cuts nothing of 2 members with trim 0.2: it needs 5 members, or a trim of at least",
        ),
        ("{members: [a], rule: trimmed_mean, trim: 0.5}", "ensembles.e.trim: should be less than"),
        ("{members: [a], rule: trimmed_mean, trim: 0}", "ensembles.e.trim: should be greater"),
        ("{members: [a], meta: m.onnx}", "meta is for rule stack, not mean"),
        ("{members: [a], meta_output: y}", "meta_output is for rule stack, not mean"),
        ("{members: [a], rule: stack}", "rule stack needs meta, the path of an ONNX model"),
        ("{members: [a], rule: stack, meta: m.pt2}", "meta should be an ONNX model (.onnx)"),
        ("{members: [a], rule: stack, meta: m.onnx}", "ensembles.e.meta: there is no file /"),
        ("{members: [a, b], rule: stack, meta: m.onnx, quorum: 1}", "stack needs all members"),
        ("{members: [a], rule: weighted_mean}", "needs weights"),
        ("{members: [a, b], rule: weighted_mean, weights: [1]}", "1 weights for 2 members"),
        ("{members: [a], rule: weighted_mean, weights: [0]}", "weights.0: should be greater than"),
        ("{members: [a], rule: weighted_mean, weights: [.nan]}", "weights.0: should be a finite"),
        ("{members: [a], rule: weighted_mean, weights: {c: 1}}", "'c' is not a member"),
        ("{members: [a, b], rule: weighted_mean, weights: {a: 1}}", "member 'b' has no weight"),
    ],
)
def test_mistakes_in_an_ensemble(tmp_path, ensemble, problem):
    lines = problems(tmp_path, f"{MEMBERS}ensembles: {{e: {ensemble}}}")
    assert len(lines) == 1
    assert problem in lines[0]


IMAGE = "model: {recipe: r}, input: {image: {size: 8, mean: 0, std: 1}}"


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("{}", "members.a.model: is required"),
        ("{model: 3}", "members.a.model: should be the path of a model file, fake, or"),
        ("{model: absent.onnx}", "members.a.model: there is no file"),
        ("{model: a.bin}", "members.a: model: cannot tell the format of 'a.bin' by its suffix"),
        (
            "{model: {receipt: x, recipe: y}}",
            "members.a.model.receipt: unknown key, did you mean 'recipe'",
        ),
        ("{model: {}}", "members.a.model: should have one of recipe, python, transformers"),
        ("{model: {pyton: m:C}}", "members.a.model: pyton: unknown key, did you mean 'python'?"),
        ("{model: {python: m.py}}", "model.python: should be FILE.py:NAME, relative to the"),
        ("{model: {python: 'm:a b'}}", "model.python: should be FILE.py:NAME, relative to the"),
        ("{model: {python: m:C, arg: {}}}", "unknown key, did you mean 'args'?"),
        ("{model: {python: m:C, args: yes}}", "args: is true, which this key does not take"),
        (
            "{model: {python: m:C, args: {d: 2026-01-01}}}",
            "model.args.d: input was not a valid JSON",
        ),
        ("{model: {python: m:C, compile: maybe}}", "compile: should be"),
        ("{model: {python: m:C, weights: w.pt}}", "weights: there is no file"),
        ("{model: {python: m:C}, backend: torch}", "backend is for model files, remove it"),
        ("{model: {transformers: d}}", "model.transformers: there is no directory"),
        ("{model: a.skops}", "'a.skops' is opened by its library, use {sklearn: a.skops}"),
        ("{model: a.cbm}", "use {catboost: a.cbm}"),
        ("{model: a.bin}", "`ensembled import a.bin` tells what it is"),
        ("{model: {sklearn: a.skops}}", "model.sklearn: there is no file"),
        ("{model: {mlflow: d}}", "model.mlflow: there is no directory"),
        ("{model: {xgboost: a.json, trust_pickle: true}}", "model.trust_pickle: unknown key"),
        ("{model: {xgbost: a.json}}", "model: xgbost: unknown key, did you mean 'xgboost'"),
        ("{model: {transformers: ., buckets: [8, 4]}}", "should be ascending numbers of tokens"),
        ("{model: {transformers: ., takes: tokenz}}", "did you mean 'tokens'?"),
        ("{model: fake}", "`model: fake` needs a `fake:` section"),
        ("{model: a.onnx, fake: {inputs: {x: [1]}, outputs: 1}}", "fake is only for `model: fake`"),
        ("{model: fake, backend: onnx, fake: {inputs: {x: [1]}, outputs: 1}}", "backend has no"),
        (
            "{model: fake, fake: {inputs: {x: [0]}, outputs: 1}}",
            "fake.inputs.x.0: should be greater",
        ),
        ("{model: fake, fake: {inputs: {}, outputs: 1}}", "fake.inputs: should not be empty"),
        ("{model: fake, fake: {inputs: {x: [1]}, outputs: 1, fail: rase}}", "did you mean 'raise'"),
        ("{model: fake, inputs: {y: z}, fake: {inputs: {x: [1]}, outputs: 1}}", "no input 'y'"),
        ("{model: {recipe: r}, batch_size: 1025}", "members.a.batch_size: should be less than"),
        ("{model: {recipe: r}, output: logit}", "not 'logit', did you mean 'logits'?"),
        ("{model: {recipe: r}, labels: l.txt}", "members.a.labels: there is no file"),
        ("{model: {recipe: r}, inputs: {x: {shape: [1]}}}", "shape needs a datatype"),
        (
            "{model: {recipe: r}, inputs: {x: {datatype: FP32, model_datatype: FP16}}}",
            "model_datatype is for a model that does not describe itself, give its shape",
        ),
        ("{model: {recipe: r}, temperature: 2}", "temperature is for logits and probabilities"),
        ("{model: {recipe: r}, output: class, classes: 2, temperature: 2}", "not class"),
        ("{model: {recipe: r}, output: logits, temperature: 0}", "temperature: should be greater"),
        ("{model: {recipe: r}, output: class}", "`output: class` needs classes (how many) or lab"),
        ("{model: {recipe: r}, output: logits, classes: 3}", "classes is for `output: class`"),
        ("{model: {recipe: r}, inputs: {x: {shape: [1], datatype: fp32}}}", "did you mean 'FP32'?"),
        ("{model: {recipe: r}, inputs: {x: z, y: z}}", "two of the model's inputs are called 'z'"),
        ("{model: {recipe: r}, outputs: {y: {as: logit}}}", "not 'logit', did you mean 'logits'?"),
        ("{model: {recipe: r}, outputs: {y: {kind: logits}}}", "y.kind: unknown key"),
        ("{model: {recipe: r}, output: logits, outputs: {y: {}}}", "output has no meaning beside"),
        (
            "{model: {recipe: r}, outputs: {y: {}, z: {name: y}}}",
            "two of the outputs are called 'y'",
        ),
        (
            "{model: {recipe: r}, outputs: {y: {}, z: {name: output}}}",
            "only the first can be called 'output'",
        ),
        ("{model: {recipe: r}, outputs: {y: {temperature: 2}}}", "temperature is for logits and"),
        ("{model: {recipe: r}, outputs: {y: {as: logits, max_shape: [2]}}}", "max_shape is for"),
        ("{model: {recipe: r}, output: logits, class_axis: 0}", "class_axis is 0, which is the ba"),
        ("{model: {recipe: r}, class_axis: 1}", "class_axis is for logits and probabilities"),
        (f"{{{IMAGE}, inputs: {{x: pixels}}}}", "an image member has one input"),
        ("{model: {recipe: r}, input: {image: {size: 8, mean: 0, std: 0}}}", "std.0: should be"),
        ("{model: {recipe: r}, input: {image: {mean: 0, std: 1}}}", "image.size: is required"),
    ],
)
def test_mistakes_in_a_member(tmp_path, member, problem):
    lines = problems(tmp_path, f"members: {{a: {member}}}")
    assert len(lines) == 1
    assert problem in lines[0]


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = MEMBERS + "ensembles: {e: {members: [c], quorum: 1}, a: {members: [b, d]}}"
    assert problems(tmp_path, text) == [
        "c.yaml: ensembles.e.members: unknown member 'c'",
        "c.yaml: ensembles.a: there is a member of the same name, rename one",
        "c.yaml: ensembles.a.members: unknown member 'd'",
    ]


def test_at_most_64_members(tmp_path):
    text = "members:\n" + "".join(f"  m{i}: {FAKE}\n" for i in range(65))
    (line,) = problems(tmp_path, text)
    assert "at most 64" in line


def test_the_environment_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_SERVER__HTTP_PORT", "http")
    monkeypatch.setenv("ENSEMBLED_SERVER__DRAIN", "3")
    assert problems(tmp_path, MEMBERS) == [
        "environment: ENSEMBLED_SERVER__HTTP_PORT: should be a whole number, not 'http'",
        "environment: ENSEMBLED_SERVER__DRAIN: unknown key, did you mean 'drain_s'?",
    ]


def test_the_environments_section_must_be_json(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_SERVER", "nonsense")
    (line,) = problems(tmp_path, MEMBERS)
    assert line.startswith("environment: ENSEMBLED_SERVER should be a JSON object")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read the file: No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="has no folder of a member"):
        load_config(tmp_path)
