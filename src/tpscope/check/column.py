"""What compare's column says of the file, as findings."""

from __future__ import annotations

from tpscope.check.layout import good_tps, head_problem, sentence, tp_key
from tpscope.check.lines import Lines
from tpscope.check.remedy import linear_names
from tpscope.check.result import Finding, Severity
from tpscope.compare.differences import find
from tpscope.language.answer import Failure, FrameworkAnswer, TrailLine
from tpscope.language.layout import Layout
from tpscope.language.verdict import Severity as Weight
from tpscope.language.verdict import Status
from tpscope.models.spec import Intent, ModelSpec

_KEYS = {
    "sequence_parallel": {"nemo": "distributed.sequence_parallel", "axolotl": ""},
    "use_hf_tp_plan": {"nemo": "distributed.use_hf_tp_plan"},
}


def findings(column: FrameworkAnswer, intent: Intent, spec: ModelSpec, layout: Layout, lines: Lines) -> list[Finding]:
    """The column's failure, what it ignores, what it leaves without an adapter, and what surprises in it."""
    found: list[Finding] = _lora(column, intent, lines)
    if found:
        # What fails after that fails because nothing trains.
        return found
    if column.status is not Status.OK and column.error is not None:
        found.append(_failed(column, column.error, intent, spec, layout, lines))
    elif column.loop_error is not None:
        found.append(_stopped(column, column.loop_error, intent, lines))
    for item in column.ignored:
        key = _KEYS.get(item["setting"], {}).get(intent.kind) or lines.named(item["setting"])
        found.append(
            Finding(
                Severity.WARNING, f"{column.id} ignores {item['setting']}", lines.where(key), item["what"],
                f"write {key.rpartition('.')[2]}: false: it does nothing here" if key else "",
                _selected(column), key, "compare",
            )
        )  # fmt: skip
    if column.status is Status.OK and layout.tp > 1:
        found += _surprises(column, intent, lines)
        found += _heads(column, intent, spec, layout, lines)
    return found


def _failed(
    column: FrameworkAnswer, error: Failure, intent: Intent, spec: ModelSpec, layout: Layout, lines: Lines
) -> Finding:
    evidence = [error.where] if error.where else []
    why = f"{error.kind}: {error.message}{_caveat(column)}"
    key = _key(error, intent, lines)
    if column.status is Status.UNSUPPORTED and error.kind != "NoSuchSetting":
        return Finding(
            Severity.NOTE, f"{column.id} could not be run here", lines.where(key), why,
            "", evidence, key, "compare",
        )  # fmt: skip
    verb = {Status.REFUSED: "refuses to run this", Status.CRASHED: f"fails in {error.phase}"}
    what = f"{column.id} {verb.get(column.status, 'has no such setting')}"
    remedy = ""
    if problem := head_problem(spec, layout.tp):
        sizes = [tp for tp in good_tps(spec, layout.world) if tp <= layout.world]
        key = tp_key(intent.kind)
        why = f"{problem}. {why}"
        remedy = f"write {key.rpartition('.')[2]}: {sentence(sizes)}" if sizes else ""
    return Finding(Severity.ERROR, what, lines.where(key), why, remedy, evidence, key, "compare", True)


def _heads(column: FrameworkAnswer, intent: Intent, spec: ModelSpec, layout: Layout, lines: Lines) -> list[Finding]:
    """A tp size that cuts through heads, though nothing was raised at the small size."""
    problem = head_problem(spec, layout.tp)
    if not problem:
        return []
    key, sizes = tp_key(intent.kind), good_tps(spec, layout.world)
    why = f"{problem}: ranks get unequal parts of the heads, and {column.id} raises nothing"
    remedy = f"write {key.rpartition('.')[2]}: {sentence(sizes)}"
    return [Finding(Severity.WARNING, "tp cuts through heads", lines.where(key), why, remedy, [], key, "compare")]


def _stopped(column: FrameworkAnswer, error: Failure, intent: Intent, lines: Lines) -> Finding:
    key = _key(error, intent, lines)
    return Finding(
        Severity.ERROR, f"{column.id} stops before the first optimizer step", lines.where(key),
        f"{error.kind}: {error.message}{_caveat(column)}", "", [error.where] if error.where else [], key, "loop", True,
    )  # fmt: skip


def _key(error: Failure, intent: Intent, lines: Lines) -> str:
    """The key that a failure is about: one that its words name, else by what was going on, else the tp size."""
    if named := lines.named(error.message):
        return named
    text = f"{error.phase} {error.message} {error.where.symbol if error.where else ''}".lower()
    lora = "adapter" if intent.kind == "axolotl" else "peft"
    clip = "max_grad_norm" if intent.kind == "axolotl" else "clip_grad_norm"
    if "target modules" in text or "lora" in text:
        return "lora_target_modules" if "lora_target_modules" in lines.numbers else lora
    if "clip" in text and clip in lines.numbers:
        return clip
    return tp_key(intent.kind)


def _caveat(column: FrameworkAnswer) -> str:
    for item in column.environment.get("outside_pin", []):
        if item["package"] == "torch":
            return f" (seen on torch {item['version']}, outside the declared range {item['declared']})"
    return ""


def _selected(column: FrameworkAnswer) -> list[TrailLine]:
    """The last line of the selection: what gave the plan in force."""
    name = column.selection.function.rpartition(":")[2]
    found = [line for line in column.selection.trail if line.symbol == name or line.symbol.endswith(f".{name}")]
    return found[:1] or column.selection.trail[-1:]


def _lora(column: FrameworkAnswer, intent: Intent, lines: Lines) -> list[Finding]:
    key = "lora_target_modules" if "lora_target_modules" in lines.numbers else "peft.target_modules"
    if key not in lines.numbers:
        key = "adapter" if intent.kind == "axolotl" else "peft"
    if column.lora.requested and not column.lora.modules and column.lora.applied_by and intent.lora is not None:
        targets = ", ".join(intent.lora.targets) or "none named"
        names = linear_names(column)
        why = (
            f"{column.lora.applied_by} adapted 0 modules: nothing in {column.model_class.rpartition('.')[2]} is called "
        )
        return [
            Finding(
                Severity.ERROR, f"the adapter matches no module ({targets})", lines.where(key),
                f"{why}{targets}, so the run would train nothing",
                f"name modules that are there: {', '.join(names[:9])}", [], key, "compare", True,
            )
        ]  # fmt: skip
    return []


def _surprises(column: FrameworkAnswer, intent: Intent, lines: Lines) -> list[Finding]:
    """compare's own remarks on a single column: suspicions of wrong training as warnings, costs as notes."""
    found = []
    for difference in find([column]):
        if difference.subject in ("status", "first optimizer step"):
            continue
        if any(difference.subject == item["setting"] for item in column.ignored):
            continue
        key = "peft" if "LoRA" in difference.subject and intent.kind == "nemo" else tp_key(intent.kind)
        if "LoRA" in difference.subject and intent.kind == "axolotl":
            key = "adapter"
        weight = {Weight.WRONG: Severity.WARNING, Weight.BLOCKS: Severity.ERROR, Weight.IGNORED: Severity.WARNING}
        severity = weight.get(difference.severity, Severity.NOTE)
        meaning = difference.meaning.removeprefix(f"{column.id}: ").removeprefix(f"{column.id} ")
        remedy = "" if severity is Severity.NOTE else "prove it: run this check without --no-prove"
        found.append(Finding(severity, difference.subject, lines.where(key), meaning, remedy, [], key, "compare"))
    return found
