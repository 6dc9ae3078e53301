"""examples/finetune.py: the loss falls and is the unsharded one step by step, on two nodes, and after it was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 50


def start(out, *more, launch=("--nproc-per-node", "2")):
    plan = ROOT / "tests/engine/plans/qwen3-8b-tp2.yaml"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *launch]
    command += [
        str(ROOT / "examples/finetune.py"),
        "--plan",
        str(plan),
        "--out",
        str(out),
        "--steps",
        str(STEPS),
        *more,
    ]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finished(*processes):
    for process in processes:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]


def losses(out):
    rows = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finished(start(out, launch=("--nproc-per-node", "1")))
    return losses(out)


def test_the_loss_falls(unsharded):
    assert unsharded[STEPS] < 0.5 * unsharded[1]


def test_two_agents_as_two_nodes_train_as_one_process(unsharded, tmp_path):
    port = str(free_port())
    nodes = [
        start(tmp_path, launch=("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank),
                                "--master-addr", "127.0.0.1", "--master-port", port))
        for rank in range(2)
    ]  # fmt: skip
    finished(*nodes)
    assert losses(tmp_path) == pytest.approx(unsharded, rel=1e-3)
    assert losses(tmp_path) != unsharded  # another order of sums
    assert (tmp_path / "model/model.safetensors").is_file()


def test_what_was_killed_goes_on_from_the_last_whole_checkpoint(unsharded, tmp_path):
    process = start(tmp_path, "--save-every", "10")
    deadline = time.monotonic() + 200
    while not (tmp_path / "checkpoints/step-00000020").is_dir() and time.monotonic() < deadline:
        time.sleep(0.02)
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
    os.kill(int(first), signal.SIGKILL)  # a rank; the agent ends the others
    process.communicate()
    assert process.returncode
    before = losses(tmp_path)
    assert 20 <= len(before) < STEPS
    (tmp_path / "checkpoints/.step-00000099.partial").mkdir()
    finished(start(tmp_path, "--resume"))
    assert losses(tmp_path) == pytest.approx(unsharded, rel=1e-3)
    steps = [json.loads(line)["step"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert steps[-1] == STEPS
