"""What the frameworks themselves say of input and output, and whether both mean the same."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpscope.bugs import Bug
from tpscope.check import known
from tpscope.check import layout as layouts
from tpscope.check.implied import implied
from tpscope.errors import UserError
from tpscope.frameworks import reading
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import environment
from tpscope.language.answer import TrailLine
from tpscope.language.keys import Complaint, KeyFinding, KeysAnswer, KeysRequest
from tpscope.language.layout import Layout
from tpscope.migrate.evidence import found, root_of
from tpscope.migrate.facts import facts
from tpscope.migrate.job import TITLE, Ranks
from tpscope.migrate.result import Check, Standing
from tpscope.migrate.rows import Place
from tpscope.models import axolotl_yaml, nemo_yaml
from tpscope.models.read import read
from tpscope.models.spec import Intent, ModelSpec

_TIED = Place("axolotl/loaders/utils.py", "and model_config.tie_word_embeddings")
# What a GPU machine has and this one need not have is no fault of the file.
_HERE = ("in this environment", "is not installed", "No module named", "requires CUDA", "Install ")


@dataclass
class Side:
    """One file under one framework: what it says, and what the framework says of it."""

    kind: str
    target: Target
    data: dict[str, Any]
    file: str
    answer: KeysAnswer | None = None


def readings(sides: list[Side], config: dict[str, Any], world: int, say: Any, fresh: bool = False) -> None:
    """Have each framework read its own file, side by side."""
    places = [environment(side.target, lambda text: say("install", text)) for side in sides]

    def ask(pair: tuple[Side, Any]) -> None:
        side, place = pair
        request = KeysRequest(side.target.id, json.loads(json.dumps(side.data, default=str)), config, world)
        say("run", f"{side.target.id} reading {side.file}")
        side.answer = reading.read(request, side.target, place, fresh)
        say("done", f"{side.target.id} reading {side.file}")

    with ThreadPoolExecutor(len(sides)) as executor:
        list(executor.map(ask, zip(sides, places, strict=True)))


def said(side: Side, own: bool) -> list[Check]:
    """What a framework said, as checks. `own` is true for the output, where an unknown key would be our fault."""
    answer = side.answer
    name = f"{side.target.id} reads {'the output' if own else 'the input'}"
    if answer is None or answer.error is not None:
        words = f"{answer.error.kind}: {answer.error.message}" if answer and answer.error else "it was not asked"
        return [Check(name, Standing.UNCHECKED, words)]
    checks = [_complaint(name, item, own) for item in answer.findings if not other_branch(item, side.data)]
    if not any(check.standing is Standing.FAILED for check in checks):
        words = f"{TITLE[side.kind]}'s own loader takes it" + (f": {_sizes(answer.mesh)}" if answer.mesh else "")
        checks.insert(0, Check(name, Standing.OK, words))
    return checks


def other_branch(item: KeyFinding, data: dict[str, Any]) -> bool:
    """True for a key that is only unknown to the prompt types of preference training, which the file does not ask for.

    A dataset's `type` is one of several classes; the reading compares it with each of them.
    """
    preference = "UserDefinedDPOType" in item.message or "UserDefinedKTOType" in item.message
    return item.kind is Complaint.UNKNOWN and preference and not data.get("rl")


def _complaint(name: str, item: KeyFinding, own: bool) -> Check:
    standing = Standing.FAILED if item.raises else Standing.TOLD
    if item.kind is Complaint.UNCHECKED or any(word in item.message for word in _HERE):
        standing = Standing.UNCHECKED
    elif item.kind is Complaint.UNKNOWN and own:
        standing = Standing.FAILED
    near = f"; did you mean {' or '.join(item.closest)}?" if item.closest else ""
    key = f"{item.key}: " if item.key else ""
    return Check(name, standing, f"{key}{item.message}{near}", evidence=[item.where] if item.where else [])


def _sizes(mesh: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items()) or "one rank"


def meaning(source: Side, target: Side, ranks: Ranks) -> list[Check]:
    """Numbers of a step, worked out from each file on its own, and the meshes that the frameworks built."""
    before, after = (facts(side.kind, side.data, ranks) for side in (source, target))
    checks = []
    for name in before:
        left, right = before[name], after.get(name)
        if left is None or right is None:
            checks.append(Check(name, Standing.UNCHECKED, "one of the files does not say it", left, right))
        else:
            standing = Standing.OK if left == right else Standing.FAILED
            checks.append(Check(name, standing, "" if left == right else "both files should say the same", left, right))
    left, right = (_axes(side.answer.mesh, ranks) if side.answer else None for side in (source, target))
    if left is not None and right is not None:
        why = "" if left == right else "the frameworks lay the ranks out differently"
        checks.append(Check("mesh", Standing.TOLD if why else Standing.OK, why, left, right))
    return checks


def _axes(mesh: dict[str, int] | None, ranks: Ranks) -> dict[str, int] | None:
    """A mesh in both frameworks' terms: data ranks (copies and shards), tp, cp, pp. DDP has copies and no mesh."""
    if mesh is None:
        return None
    if not mesh:
        mesh = {"dp": ranks.world or 1}
    data = 1
    for axis in ("dp_replicate", "dp_shard"):
        data *= mesh.get(axis, 1)
    data = data if data > 1 else mesh.get("dp", 1)
    return {"data": data, **{axis: mesh.get(axis, 1) for axis in ("tp", "cp", "pp")}}


def model_of(path: Path) -> tuple[ModelSpec | None, str]:
    """The model that a file names, as far as it is known here, and why not."""
    try:
        spec, _ = read(str(path))
    except UserError as error:
        return None, str(error)
    return spec, ""


def pitfalls(side: Side, spec: ModelSpec | None, world: int, standing: Standing = Standing.WARNING) -> list[Check]:
    """What a framework is known to do wrong with this file: entries of the bug book, and tied embeddings.

    `standing` is that of a bug: a warning of where the user goes, told of what is left behind.
    """
    wanted = intent(side)
    if spec is None or wanted is None:
        return []
    layout = fitted(wanted, spec, world, side)
    stops = Standing.FAILED if standing is Standing.WARNING else standing
    checks = [_told(bug, side, standing) for bug in _bugs(side, spec, wanted, layout)]
    if side.kind == "axolotl" and layout.tp > 1 and spec.config.get("tie_word_embeddings") is True:
        why = f"{spec.name} ties its embeddings, and Axolotl refuses tensor parallelism then"
        line: list[TrailLine] = [found(_TIED, root_of(side.target))]
        checks.append(Check(f"pitfall of {side.target.id}", stops, why, evidence=line))
    if side.kind == "axolotl" and layout.pp > 1:
        checks.append(Check(f"pitfall of {side.target.id}", stops, "Axolotl has no pipeline parallelism"))
    problem = layouts.head_problem(spec, layout.tp)
    if problem:
        checks.append(Check(f"pitfall of {side.target.id}", standing, problem))
    return checks


def intent(side: Side) -> Intent | None:
    """What a file asks for, None where it names no model."""
    reader = axolotl_yaml.intent if side.kind == "axolotl" else nemo_yaml.intent
    try:
        return reader(side.data, Path(side.file))[1]
    except UserError:
        return None


def fitted(wanted: Intent, spec: ModelSpec, world: int, side: Side) -> Layout:
    """The layout that a file gets on the ranks, by the mesh that its framework builds."""
    return layouts.fit(wanted, spec, world, side.answer.mesh if side.answer else None).layout


def _bugs(side: Side, spec: ModelSpec, wanted: Intent, layout: Layout) -> list[Bug]:
    packages = side.answer.packages if side.answer else {}
    scenarios = implied(wanted, spec, layout)
    # Axolotl fills the axes that a file leaves open: entries speak of the keys that would say the same.
    filled = {key: getattr(layout, axis) for axis, key in axolotl_yaml.LAYOUT_KEYS.items()}
    data = {**filled, **side.data} if side.kind == "axolotl" else side.data
    return known.matching(packages, side.kind, side.target.version, spec, layout, scenarios, data)


def _told(bug: Bug, side: Side, standing: Standing) -> Check:
    mend = f"; {bug.framework} {bug.fixed} has it mended" if bug.fixed else ""
    return Check(f"pitfall of {side.target.id}", standing, f"{bug.title} (bugs/{bug.id}){mend}")
