"""A framework for tests: its ranks do what a request's training says, in real processes under the real server.

`python toy.py FOLDER JSON` asks one world for one such case and prints its process ids first.
"""

import json
import shutil
import signal
import sys
from pathlib import Path

import tpscope
from tpscope.frameworks import runner
from tpscope.frameworks.registry import Family, Target
from tpscope.frameworks.runner import Environment
from tpscope.frameworks.world import World
from tpscope.language.proof import ProofRequest, Scenario

CASE = """
IMPORT_SECONDS = 0.0

def preload(family):
    if family == "broken":
        raise SystemExit("no such module")
"""

RUN = """
import json, os, signal, time
from pathlib import Path
from tpscope.language.answer import Failure, to_json
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict

def preload(family):
    pass

def fails(answer, verdict, words):
    answer.verdict, answer.sentence = verdict, words
    answer.error = Failure("Error", words, "loop", None, "traceback: " + words)

def run(family, request_file, answer_file, rank, problem):
    request = json.loads(Path(request_file).read_text())
    does = request["training"].get("does", {}).get(str(rank), "equal")
    answer = ProofAnswer(request["framework"], request["model"], request["scenario"]["name"], request["tp"])
    answer.measured["hash"] = hash("a string")
    answer.measured["checkpoints"] = request["training"]["checkpoints"]
    if does == "hang":
        time.sleep(1000)
    elif does == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif does == "kill server":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
    elif does == "exit":
        raise SystemExit(3)
    elif does == "seeded":
        answer.verdict = Verdict.DIFFERENT if os.environ["PYTHONHASHSEED"] != "0" else Verdict.EQUAL
    elif does == "equal":
        answer.verdict = Verdict.EQUAL
    else:
        verdict, _, words = does.partition(": ")
        fails(answer, Verdict(verdict), words)
        if words == "Connection closed by peer":
            time.sleep(0.2)
    Path(answer_file).write_text(json.dumps(to_json(answer)))
"""


def environment(folder, monkeypatch=None):
    """An environment whose inside is the toy's; `runner` is pointed to it."""
    inside = Path(folder) / "tpscope" / "frameworks" / "inside"
    (inside / "proof").mkdir(parents=True)
    real = Path(tpscope.__file__).parent
    shutil.copy(real / "frameworks" / "inside" / "__main__.py", inside)
    (inside.parents[1] / "language").symlink_to(real / "language")
    for name, text in (("__init__", ""), ("case", CASE), ("proof/__init__", ""), ("proof/run", RUN)):
        (inside / f"{name}.py").write_text(text)
    if monkeypatch is None:
        runner.INSIDE = inside
    else:
        monkeypatch.setattr(runner, "INSIDE", inside)
    return Environment(Path(sys.executable), (), (), "toy", {"torch": "torch<=2.9.0"})


def target(name="toy"):
    return Target(Family(name, name, name, name, ("1",), (), (), ()), "1")


def request(tp=2, seconds=20.0, **does):
    ranks = {rank.removeprefix("rank"): what for rank, what in does.items()}
    scenario = Scenario()
    return ProofRequest("toy@1", "1", "", "model", {}, tp, scenario, training={"does": ranks}, seconds=seconds)


if __name__ == "__main__":
    # A shell ignores Ctrl-C for what it starts in the background, and tests may be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    world = World(target(), environment(sys.argv[1]))
    world._start(2)
    print(*world.processes(), flush=True)
    try:
        world.ask(request(**json.loads(sys.argv[2])))
    finally:
        world.close()
