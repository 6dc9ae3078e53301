"""The ways people train, one small entry each. They combine: `lora+sequence-parallel`."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, fields, replace
from typing import Any

from tpscope.errors import UserError
from tpscope.language.layout import Lora
from tpscope.language.proof import Scenario

DROPOUT = 0.1
_DEFAULT = Scenario()
_TEXT = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class Entry:
    """One scenario: what it changes in `language.proof.Scenario`, and one sentence about what it proves."""

    changes: dict[str, Any]
    proves: str


TABLE: dict[str, Entry] = {
    "plain": Entry({}, "forward, loss and every gradient of one step are those of the unsharded model"),
    "sequence-parallel": Entry(
        {"sequence_parallel": True}, "the same with activations sharded over the sequence between the sharded blocks"
    ),
    "accumulate": Entry(
        {"micro_batches": 3}, "gradients of three micro-batches add up, each counted once, over all their labels"
    ),
    "checkpoint": Entry({"checkpointing": True}, "recomputed activations give the same gradients"),
    "lora": Entry(
        {"lora": Lora(4, 8, ("all-linear",))},
        "adapters of the right size get the right gradients, and only what should train trains",
    ),
    "tied": Entry({"tied": True}, "embedding and head stay one weight, with one gradient"),
    "dropout": Entry(
        {"dropout": DROPOUT}, "masks are equal over tp where activations are replicated, different where sharded"
    ),
    "lora-dropout": Entry(
        {"lora": Lora(4, 8, ("all-linear",), DROPOUT, "pre"), "dropout": DROPOUT},
        "LoRA with its dropout before A, as PEFT has it: one mask for an activation that all tp ranks hold",
    ),
    "data": Entry({"data": True}, "tp ranks get the same batches from the framework's own loader, dp ranks other ones"),
    "fsdp": Entry({"dp_shard": 2}, "tp and FSDP together: two data ranks that share one sharded copy"),
    "cp": Entry({"cp": 2}, "tp and context parallel together: two ranks that share each sequence"),
    "pp": Entry({"pp": 2}, "tp and pipeline parallel together: two stages"),
    "clip": Entry({"clip": 0.5}, "the gradient norm that the loop computes, and the gradients clipped by it"),
    "step": Entry({"steps": 2}, "parameters after two AdamW steps, the same on all ranks that hold them"),
    "resume": Entry({"resume": True}, "what is saved is the whole model, and loads back to what was trained"),
    "compile": Entry({"compile": True}, "the same under torch.compile"),
    "mask": Entry({"mask": "padding"}, "padded samples, left out by the attention mask and by the loss"),
    "packed": Entry({"mask": "packed"}, "several samples in one row, their position ids starting anew"),
}


def parse(text: str) -> Scenario:
    """The scenario that `lora+sequence-parallel` spells; names in any order. Raises UserError on an unknown name."""
    names = sorted({name.strip() for name in text.split("+")} - {"plain"})
    scenario = replace(_DEFAULT, name="+".join(names) or "plain")
    said: dict[str, str] = {}
    for name in names:
        for key, value in _entry(name, text).changes.items():
            if key in said:
                raise UserError(f"--scenarios {text}: {said[key]} and {name} cannot be combined; name one of them")
            said[key] = name
            scenario = replace(scenario, **{key: value})
    if scenario.lora is not None and scenario.dropout:
        scenario = replace(scenario, lora=replace(scenario.lora, dropout=scenario.dropout))
    return scenario


def parse_all(text: str) -> list[Scenario]:
    """The scenarios of a comma-separated list, in order, without duplicates; `plain` if it is empty."""
    found = [parse(part) for part in text.split(",") if part.strip()] or [_DEFAULT]
    return list({scenario.name: scenario for scenario in found}.values())


def _entry(name: str, text: str) -> Entry:
    if name in TABLE:
        return TABLE[name]
    close = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(TABLE)}"
    raise UserError(f"--scenarios {text}: there is no scenario {name!r}; {hint}")


def applied(config: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """A config with what the scenario sets in it: tied weights, dropout. `config` itself is left as it is."""
    changed = copy.deepcopy(config)
    if scenario.tied is not None:
        changed["tie_word_embeddings"] = scenario.tied
        for part in _parts(changed):
            if "tie_word_embeddings" in part:
                part["tie_word_embeddings"] = scenario.tied
    if scenario.dropout:
        parts = [changed, *_parts(changed)]
        known = [(part, key) for part in parts for key, value in part.items() if _is_dropout(key, value)]
        # A class that has the setting reads it from its config, whether or not the published one writes it.
        for part, key in known or [(parts[-1], "attention_dropout")]:
            part[key] = scenario.dropout
    return changed


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [config[key] for key in _TEXT if isinstance(config.get(key), dict)]


def _is_dropout(key: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return ("dropout" in key or key.endswith("pdrop")) and not key.startswith("classifier")


def unlike_plain(scenario: Scenario) -> dict[str, Any]:
    """The fields in which a scenario differs from plain tensor parallelism."""
    names = [item.name for item in fields(Scenario) if item.name != "name"]
    return {name: value for name in names if (value := getattr(scenario, name)) != getattr(_DEFAULT, name)}
