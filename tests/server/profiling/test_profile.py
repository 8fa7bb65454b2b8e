from types import SimpleNamespace

import pytest
from profiled import CPU, GPU, Script, batches, fake, member, profiled

from server.errors import StartError
from server.profiling import exploration, profile, profiler
from workers.profiler.handle import ProfilerError


def test_a_member_may_fail_on_some_kinds_only(model, script, monkeypatch):
    one = script({1: 0.01})
    refusing = Script({}, load=ProfilerError("onnxruntime can't use cuda:0"))
    monkeypatch.setattr(
        profiler,
        "ProfilerProcess",
        lambda device, *spec: (refusing if device.is_cuda else one)(device, *spec),
    )
    found = profiled([member("m", model)], [CPU, GPU], batches=[1])
    assert batches(found) == [1]
    assert found.missing == (("m", "NVIDIA H200", "onnxruntime can't use cuda:0"),)
    assert found.estimated == ()


def test_a_member_that_can_run_nowhere_is_an_error(model, script, cache):
    script({1: ProfilerError("its process died of SIGSEGV")})
    with pytest.raises(StartError) as caught:
        profiled([member("m", model), fake("a")])
    assert str(caught.value) == (
        f"member 'm' ({model}) can't run on any device: cpu-1: its process died of SIGSEGV"
    )
    assert not cache.exists() or not list(cache.iterdir())


def test_progress_names_what_is_being_done(model, script):
    script({1: 0.01})
    said = []
    members = [member("m", model), fake("a")]
    profiled(members, batches=[1], on_progress=lambda *what: said.append(what))
    assert said == [
        ("m on cpu-1: loading", 0, 1),
        ("m on cpu-1: batch 1", 0, 1),
        ("done", 1, 1),
    ]
    said.clear()
    profiled(members, batches=[1], on_progress=lambda *what: said.append(what))
    assert said == []


def test_what_was_measured_in_time_is_kept_and_carried_on_later(model, script):
    one = script({1: 0.9, 2: 1.7, 4: 3.2})
    first = profiled([member("m", model)], budget_s=3)  # batch 4 would take longer than is left
    assert one.measured == [2, 1]
    assert (batches(first), first.estimated, first.measured) == ([1, 2, 4], (), 1)
    assert first.predicted == 1
    assert first.profiles.of("m", "cpu-1")[2].interval_s is None
    one.started.clear()
    assert profiled([member("m", model)], budget_s=0.4).measured == 0
    assert one.started == []  # nothing would come of it
    second = profiled([member("m", model)])
    assert one.measured == [2, 1, 4]
    assert (batches(second), second.measured, second.from_cache) == ([1, 2, 4], 1, 0)
    assert second.predicted == 0


def test_the_smallest_batch_may_take_more_than_its_share(model, script, monkeypatch):
    one = script({1: 0.01, 2: 0.01}, load_s=25.0)
    for module in (profile, exploration, profiler):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: one.now))
    members = [member("m", model), member("n", model, output="probabilities")]
    found = profiled(members, batches=[1, 2], budget_s=40)
    assert [name for name, _ in one.started] == ["n", "m"]
    assert one.now == 40.0
    assert found.estimated == (("m", "cpu-1"),)  # it did not hang, the time was over
    assert found.missing == ()


def test_members_that_are_alike_are_measured_once(model, script, tmp_path):
    one = script({1: 0.01})
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(model.read_bytes())
    members = [member("m", model), member("n", twin), member("o", model, output="probabilities")]
    said = []
    found = profiled(members, batches=[1], on_progress=lambda *what: said.append(what))
    assert one.started == [("m", "cpu:0"), ("o", "cpu:0")]
    assert [(p.member, p.latency_s) for p in found.profiles] == [
        ("m", 0.01),
        ("n", 0.01),
        ("o", 0.01),
    ]
    assert found.colocation.keys() == {(name, "cpu-1") for name in "mno"}
    assert (found.measured, found.from_cache) == (3, 0)
    assert said[-1] == ("done", 2, 2)
    assert profiled(members, batches=[1]).from_cache == 3


def test_without_a_cache_members_are_measured_all_the_same(model, script, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "file"))
    one = script({1: 0.01})
    members = [member("m", model), member("n", model)]
    assert profiled(members, batches=[1]).measured == 2
    assert profiled(members, batches=[1]).from_cache == 0
    assert one.started == [("m", "cpu:0")] * 2


def test_models_that_can_not_be_read_are_not_alike(script, tmp_path):
    one = script({1: 0.01})
    absent = tmp_path / "absent.onnx"
    assert profiled([member("m", absent), member("n", absent)], batches=[1]).measured == 2
    assert one.started == [("m", "cpu:0"), ("n", "cpu:0")]
