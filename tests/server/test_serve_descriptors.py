"""Each process holds the descriptors that it needs, and no other."""

import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from serving import configuration, fake, wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists them"),
]

LISTENING = "0A"
#: Of event loops and threads: private to the process that has made them.
PRIVATE = r"anon_inode:\[(eventpoll|eventfd|io_uring|timerfd)\]"


def held(process):
    """What a process holds, by descriptor."""
    links = {}
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            links[int(fd.name)] = os.readlink(fd)
        except FileNotFoundError:  # closed meanwhile
            continue
    return links


def listening():
    """The sockets of TCP that listen, by port."""
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENING:
                ports[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
    return ports


def tcp():
    """All sockets of TCP."""
    return {
        f"socket:[{line.split()[9]}]"
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    }


def kind(link):
    if re.fullmatch(PRIVATE, link):
        return "private"
    if link.startswith("/memfd:"):
        return "memfd"
    return link.partition(":")[0] if ":" in link else link


@pytest.fixture
def server(serve):
    members = {"a": fake(1), "b": fake(2)}
    server = serve(configuration(members, on=2, log_level="warning"))
    assert server.predict("all", [[1, 2]]).status == 200
    return server


def test_only_the_front_end_listens(server):
    ports = listening()
    grpc = int(server.grpc.rpartition(":")[2])

    def listened(process):
        return {ports[link] for link in held(process).values() if link in ports}

    assert listened(server.child("front-end")) == {server.port, grpc}
    for role in ("combiner", "worker cpu:0"):
        child = server.child(role)
        assert not set(held(child).values()) & tcp(), role
    # The supervisor keeps HTTP's socket for the next front-end.
    assert listened(server.process) == {server.port}


@pytest.mark.parametrize("role", ["combiner", "worker cpu:0", "worker cpu:1"])
def test_a_child_holds_its_channels_and_the_memory(server, role):
    child = next((each for each in server.children() if role in " ".join(each.cmdline())), None)
    if child is None:
        pytest.skip(f"there is no {role} on this machine")
    wait_for(lambda: kinds(child)["socket"] > 0, "its sockets of ZeroMQ")
    links = held(child)
    expected = {"/dev/null", "pipe", "memfd", "socket", "private", str(server.log)}
    assert set(kinds(child)) == expected
    assert links[0] == "/dev/null", "models and their programs can't read the commands"
    assert links[1] == links[2], "what is printed is one pipe"
    pipes = {link for link in links.values() if link.startswith("pipe:")}
    # In: commands. Out: status, and what is printed (twice).
    assert len(pipes) == 3
    assert kinds(child)["pipe"] == 4
    assert kinds(child)[str(server.log)] == 1, "the log"


def kinds(process):
    return Counter(kind(link) for link in held(process).values())


def test_the_pipes_of_one_child_are_no_other_childs(server):
    children = server.children()
    pipes = Counter(
        pipe
        for child in children
        for pipe in {link for link in held(child).values() if link.startswith("pipe:")}
    )
    assert len(children) >= 3
    assert set(pipes.values()) == {1}


def test_programs_that_a_child_starts_inherit_nothing(server):
    for child in server.children():
        for fd in held(child):
            if fd > 2:
                flags = Path(f"/proc/{child.pid}/fdinfo/{fd}").read_text().split("flags:")[1]
                assert int(flags.split()[0], 8) & os.O_CLOEXEC, (child.cmdline(), fd)


def test_the_supervisor_holds_no_ends_of_the_children(server):
    """Neither those that are theirs, nor any of a child that has died."""
    before = kinds(server.process)
    server.kill("worker cpu:0")
    server.kill("combiner")
    wait_for(lambda: server.predict("all", [[1, 2]]).status == 200, "both to be back")
    wait_for(lambda: kinds(server.process) == before, "the same descriptors as before")
    children = {link for child in server.children() for link in held(child).values()}
    own = [link for link in held(server.process).values() if link.startswith("pipe:")]
    assert len([link for link in own if link in children]) == 3 * len(server.children())


def bells(process):
    """The eventfds that a process shares with others, by the kernel's numbers for them."""
    ids = set()
    for fd, link in held(process).items():
        if link == "anon_inode:[eventfd]":
            info = Path(f"/proc/{process.pid}/fdinfo/{fd}").read_text()
            ids |= set(re.findall(r"eventfd-id:\s*(\d+)", info))
    return ids


def test_each_process_has_its_own_bell_and_those_that_it_rings(server):
    all_bells = bells(server.process)
    workers = ["worker cpu:0", "worker cpu:1"]
    have = {
        role: bells(server.child(role)) & all_bells for role in ("front-end", "combiner", *workers)
    }
    front_end = have["combiner"] & have["front-end"]
    combiner = have["combiner"] - front_end
    own = {role: have[role] - front_end - combiner for role in workers}
    assert [len(each) for each in (front_end, combiner, *own.values())] == [1, 1, 1, 1]
    spare = all_bells.difference(*(have[role] for role in ("combiner", *workers)))
    assert len(spare) == 4  # of devices that may come later
    assert have["front-end"] == front_end.union(spare, *own.values())
    assert all(have[role] == front_end | combiner | own[role] for role in workers)
