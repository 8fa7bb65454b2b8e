"""Nothing in the source deserializes what could run code: no pickle, nothing like it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for room in ("server", "workers", "allocator", "benchmarks", "clients")
    for path in (ROOT / room).rglob("*.py")
)
MODULES = {
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "jsonpickle",
    "marshal",
    "multiprocessing",  # whose queues and pipes pickle
    "pickle",
    "shelve",
}
#: The load tester's own processes speak with each other through pipes that nobody else has.
PRIVATE = ROOT / "clients" / "ensembled_client" / "load"
#: Where a pickle is opened that the operator trusts by name (`trust_pickle`), and who may ask.
TRUSTED = ROOT / "workers" / "adapters" / "pickles.py"
ASKS_FOR_IT = ROOT / "workers" / "adapters" / "sklearn.py"
BUILTINS = {"eval", "exec", "compile", "__import__"}


def complaints(source):
    """What a module does that it must not, in words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            yield from call_complaints(node)


def call_complaints(call):
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if isinstance(call.func, ast.Name) and name in BUILTINS:
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only"
    if name in {"np.load", "numpy.load"} and given.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if name in {"yaml.load", "yaml.load_all"} and given.get("Loader") != "_Loader":
        yield f"{name} without a safe loader"
    if name in {"yaml.unsafe_load", "yaml.full_load"} or "shell" in given:
        yield name


def test_there_are_sources():
    assert len(SOURCES) > 200


@pytest.mark.parametrize(
    "wrong",
    [
        "import pickle",
        "import multiprocessing.connection",
        "from marshal import loads",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_what_is_looked_for_is_found(wrong):
    assert list(complaints(wrong))


def test_no_module_does_it():
    for path in SOURCES:
        found = list(complaints(path.read_text(encoding="utf-8")))
        if PRIVATE in path.parents:
            found = [name for name in found if not name.startswith("multiprocessing")]
        if path == TRUSTED:
            found.remove("joblib")
        assert found == [], path


def test_one_adapter_alone_opens_trusted_pickles():
    name = "workers.adapters.pickles"
    assert [path for path in SOURCES if name in path.read_text(encoding="utf-8")] == [ASKS_FOR_IT]
