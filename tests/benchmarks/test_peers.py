import sys
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.figures import PeerCase, PeerFigures, RoleCost, Spread
from benchmarks.limit import LimitRound
from benchmarks.peers import __main__ as command
from benchmarks.peers.environments import REQUIREMENTS, python_for
from benchmarks.peers.measure import OURS, Measured, peer_loads, turns
from benchmarks.peers.registry import PEERS, Peer
from benchmarks.peers.servers.task import VARIABLE, Task
from benchmarks.peers.table import peer_table
from benchmarks.process_cost import ProcessCost
from benchmarks.results_file import make_result, read_results, write_result
from benchmarks.wrk import WrkResult

PROJECT = Path(__file__).resolve().parent.parent.parent
TASK = Task(("a.onnx", "b.onnx"), True, "duo", "x", (3, 2), 10)


def measured(rate, p50_ms, *cost):
    return Measured(WrkResult(rate * 2, 2.0, p50_ms, p50_ms * 3, {}), cost)


COMBINER = ProcessCost("combiner", 10, 0, 1)
ROUNDS = {
    (OURS, 1): [
        measured(100, 1.0, ProcessCost("front-end", 70, 3, 2), COMBINER),
        measured(300, 4.0, ProcessCost("front-end", 50, 1, 4), COMBINER),
    ],
    ("slow", 1): [measured(50, 4.0), measured(100, 8.0)],
}


def test_each_server_comes_first_in_its_turn():
    assert [turns("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert turns([], 3) == []


def test_ratios_are_of_the_same_round():
    ours, slow = peer_loads([OURS, "slow"], [1], ROUNDS, [])
    assert (ours.system, ours.connections) == (OURS, 1)
    assert ours.requests_per_s == Spread(200, 100, 300)
    assert ours.ours is None
    assert ours.of_limit is None
    assert ours.cost == (
        RoleCost("front-end", Spread(60, 50, 70), Spread(2, 1, 3), Spread(3, 2, 4)),
        RoleCost("combiner", Spread(10, 10, 10), Spread(0, 0, 0), Spread(1, 1, 1)),
        RoleCost("all", Spread(70, 60, 80), Spread(2, 1, 3), Spread(4, 3, 5)),
    )
    assert slow.ours == Spread(2.5, 2, 3)
    assert slow.ours_p50 == Spread(0.375, 0.25, 0.5)
    assert slow.p99_ms == Spread(18, 12, 24)
    assert slow.cost == ()


def test_the_limit_of_the_same_round():
    limits = [LimitRound(200, 1, 2, 0.5), LimitRound(400, 1, 2, 1.0)]
    ours = peer_loads([OURS], [1], ROUNDS, limits)[0]
    assert ours.of_limit == Spread(0.625, 0.5, 0.75)
    assert ours.p50_of_split == Spread(3, 2, 4)


def test_without_ours_there_are_no_ratios():
    (slow,) = peer_loads(["slow"], [1], ROUNDS, [])
    assert slow.ours is None
    assert slow.ours_p50 is None


def test_the_table_and_the_results_file(tmp_path):
    loads = peer_loads([OURS, "slow"], [1], ROUNDS, [])
    left_out = {"gone": "can't be installed"}
    case = PeerCase("small", {OURS: "abc", "slow": "1.2"}, left_out, None, loads)
    text = peer_table(PeerFigures((case,)))
    assert "ours abc, slow 1.2." in text
    assert "Left out: gone: can't be installed." in text
    assert "| ours, 1 | 200 (100–300) |  | 2.5 (1–4) |  | 7.5 (3–12) |" in text
    assert "| slow, 1 | 75 (50–100) | 2.5 (2–3) | 6 (4–8) | 0.375 (0.25–0.5) |" in text
    assert "| ours, 1 | front-end | 60 (50–70) | 2 (1–3) | 3 (2–4) |" in text
    assert "of the limit" not in text
    figures = PeerFigures((case,))
    write_result(tmp_path, make_result("peers", figures, config="x", rounds=2, seconds=2))
    assert read_results(tmp_path)[0].figures == figures
    assert text in (tmp_path / "README.md").read_text()


def test_a_task_goes_through_the_environment(monkeypatch):
    task = PEERS["mosec"].task(TASK, "small")
    assert (task.workers, task.batch, task.wait_ms) == (2, 64, 1)
    monkeypatch.setenv(VARIABLE, task.text())
    assert Task.read() == task


@pytest.mark.parametrize("peer", PEERS.values(), ids=list(PEERS))
def test_every_peer_has_a_server_and_a_lock(peer):
    assert (PROJECT / f"{peer.module.replace('.', '/')}.py").is_file()
    assert peer.name == peer.module.rpartition(".")[2].removesuffix("_server")
    if peer.package is None:
        assert str(python_for(peer)) == sys.executable
        return
    with open(REQUIREMENTS.format(name=peer.name), encoding="utf-8") as file:
        listed = [line for line in file.read().splitlines() if line[0] not in "# "]
    assert any(line.startswith((f"{peer.package}==", f"{peer.package}[")) for line in listed)
    assert all("==" in line for line in listed)


def test_a_peer_that_can_not_be_installed(monkeypatch, tmp_path):
    (tmp_path / "gone.txt").write_text("gone==1\n")
    monkeypatch.setattr("benchmarks.peers.environments.REQUIREMENTS", str(tmp_path / "{name}.txt"))
    monkeypatch.setattr("benchmarks.peers.environments._ENVIRONMENTS", tmp_path)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BenchmarkError, match="can't be installed; pip says nothing"):
        python_for(Peer("gone", "gone", "/"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--peers", "mosec,nobody"], "--peers: nobody: use some of ours,"),
        (["--rounds", "0"], "1 or more"),
    ],
)
def test_bad_arguments(monkeypatch, arguments, text):
    monkeypatch.setattr("sys.argv", ["peers", *arguments])
    with pytest.raises(SystemExit, match=text):
        command.main()
