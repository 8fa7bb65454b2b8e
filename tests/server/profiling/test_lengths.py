from dataclasses import replace

import msgspec
import pytest
from profiled import batches, fake, member, profiled, variable_member

from server.profiling.lengths import (
    MeasuredLength,
    RowLength,
    expected_factor,
    measured_lengths,
    row_lengths,
)
from tests.workers.model_files import write_onnx
from workers.profiler.handle import ProfilerError
from workers.runtime.spec import InputLimit

MIX = {20: 1.0, 100: 3.0}
SIZES = (32, 128, 512)


def classes(*shares, sizes=SIZES):
    return tuple(RowLength(size, (size,), s) for size, s in zip(sizes, shares, strict=True))


def curve(batch, *latencies_s, sizes=SIZES):
    return [MeasuredLength(batch, size, s) for size, s in zip(sizes, latencies_s, strict=True)]


def test_rows_are_shared_among_the_classes_as_configured(model):
    one = variable_member("m", model, buckets=SIZES, lengths=MIX)
    assert row_lengths(one, ("seq",)) == classes(0.25, 0.75, 0.0)


def test_beyond_the_largest_counts_as_the_largest(model):
    one = variable_member("m", model, buckets=SIZES, lengths={9999: 1})
    assert [length.share for length in row_lengths(one, ("seq",))] == [0, 0, 1]


def test_without_a_mix_lengths_are_log_normal(model):
    lengths = row_lengths(variable_member("m", model), ("seq",))
    assert [length.size for length in lengths] == [64, 128, 256, 512]
    shares = [length.share for length in lengths]
    assert shares == pytest.approx([0.5, 0.307, 0.151, 0.042], abs=1e-3)


@pytest.mark.parametrize(("symbol", "share"), [("ids.1", 0.5), ("text.bytes", 0.995)])
def test_texts_are_expected_to_be_far_shorter_than_their_limit(model, monkeypatch, symbol, share):
    sizes = [{symbol: 512}, {symbol: 64}]
    monkeypatch.setattr("server.profiling.lengths.length_classes", lambda members: sizes)
    shortest, _ = row_lengths(variable_member("m", model), (symbol,))
    assert shortest.share == pytest.approx(share, abs=1e-3)


def test_members_of_fixed_sizes_have_no_lengths(model):
    assert row_lengths(member("m", model), ()) == ()
    assert row_lengths(fake("m"), ()) == ()


@pytest.mark.parametrize("number", range(1, 10))
def test_few_lengths_are_measured_the_smallest_and_the_largest_among_them(number):
    lengths = [RowLength(size, (size,), 1 / number) for size in range(1, number + 1)]
    chosen = measured_lengths(lengths)
    assert (chosen[0], chosen[-1]) == (lengths[0], lengths[-1])
    assert len(chosen) <= 4
    assert chosen == sorted(set(chosen))


def test_a_batch_takes_the_mean_over_its_classes():
    lengths = classes(0.5, 0.25, 0.25)
    assert expected_factor(lengths, curve(8, 0.1, 0.4, 1.0), {8: 1.0}, 8) == pytest.approx(0.4)


def test_between_what_was_measured_it_is_interpolated_and_beyond_it_stays():
    lengths = classes(0.0, 1.0, 0.0)
    ends = [*curve(1, 0.5, 1.0, sizes=(32, 512)), *curve(5, 0.1, 1.0, sizes=(32, 512))]
    at_1, at_5 = 0.5 + 0.5 * 96 / 480, 0.1 + 0.9 * 96 / 480
    found = [expected_factor(lengths, ends, {1: 1.0, 5: 1.0}, batch) for batch in (1, 3, 5, 64)]
    assert found == pytest.approx([at_1, (at_1 + at_5) / 2, at_5, at_5])


def test_unmeasured_it_is_proportional():
    assert expected_factor(classes(0.5, 0.0, 0.5), (), {}, 4) == pytest.approx((32 + 512) / 1024)


def test_the_profile_is_that_of_the_mix(model, script, cache):
    answers = script({1: 0.001, 2: 0.0011, 4: 0.0044}, by_size=lambda size: size / 512)
    one = variable_member("m", model, buckets=SIZES, lengths=MIX)
    found = profiled([one])
    assert {batch for batch, _ in answers.sizes} == {1, 2, 4}, "smallest, best, largest"
    assert {size for _, size in answers.sizes} == set(SIZES)
    factor = (0.25 * 32 + 0.75 * 128) / 512
    profiles = found.profiles.of("m", "cpu-1")
    assert [one.latency_s for one in profiles.values()] == pytest.approx(
        [0.001 * factor, 0.0011 * factor, 0.0044 * factor]
    )
    assert profiles[2].lengths == pytest.approx({s: 0.0011 * s / 512 for s in SIZES})
    again = profiled([variable_member("m", model, buckets=SIZES, lengths={512: 1})])
    assert (again.from_cache, again.measured) == (1, 0), "another mix needs no measurement"
    assert again.profiles.of("m", "cpu-1")[1].latency_s == pytest.approx(0.001)
    others = profiled([variable_member("m", model, buckets=(64, 512))])
    assert others.from_cache == 0


def test_a_member_that_fails_on_made_up_rows_takes_the_same_for_all(model, script):
    def fail(size):
        raise ProfilerError("no such word")

    script({1: 0.001, 2: 0.004}, by_size=fail)
    one = variable_member("m", model, buckets=SIZES, lengths=MIX)
    for from_cache in (0, 1):
        found = profiled([one], batches=[1, 2])
        assert found.from_cache == from_cache
        assert found.profiles.of("m", "cpu-1")[1].latency_s == pytest.approx(0.001)


@pytest.mark.process
def test_real_rows_of_several_lengths(tmp_path):
    path = write_onnx(tmp_path / "v.onnx", shape=("n", "seq"))
    one = variable_member("m", path, most=64, buckets=(16, 64))
    output = msgspec.structs.replace(one.signature.inputs[0], name="y")
    signature = msgspec.structs.replace(one.signature, outputs=(output,))
    source = msgspec.structs.replace(one.source, limits=(InputLimit("x", (64,)),))
    found = profiled([replace(one, signature=signature, source=source)], batches=[1, 4])
    assert batches(found)
    assert set(found.profiles.of("m", "cpu-1")[1].lengths) == {16, 64}
