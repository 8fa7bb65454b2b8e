"""A library of ONNX files is predicted once; its report escapes what it names."""

import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import yaml
from networks import write_linear

from allocator.problem import Device
from allocator.profiles import Profile, Profiles
from server.selection import predicting
from server.selection.costing import Pool
from server.selection.document import selection_document
from server.selection.html import html_report
from server.selection.picking import pick
from server.selection.pipeline import SelectRequest, select_from_library
from server.selection.written import point_files

ROWS = 90


def quietly(doing):
    return nullcontext(lambda what, done, total: None)


@pytest.fixture
def request_of_numbers(tmp_path, monkeypatch):
    """A library of linear networks, whose costs are given."""
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    truth = random.normal(size=(4, 1)).astype(np.float32)
    members = {}
    for name in ("a", "b", "c"):
        noise = random.normal(0, 0.3, truth.shape).astype(np.float32)
        members[name] = {"model": write_linear(tmp_path / f"{name}.onnx", truth + noise)}
    (tmp_path / "library.yaml").write_text(yaml.safe_dump({"members": members}))
    x = random.normal(size=(ROWS, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x @ truth)
    profiles = Profiles(Profile(name, "cpu-1", 8, 0.01, 1 << 20) for name in members)
    pool = Pool((Device("<cpu>", "cpu-1", 1 << 30),), profiles=profiles)
    library, data = tmp_path / "library.yaml", tmp_path / "data.npz"
    return SelectRequest(library=library, data=data, pool=pool)


def _limit_threads(library):
    """Have a library say on which device and with how many threads its members run."""
    device = {"name": "cpu:0", "part_of": "cpu", "cores": [0], "memory_bytes": "1GiB"}
    document = yaml.safe_load(library.read_text())
    document |= {"devices": [device], "placement": {"threads": "auto"}}
    library.write_text(yaml.safe_dump(document))


@pytest.mark.process
def test_members_predict_once_and_the_report_stands_alone(request_of_numbers, monkeypatch):
    found = select_from_library(request_of_numbers, quietly)
    assert found.selection.measure == "rmse"
    assert not found.selection.higher_is_better

    def serve(*arguments):
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(predicting, "_serve", serve)
    again = select_from_library(request_of_numbers, quietly)
    assert (
        selection_document(again.selection)["front"] == selection_document(found.selection)["front"]
    )

    _limit_threads(request_of_numbers.library)
    here = replace(request_of_numbers, pool=replace(request_of_numbers.pool, devices=None))
    (note,) = select_from_library(here, quietly).selection.notes
    assert "placement.threads (auto): selection takes each CPU device as one worker" in note
    assert found.selection.notes == ()

    html = html_report(found, pick(found.selection, "best"))
    assert "&lt;cpu&gt;" in html
    assert "<cpu>" not in html
    loaded = r"""(?:src|href)=["'](?!#|data:)[^"']*|url\((?!["']?#)[^)]*|<script|@import"""
    assert re.findall(loaded, html) == []

    output = request_of_numbers.library.parent / "elsewhere" / "serve.yaml"
    _, text = point_files(found, pick(found.selection, "best"), "best", output).values()
    for name, section in yaml.safe_load(text)["members"].items():
        assert section == {"model": f"../{name}.onnx"}
    assert "The allocation is for the devices of a file" in text
