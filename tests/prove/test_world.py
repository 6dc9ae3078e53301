"""A rank that fails, hangs or is killed costs its own case and nothing else; nothing outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from tpscope.frameworks import world as worlds
from tpscope.frameworks.world import World, Worlds
from tpscope.language.verdict import Verdict


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "GRACE_SECONDS", 0.3)
    made = World(toy.target(), toy.environment(tmp_path, monkeypatch))
    yield made
    made.close()


def test_a_world_answers_and_stays_usable_after_every_kind_of_failure(world):
    expected = {
        "rank 1 was killed by signal 9 (SIGKILL); rank 0 waits in run": {"rank0": "hang", "rank1": "kill"},
        "rank 1 ended with exit code 1: SystemExit: 3; rank 0 waits in run": {"rank0": "hang", "rank1": "exit"},
        "rank 1 failed alone (norm is None); rank 0 waits in run": {"rank0": "hang", "rank1": "crashed: norm is None"},
        "rank 0 failed alone (no head); rank 1 waits in run": {"rank0": "crashed: no head", "rank1": "hang"},
        "rank 1 refused alone (not for me); the other ranks went on": {"rank1": "refused: not for me"},
        "rank 1 failed alone (assert x); the other ranks lost the connection": {
            "rank0": "crashed: Connection closed by peer",
            "rank1": "crashed: assert x",
        },
        "rank 1 was killed by signal 9": {"rank0": "crashed: Connection closed by peer", "rank1": "kill"},
    }
    before = None
    for words, does in expected.items():
        answer = world.ask(toy.request(**does))
        assert answer.verdict == Verdict.CRASHED
        assert answer.sentence.startswith(words), (answer.sentence, words)
        assert world.ask(toy.request()).verdict == Verdict.EQUAL
        before = before or world.processes()
        assert world.processes() == before, "only children died"


def test_the_stack_of_a_waiting_rank_is_kept(world):
    answer = world.ask(toy.request(rank0="hang", rank1="kill"))
    assert 'File "' in answer.rank_errors["0"]
    assert answer.error.kind == "ProcessDied"


def test_a_hang_ends_with_its_time_and_says_where_each_rank_waits(world):
    answer = world.ask(toy.request(seconds=0.5, rank0="hang", rank1="hang"))
    assert answer.sentence.startswith("no answer within 0.5 s; ranks 0, 1 wait in run (")
    assert world.ask(toy.request()).verdict == Verdict.EQUAL


def test_a_server_that_dies_is_started_anew(world):
    answer = world.ask(toy.request(rank0="hang", rank1="kill server"))
    assert answer.sentence.startswith("rank 1 was killed by signal 9")
    first = world.processes()
    assert world.ask(toy.request()).verdict == Verdict.EQUAL
    assert world.processes()[0] == first[0]
    assert world.processes()[1] != first[1]


def test_a_refusal_of_all_ranks_is_the_answer_of_rank_0(world):
    answer = world.ask(toy.request(rank0="refused: odd heads", rank1="refused: odd heads"))
    assert (answer.verdict, answer.sentence) == (Verdict.REFUSED, "odd heads")
    assert answer.rank_errors == {}
    answer = world.ask(toy.request(rank0="crashed: no head", rank1="crashed: no head"))
    assert (answer.sentence, set(answer.rank_errors)) == ("no head", {"0", "1"})


def test_an_import_that_dies_is_an_answer(tmp_path, monkeypatch):
    broken = World(toy.target("broken"), toy.environment(tmp_path, monkeypatch))
    answer = broken.ask(toy.request())
    broken.close()
    assert answer.error.kind == "ImportError"
    assert "no such module" in answer.sentence


def test_ranks_have_hash_seeds_of_their_own_and_share_a_folder_of_checkpoints(world):
    answer = world.ask(toy.request())
    assert len(set(world.hash_seeds)) == 2
    assert Path(answer.measured["checkpoints"]).is_dir()


def test_a_world_of_four_ranks_is_the_world_of_two_and_two_more(world):
    world.ask(toy.request())
    two = world.processes()
    assert world.ask(toy.request(tp=4)).verdict == Verdict.EQUAL
    assert world.processes()[:2] == two
    assert world.ranks == 4


def test_at_most_so_many_ranks_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "MOST_RANKS", 4)
    environment = toy.environment(tmp_path, monkeypatch)
    with Worlds() as pool:
        for name in ("one", "two", "three"):
            pool.ask(toy.target(name), environment, toy.request())
        assert sorted(name for name, _ in pool._worlds) == ["three@1", "two@1"]
        pool.ask(toy.target("three"), environment, toy.request(tp=4))
        assert [name for name, _ in pool._worlds] == ["three@1"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_parent(tmp_path, how):
    command = [sys.executable, str(Path(toy.__file__)), str(tmp_path), '{"rank0": "hang", "rank1": "hang"}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        servers = [int(word) for word in parent.stdout.readline().split()]
        _until(lambda: all(_members(server) == 2 for server in servers))
        os.kill(parent.pid, how)
        parent.wait(timeout=10)
    _until(lambda: not any(_members(server) for server in servers))


def _members(group):
    """Living processes of a process group."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += int(fields[2]) == group and fields[0] != "Z"
    return found


def _until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
