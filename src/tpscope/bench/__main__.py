"""`torchrun --nproc-per-node N -m tpscope.bench ...`: measure a framework on the devices of this machine."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from tpscope.bench import cases as table
from tpscope.bench.rows import Journal, Setting
from tpscope.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for. Exit status 2 where it cannot be meant."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        if options.with_:
            overlay(options)
        for folder in reversed(options.site or []):
            if not Path(folder).is_dir():
                raise UserError(f"--site {folder}: no such folder; unpack the framework's wheels there first")
            sys.path.insert(0, str(Path(folder).resolve()))
        return _run(options, given)
    except UserError as error:
        return _wrong(str(error))


_SHORT = (64, 96)
# In a process of its own: what it imports must not stand in front of the overlay's own packages.
_FIND = """
import sys
from tpscope.errors import UserError
from tpscope.frameworks.overlay import ensure
from tpscope.frameworks.targets import resolve
try:
    print(*ensure(resolve([sys.argv[1]], None)[0], lambda text: print(text, file=sys.stderr)).sources, sep="\\n")
except UserError as error:
    sys.exit(f"--with {error}")
"""


def overlay(options: argparse.Namespace) -> None:
    """Put a version's overlay in front, installed if missing. Axolotl's brings the transformers that it pins."""
    done = subprocess.run([sys.executable, "-c", _FIND, options.with_], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"--with {options.with_} cannot be had; the message above says why")
    options.site = [*done.stdout.split(), *(options.site or [])]
    family = options.with_.partition("@")[0]
    options.family = {"axolotl": "transformers"}.get(family, family)
    options.stands_for = options.stands_for or (options.with_ if family == "axolotl" else "")


def _wrong(sentence: str) -> int:
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {sentence}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tpscope.bench", description=__doc__)
    parser.add_argument("--family", default="transformers", help="nemo, transformers or tpscope, as importable here")
    parser.add_argument("--with", dest="with_", metavar="ID", help="a version by its overlay, as nemo@0.7.0")
    parser.add_argument("--site", action="append", help="a folder of unpacked wheels, put in front of the environment")
    parser.add_argument("--models", default="", help=f"catalog names, with commas; default {','.join(table.MODELS)}")
    parser.add_argument("--sequences", help=f"tokens, with commas; default {','.join(map(str, table.SEQUENCES))}")
    parser.add_argument("--tp", type=int, help="default: the number of ranks")
    parser.add_argument("--tiers", default="0,1,2", help="0 eager, 1 compiled, 2 compiled with sequence parallel")
    parser.add_argument("--default-loss", action="store_true", help="leave out losses that are not the default")
    parser.add_argument("--calibrate", type=float, metavar="SECONDS", help="calibrate this machine, and nothing else")
    parser.add_argument("--prove", action="store_true", help="prove's cases on these devices, and nothing else")
    parser.add_argument("--rehearse", action="store_true", help="on CPU with gloo and a small model; the rows say so")
    parser.add_argument("--pretend", type=int, default=0, metavar="N", help="one process as rank 0 of N; nothing moves")
    parser.add_argument("--layers", type=int, help="so many layers instead of a model's own")
    parser.add_argument(
        "--plan", type=Path, help="for --family tpscope: what `tpscope plan` wrote; default: proven now"
    )
    parser.add_argument("--stands-for", default="", help="the framework whose pins these versions are")
    parser.add_argument("--out", type=Path, default=Path("results/bench.jsonl"))
    parser.add_argument("--seed", type=int, default=20, help="of the order of the cases and of the weights")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--case-seconds", type=float, default=120.0, help="a case that takes longer is an error row")
    parser.add_argument("--budget-seconds", type=float, default=1e9, help="after this no further case is started")
    return parser


def _run(options: argparse.Namespace, given: list[str]) -> int:
    import torch

    from tpscope.bench import ranks as group
    from tpscope.bench import session
    from tpscope.frameworks.inside.bench import subject

    if not options.rehearse and not torch.cuda.is_available():
        raise UserError("no CUDA device is there; add --rehearse to run small models on the CPU")
    if options.rehearse:
        # Threads of several ranks that spin for the same few cores make a small model take seconds.
        torch.set_num_threads(1)
    ranks = group.join(options.rehearse, options.pretend)
    named = ("CPU" if options.pretend else "CPU gloo") if options.rehearse else torch.cuda.get_device_name()
    hardware = f"{named} x{1 if options.pretend else ranks.size}"
    command = f"torchrun --nproc-per-node {ranks.size} -m tpscope.bench {shlex.join(given)}"
    try:
        framework = subject.version(options.family)
    except ModuleNotFoundError as error:
        raise UserError(f"--family {options.family}: {error}; install it, or name its folder with --site") from error
    setting = Setting(
        framework, hardware, torch.__version__, subject.packages(), command, commit(), rehearsal=options.rehearse,
        ranks=ranks.size, stands_for=options.stands_for, seed=options.seed, pretended=options.pretend,
    )  # fmt: skip
    ranks.say(f"{framework} on {hardware}, torch {torch.__version__}; {json.dumps(setting.packages)}")
    if options.calibrate is not None:
        from tpscope.bench.calibration import calibrate

        calibrate(ranks, setting, options.out, options.calibrate)
        ranks.say("end")
        group.leave()
        return 0
    if options.prove:
        from tpscope.bench import proofs

        models = options.models.split(",") if options.models else list(proofs.MODELS)
        return proofs.prove(ranks, setting, options, configs(models, small=False))
    tp = options.tp or ranks.size
    if tp != ranks.size:
        raise UserError(f"--tp {tp} over {ranks.size} ranks: bench lays tp over all ranks; start torchrun with {tp}")
    models = options.models.split(",") if options.models else list(table.MODELS)
    chosen = planned(options, tp, models)
    known = configs(models, options.rehearse, options.layers)
    plan = session.Plan(
        options.family, chosen, known, setting, repeats=options.repeats,
        case_seconds=options.case_seconds, budget_seconds=options.budget_seconds,
        plans=ranks.first(_plans(options, known, tp) if ranks.rank == 0 else None),
    )  # fmt: skip
    ranks.say(f"{len(chosen)} cases, order by seed {options.seed}: {'; '.join(case.name for case in chosen)}")
    session.Session(plan, ranks, Journal(options.out, f"{framework} {shlex.join(given)}")).run()
    ranks.say("end")
    group.leave()
    return 0


def planned(options: argparse.Namespace, tp: int, models: list[str]) -> list[table.Case]:
    """The cases of a command line in their order."""
    sequences = list(_SHORT if options.rehearse else table.SEQUENCES)
    if options.sequences:
        sequences = [int(length) for length in options.sequences.split(",")]
    tiers = {int(tier) for tier in options.tiers.split(",")}
    every = table.standard(options.family, tp, models, sequences)
    every = [case for case in every if case.tier in tiers and not (options.default_loss and case.loss)]
    return table.shuffled(every, options.seed)


def _plans(options: argparse.Namespace, known: dict[str, dict[str, Any]], tp: int) -> dict[str, Any]:
    """The plan of each model for an engine that is given one: of a file, or proven now."""
    if options.family != "tpscope" or tp == 1:
        return {}
    if options.plan is None:
        return proven_plans(known, tp)
    from tpscope.plan import files

    return dict.fromkeys(known, files.read(options.plan.read_text(encoding="utf-8"), str(options.plan)))


def proven_plans(known: dict[str, dict[str, Any]], tp: int) -> dict[str, Any]:
    """The proven plan of each config."""
    from tpscope.plan import files
    from tpscope.prove.derived import proven

    return {name: files.read(proven(config, tp, name), name) for name, config in known.items()}


def configs(models: list[str], small: bool, layers: int | None = None) -> dict[str, dict[str, Any]]:
    """The published config of each model; `small`: few layers and narrow, for a rehearsal.

    Raises UserError for a name that the catalog does not have.
    """
    folder = resources.files("tpscope.models").joinpath("catalog")
    found: dict[str, dict[str, Any]] = {}
    for name in models:
        file = folder.joinpath(f"{name}.json")
        if not file.is_file():
            known = sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))
            raise UserError(f"--models {name}: no such model in the catalog; it has {', '.join(known)}")
        found[name] = json.loads(file.read_text(encoding="utf-8"))["config"]
        if small:
            found[name] |= {
                "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2,
            }  # fmt: skip
        if layers is not None:
            found[name]["num_hidden_layers"] = layers
    return found


def commit() -> str:
    """The commit that runs: of this checkout, or what TPSCOPE_COMMIT says where the source travels without git."""
    if said := os.environ.get("TPSCOPE_COMMIT"):
        return said
    folder = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
