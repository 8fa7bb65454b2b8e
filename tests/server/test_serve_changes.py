"""A running server goes from one deployment to the next, whatever dies meanwhile."""

import os

import numpy as np
import pytest
from changes import ChangingServer, Hold, X, has_data, shared_memory
from serving import configuration, devices, fake, title, wait_for

pytestmark = pytest.mark.process


@pytest.fixture
def changing(serve):
    return lambda document, add: ChangingServer(serve, document, add)


@pytest.fixture
def hold(tmp_path):
    directory = tmp_path / "held"
    directory.mkdir()
    return Hold(directory)


def census(server):
    """What grows if something is left behind, by process."""
    found = {}
    for child in [server.process, *server.children()]:
        maps = [one for one in child.memory_maps(grouped=False) if "memfd:ensembled" in one.path]
        found[" ".join(child.cmdline()).strip()] = (child.num_fds(), len(maps))
    return found


def test_twenty_changes_under_load_leave_nothing_behind(changing):
    one = changing(configuration({"a": fake(1), "b": fake(1)}, on=2, where={"a": 0, "b": 1}), 1)
    server = one.server
    with one.under_load(), shared_memory(server) as memory:
        first_end = os.fstat(memory).st_size
        one.write_members(a=fake(2), b=fake(2))
        one.go_to(2)
        settled = wait_for_equal(lambda: census(server))
        for add in range(3, 23):
            if add % 3:
                one.write_members(a=fake(add), b=fake(add))
            else:  # another layout of the arena, and one model stays
                one.write_members(a=fake(add), b=fake(add, batch_size=4))
            last_start = os.fstat(memory).st_size
            one.go_to(add)
        wait_for(lambda: census(server) == settled, "descriptors and mappings as before")
        wait_for(lambda: not has_data(memory, first_end, last_start), "no arena of former ones")
        assert has_data(memory, last_start, os.fstat(memory).st_size)


def wait_for_equal(look):
    """Look until twice in a row the same is seen."""
    seen = [look()]

    def is_same():
        seen.append(look())
        return seen[-1] == seen[-2]

    wait_for(is_same, "a steady state")
    return seen[-1]


def test_what_is_wrong_is_refused_and_the_old_goes_on(changing, tmp_path):
    one = changing(configuration({"a": fake(1), "b": fake(1)}), 1)
    (tmp_path / "broken.onnx").write_bytes(b"this is no model")
    with one.under_load():
        one.write_members(a={"model": str(tmp_path / "broken.onnx")}, b=fake(1))
        assert "member a" in one.refuse()
        one.write_members(a=fake(1), b=fake(1, outputs=3))
        assert "all" in one.refuse()
        one.write_members(a=fake(1) | {"modle": 1}, b=fake(1))
        assert "modle" in one.refuse()
        one.write_members(a=fake(2), b=fake(2))
        one.go_to(2)


@pytest.mark.parametrize("role", ["worker cpu:0", "combiner", "front-end"])
def test_a_death_before_the_switch_undoes_the_change(changing, hold, role):
    one = changing(configuration({"a": hold.member(1)}), 1)
    one.write_members(a=hold.member(2))
    with one.under_load(loses_connections=True):
        with hold.loading() as wait_loading:
            wait_outcome = one.signal()
            wait_loading()
            one.server.kill(role)
        assert f"nothing is changed: {role} died" in one.fail(wait_outcome)
        one.go_to(2)


def workers(server):
    return [name for name in map(title, server.children()) if "worker" in name]


@pytest.mark.skipif(len(devices(2)) < 2, reason="needs two cores")
def test_a_device_comes_and_goes(changing):
    one = changing(configuration({"a": fake(1)}), 1)
    server = one.server
    seen = []
    with one.under_load():
        for add in (2, 4, 6):
            one.write(configuration({"a": fake(add)}, on=2, where={"a": 1}))
            one.go_to(add)
            wait_for(lambda: workers(server) == ["ensembled worker cpu:1"], "the other worker")
            one.write(configuration({"a": fake(add + 1)}))
            one.go_to(add + 1)
            wait_for(lambda: workers(server) == ["ensembled worker cpu:0"], "the first worker")
            seen.append(wait_for_equal(lambda: census(server)))
    assert seen[1:] == seen[:1] * 2


def tight(member):
    """A configuration whose only device has room, beside its worker, for one model of 20 MiB."""
    device = {**devices(1)[0], "name": "tight", "part_of": "cpu", "memory_bytes": "160MiB"}
    placement = {"profile_s": 0, "batch_sizes": [1]}
    return {**configuration({"a": member}), "devices": [device], "placement": placement}


def test_without_room_for_both_requests_wait_until_one_of_them_is_loaded(changing, hold):
    one = changing(tight(hold.member(1, 20 << 20)), 1)
    with one.under_load():
        for add in (2, 3):
            one.write(tight(hold.member(add, 20 << 20)))
            one.go_to(add)
        one.write(tight(hold.member(4, 20 << 20)))
        worker = one.server.child("worker tight").pid
        with hold.failing(4):
            assert "it is told to fail" in one.fail(one.signal())
        assert one.server.child("worker tight").pid == worker
        with hold.failing(3, 4):
            wait_outcome = one.signal()
            wait_for(lambda: "worker tight died" in one.server.stderr, "a worker's death")
        assert "it is told to fail" in one.fail(wait_outcome)
        assert one.server.child("worker tight").pid != worker
    assert one.server.stderr.count("no room for both") == 4


def without_room(members, memory, **options):
    """A configuration whose devices have room for so much: a fake takes a mebibyte."""
    document = configuration(members, **options)
    return {
        **document,
        "devices": [{**device, "memory_bytes": memory} for device in document["devices"]],
    }


def test_without_room_for_both_a_quorum_answers_meanwhile(changing):
    def members(sleep_ms):  # no two are the same, but all answer the same
        return {"a": fake(1), "b": fake(1, sleep_ms=sleep_ms)}

    one = changing(without_room(members(0.1), "2500KiB", ensemble={"quorum": 1}), 1)
    with one.under_load():
        one.write(without_room(members(0.2), "2500KiB", ensemble={"quorum": 1}))
        one.go_to(1)
    assert "meanwhile: all answered by quorum without b" in one.server.stderr


def test_what_had_to_make_room_is_not_compared_and_comes_back(changing, tmp_path):
    np.savez(tmp_path / "rows.npz", x=X)
    one = changing(without_room({"a": fake(1)}, "1500KiB"), 1)
    with one.under_load():
        one.write_members(a={**fake(2), "validate": {"data": str(tmp_path / "rows.npz")}})
        assert "members.a.validate: there is no room" in one.fail(one.signal())
        one.write_members(a=fake(2))
        one.go_to(2)


def test_a_server_that_is_told_to_stop_in_the_middle_of_a_change_drains(changing, hold):
    one = changing(configuration({"a": hold.member(1)}), 1)
    one.write_members(a=hold.member(2))
    with hold.loading() as wait_loading:
        one.signal()
        wait_loading()
        assert one.server.stop() == 0
    assert "nothing is changed: the server is stopping" in one.server.stderr
    assert "Traceback" not in one.server.stderr


def test_batches_that_are_larger_than_those_that_the_rings_were_made_for(changing):
    one = changing(configuration({"a": fake(1, batch_size=1)}, on=1, where={"a": 0}), 1)
    with one.under_load():
        one.write(configuration({"a": fake(2, batch_size=1024)}, on=1, where={"a": 0}))
        one.go_to(2)
        x = np.arange(10_000, dtype=np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(one.server.predict("all", x).values, x + 2)


def test_many_signals_at_once_are_few_changes(changing):
    one = changing(configuration({"a": fake(1)}), 1)
    one.write_members(a=fake(2))
    for _ in range(20):
        one.signal()
    one.go_to(2)
    assert one.server.stderr.count("change: ") == 1
