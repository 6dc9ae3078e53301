"""NeMo's dataset classes to Axolotl's datasets."""

from __future__ import annotations

import re
from typing import Any

from tpscope.migrate.how.data import PERCENT, SPACED
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict


def to_axolotl(job: Job) -> None:
    """NeMo's dataset class to a path and a type."""
    said = job.source.plain.get("dataset")
    part = said if isinstance(said, dict) else {}
    item, verdict, why = _item(part)
    share = _shared(job, part)
    if share is not None:
        item["split"] = share[0]
    _put_item(job, "datasets", "dataset", item, verdict, why)
    if share is not None:
        of: list[str] | str = [leaf.path for leaf in job.leaves if leaf.path.startswith("validation_dataset.")]
        same = "what is cut off the training split, drawn at random instead"
        job.put("val_set_size", share[1], Verdict.APPROXIMATED, of, same)
    else:
        _tests(job)
    mask = job.get("dataset.answer_only_loss_mask")
    columns = str(part.get("_target_", "")).endswith(("ColumnMappedTextInstructionDataset",))
    if columns and "train_on_inputs" not in job.draft.written:
        of = "dataset.answer_only_loss_mask" if mask is not None else ""
        why = "the loss counts prompts too" if mask is False else "the loss counts answers only"
        job.put("train_on_inputs", mask is False, Verdict.DERIVED, of, why)
    if part.get("chat_template"):
        job.put("chat_template", "jinja", Verdict.DERIVED, reason="the text beside it")
        text = job.source.object("dataset.chat_template")
        job.put("chat_template_jinja", text, Verdict.RENAMED, "dataset.chat_template")
    for leaf in job.leaves:
        job.lose(leaf.path, "", Verdict.NEEDS_YOU)


def _item(part: dict[str, Any]) -> tuple[dict[str, Any], Verdict, str]:
    name = str(part.get("_target_") or "").rpartition(".")[2].removesuffix("Config")
    path = next((part[key] for key in ("path_or_dataset_id", "path_or_dataset", "dataset_name") if part.get(key)), None)
    item: dict[str, Any] = {"path": path[0] if isinstance(path, list) and path else path}
    for key in ("split", "name"):
        if part.get(key):
            item[key] = part[key]
    if name == "ChatDataset":
        item["split"] = part.get("split") or "train"
        item["type"] = "chat_template"
        why = "the tokenizer's chat template in both; which end-of-turn tokens count in the loss is the template's"
        return item, Verdict.APPROXIMATED, why
    if name == "ColumnMappedTextInstructionDataset":
        return (
            {**item, "type": _columns(part.get("column_mapping") or {})},
            Verdict.APPROXIMATED,
            ("the same text; Axolotl cuts prompt and answer into tokens apart, NeMo together"),
        )
    if name.startswith("MockIterable") or name.startswith("build_unpacked") or name.startswith("Mock"):
        made: dict[str, Any] = {"path": "synthetic", "type": "_synthetic", "length": part.get("num_samples", 1000)}
        if part.get("seq_len"):
            made["sequence_length"] = part["seq_len"]
        if part.get("vocab_size"):
            made["max_input_id"] = part["vocab_size"]
        return made, Verdict.APPROXIMATED, "random tokens, drawn otherwise"
    item = {"path": item["path"] or "path/of/your/data", **{k: v for k, v in item.items() if k != "path"}}
    item["type"] = "completion"
    what = name or "no dataset"
    return item, Verdict.NEEDS_YOU, f"Axolotl has nothing like {what}: say which type and fields the data have"


def _columns(mapping: dict[str, Any]) -> dict[str, Any]:
    context, question, answer = (mapping.get(key) for key in ("context", "question", "answer"))
    if question is None:
        context, question = None, context
    return {
        "field_instruction": question, "field_input": context or "", "field_output": answer,
        "format": SPACED if context else "{instruction} ", "no_input_format": "{instruction} ",
    }  # fmt: skip


def _shared(job: Job, part: dict[str, Any]) -> tuple[str, float] | None:
    """The whole split and the share that is validated on, where both sections cut one split in two."""
    other = job.source.plain.get("validation_dataset")
    if not isinstance(other, dict) or _same(part) != _same(other):
        return None
    train, test = str(part.get("split")), str(other.get("split"))
    if (found := PERCENT.fullmatch(train)) and test == f"{found['name']}[{found['share']}%:]":
        return found["name"], round(1 - int(found["share"]) / 100, 4)
    if (found := re.fullmatch(r"([\w./-]+)\[:-(\d+)\]", train)) and test == f"{found[1]}[-{found[2]}:]":
        return found[1], int(found[2])
    return None


def _same(part: dict[str, Any]) -> dict[str, Any]:
    """What tells one dataset from another: not its split, nor how long its samples may be."""
    apart = ("split", "tokenizer", "seq_length", "truncation", "padding")
    return {key: value for key, value in part.items() if key not in apart}


def _put_item(job: Job, target: str, section: str, item: dict[str, Any], verdict: Verdict, why: str) -> None:
    leaves = [leaf.path for leaf in job.leaves if leaf.path.startswith(f"{section}.")]
    main = [path for path in leaves if path.endswith("._target_") or ".column_mapping." in path]
    job.put(target, [item], verdict, main, why)
    for path in leaves:
        key = path.removeprefix(f"{section}.")
        if key in ("path_or_dataset_id", "path_or_dataset", "dataset_name", "split", "name") and item.get("path"):
            value = job.get(path)
            many = isinstance(value, list) and len(value) > 1
            told = "Axolotl wants an entry of datasets for each file" if many else ""
            name = key if key in ("split", "name") else "path"
            job.say(path, Verdict.NEEDS_YOU if many else Verdict.RENAMED, told, f"{target}[].{name}", value)
        elif key in ("num_samples", "seq_len", "vocab_size") and item.get("type") == "_synthetic":
            job.say(path, Verdict.DERIVED, "part of the synthetic data")


def _tests(job: Job) -> None:
    said = job.source.plain.get("validation_dataset")
    if not isinstance(said, dict):
        for leaf in job.leaves:
            if leaf.path.startswith("validation_dataset"):
                job.lose(leaf.path)
        return
    item, verdict, why = _item(said)
    if item.get("type") == "_synthetic":
        for leaf in job.leaves:
            if leaf.path.startswith("validation_dataset."):
                job.lose(leaf.path, "random tokens are not validated on in Axolotl", Verdict.DROPPED)
        return
    _put_item(job, "test_datasets", "validation_dataset", item, verdict, why)
