"""From what a user typed (and the YAML they train with) to a question."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpscope.compare.run import Question
from tpscope.errors import UserError
from tpscope.frameworks.targets import plan_file
from tpscope.language.layout import AXES, Layout, Lora
from tpscope.models.read import read
from tpscope.models.spec import Intent


@dataclass(frozen=True)
class Wishes:
    """Flags of the command line; None where the user said nothing."""

    tp: int | None = None
    pp: int | None = None
    dp_shard: int | None = None
    dp_replicate: int | None = None
    cp: int | None = None
    world: int | None = None
    sequence_parallel: bool | None = None
    lora: str | None = None
    custom_plan: str | None = None
    trust_remote_code: bool = False


def question(text: str, wishes: Wishes) -> Question:
    """Read INPUT and put the flags over what it says. Raises UserError."""
    spec, intent = read(text, wishes.trust_remote_code)
    layout = _layout(wishes, intent)
    plan = plan_file(wishes.custom_plan) if wishes.custom_plan else None
    notes = list(intent.notes)
    if plan is None and intent.custom_plan:
        notes.append(f"the plan {intent.custom_plan} of the file is not run here; hand it over with --custom-plan")
    if spec.status == "unconfirmed":
        notes.append(f"the configuration of {spec.name} is unconfirmed: {' '.join(spec.notes)}")
    return Question(
        spec,
        layout,
        _lora(wishes.lora) if wishes.lora else intent.lora,
        plan,
        {"kind": intent.kind, "settings": intent.settings},
        tuple(notes),
    )


def _layout(wishes: Wishes, intent: Intent) -> Layout:
    flags = {axis: getattr(wishes, axis) for axis in AXES if getattr(wishes, axis) is not None}
    sizes = {axis: getattr(intent.layout, axis) for axis in AXES} | flags
    stated = set(intent.stated) | set(flags)
    sequence = wishes.sequence_parallel
    if sequence is None:
        sequence = bool(intent.sequence_parallel)
    layout = Layout(**sizes, sequence_parallel=sequence)
    world = wishes.world or intent.world
    if world is None or layout.world == world:
        return layout
    if "dp_shard" not in stated and world % (layout.world // layout.dp_shard) == 0:
        return replace(layout, dp_shard=world // (layout.world // layout.dp_shard))
    said = " x ".join(f"{axis}={size}" for axis, size in layout.sizes.items() if size > 1) or "tp=1"
    raise UserError(
        f"--world {world}: the layout {said} multiplies to {layout.world}; change an axis, or leave --dp-shard out to "
        "have it filled in"
    )


def _lora(text: str) -> Lora:
    """Read `r=16,targets=all-linear,alpha=32,dropout=0.05`; several targets are joined by `+`."""
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in ("r", "alpha", "targets", "dropout"):
            raise UserError(f"--lora {text}: {part!r} is not one of r=, alpha=, targets=, dropout=")
        found[key.strip()] = value.strip()
    try:
        r = int(found.get("r", "16"))
        alpha, dropout = int(found.get("alpha", str(2 * r))), float(found.get("dropout", "0"))
    except ValueError as error:
        raise UserError(f"--lora {text}: r and alpha are whole numbers, dropout a fraction ({error})") from error
    if r < 1 or alpha < 1 or not 0 <= dropout < 1:
        raise UserError(f"--lora {text}: r and alpha are at least 1, dropout is in [0, 1)")
    return Lora(r, alpha, tuple(found.get("targets", "all-linear").split("+")), dropout)
