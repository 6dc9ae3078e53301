"""Datasets, prompt formats, and how long a sample may be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_LLM = "nemo_automodel.components.datasets.llm"
CHAT = f"{_LLM}.chat_dataset.ChatDataset"
COLUMNS = f"{_LLM}.column_mapped_text_instruction_dataset.ColumnMappedTextInstructionDataset"
MOCK = f"{_LLM}.mock_iterable_dataset.MockIterableDataset"
_ALPACA = {"context": "instruction", "question": "input", "answer": "output"}
_PROPERTIES = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})
PERCENT = re.compile(r"(?P<name>[\w./-]+)\[:(?P<share>\d+)%\]")
SPACED = "{input} {instruction} "
_TEMPLATES = ("tokenizer_default",)


@dataclass
class Read:
    """One dataset of Axolotl as NeMo takes it. `lost` has keys of the item that NeMo has nothing for."""

    target: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict = Verdict.DERIVED
    reason: str = ""
    lost: dict[str, tuple[Verdict, str]] = field(default_factory=dict)


def to_nemo(job: Job) -> None:
    """The first dataset that NeMo has a class for; a part of it, or `test_datasets`, for validation."""
    items = _items(job, "datasets")
    for key in ("pretraining_dataset",):
        for leaf in job.leaves:
            if leaf.path.startswith(key):
                why = "NeMo trains on raw text from token files (NanogptDataset, MegatronPretraining): write dataset"
                job.lose(leaf.path, why, Verdict.NEEDS_YOU)
    if items:
        found = _read(items[0], job)
        share = _validation_share(job, items[0], found)
        _write(job, "dataset", found, "datasets.0", items[0])
        _several(job, items, found)
        _validation(job, found, share)
    _template(job)
    masked = job.get("train_on_inputs")
    if masked is not None and "dataset.answer_only_loss_mask" in job.draft.written:
        why = "the loss counts answers only" if not masked else "the loss counts prompts too"
        job.say("train_on_inputs", Verdict.DERIVED, why, "dataset.answer_only_loss_mask", not masked)
    if masked is True:
        job.lose("train_on_inputs", "NeMo's ChatDataset masks whatever the assistant does not say", Verdict.NEEDS_YOU)
    if not job.get("val_set_size"):
        job.lose("val_set_size", "nothing is kept for validation", Verdict.EXACT)
    for leaf in job.leaves:
        job.lose(leaf.path, "NeMo's dataset classes have nothing like it")


def _items(job: Job, key: str) -> list[dict[str, Any]]:
    value = job.source.plain.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _read(item: dict[str, Any], job: Job) -> Read:
    kind = item.get("type")
    found = Read(arguments=_where(item))
    if isinstance(kind, str) and kind.split(".")[0] == "chat_template":
        found.target = CHAT
        found.reason = (
            "the tokenizer's chat template in both; which end-of-turn tokens count in the loss is the template's"
        )
        found.verdict = Verdict.APPROXIMATED
        _chat(item, found)
    elif isinstance(kind, dict):
        found.target = COLUMNS
        found.verdict, found.reason = _custom(kind, found)
    elif isinstance(kind, str) and kind.split(":")[0].split(".")[0] in ("alpaca", "alpaca_chat"):
        found.target, found.verdict = COLUMNS, Verdict.APPROXIMATED
        found.arguments["column_mapping"] = dict(_ALPACA)
        found.reason = "the same columns joined by spaces, without Alpaca's sentences around them"
    elif kind == "_synthetic":
        found.target, found.verdict = MOCK, Verdict.APPROXIMATED
        found.arguments = {"num_samples": item.get("length", 1000)}
        if item.get("sequence_length") is not None:
            found.arguments["seq_len"] = item["sequence_length"]
        if item.get("max_input_id") is not None:
            found.arguments["vocab_size"] = item["max_input_id"]
        found.reason = "random tokens, drawn otherwise"
    else:
        found.verdict, found.arguments = Verdict.NEEDS_YOU, {}
        found.reason = f"NeMo has no dataset class for {kind}: write dataset, with a class of yours or of NeMo's"
    if found.target == COLUMNS:
        found.arguments["answer_only_loss_mask"] = not job.get("train_on_inputs")
    return found


def _where(item: dict[str, Any]) -> dict[str, Any]:
    """Path, split and subset."""
    files = item.get("data_files")
    path = files if files and item.get("path") in ("json", "parquet", None) else item.get("path")
    found: dict[str, Any] = {"path_or_dataset_id": path, "split": item.get("split") or "train"}
    if item.get("name"):
        found["name"] = item["name"]
    return found


def _chat(item: dict[str, Any], found: Read) -> None:
    """What NeMo's ChatDataset does by itself, and what it cannot be told."""
    messages = item.get("field_messages") or "messages"
    if messages not in ("messages", "conversations"):
        found.lost["field_messages"] = (
            Verdict.NEEDS_YOU,
            "ChatDataset reads messages, or conversations in ShareGPT's form",
        )
    mapping = item.get("message_property_mappings")
    if isinstance(mapping, dict) and mapping not in _PROPERTIES:
        for key in mapping:
            found.lost[f"message_property_mappings.{key}"] = (
                Verdict.NEEDS_YOU,
                "ChatDataset reads role/content or from/value",
            )
    if item.get("roles_to_train") not in (None, ["assistant"]):
        found.lost["roles_to_train"] = Verdict.NEEDS_YOU, "ChatDataset trains on what the assistant says"
    if item.get("chat_template_jinja"):
        found.arguments["chat_template"] = item["chat_template_jinja"]
    for key in ("train_on_eos", "train_on_eot"):
        if item.get(key) not in (None, "turn"):
            found.lost[key] = Verdict.APPROXIMATED, "in NeMo the template decides which end tokens count"


def _custom(kind: dict[str, Any], found: Read) -> tuple[Verdict, str]:
    question, context = kind.get("field_instruction") or "instruction", kind.get("field_input")
    mapping = {"context": context} if context else {}
    mapping |= {"question": question, "answer": kind.get("field_output") or "output"}
    found.arguments["column_mapping"] = mapping
    wanted = SPACED if context else "{instruction} "
    if kind.get("format") in (wanted, None) and not kind.get("system_prompt"):
        return Verdict.APPROXIMATED, "the same text; Axolotl cuts prompt and answer into tokens apart, NeMo together"
    return Verdict.NEEDS_YOU, f"NeMo joins the columns by spaces, as {wanted!r}: another prompt than format asks for"


def _write(job: Job, section: str, found: Read, place: str, item: dict[str, Any]) -> None:
    """Put one dataset into a section, and say what became of each key of the item."""
    leaves = [leaf.path for leaf in job.leaves if leaf.path.startswith(f"{place}.")]
    for path in leaves:
        inner = path.removeprefix(f"{place}.")
        if inner in found.lost:
            job.lose(path, found.lost[inner][1], found.lost[inner][0])
    types = [path for path in leaves if path.removeprefix(f"{place}.").split(".")[0] == "type"]
    if not found.target:
        for path in leaves:
            job.lose(path, found.reason, found.verdict)
        return
    job.put(f"{section}._target_", found.target, found.verdict, types, found.reason)
    origin = {"path_or_dataset_id": ["path", "data_files"], "split": ["split"], "name": ["name"],
              "chat_template": ["chat_template_jinja"], "num_samples": ["length"], "seq_len": ["sequence_length"],
              "vocab_size": ["max_input_id"]}  # fmt: skip
    for key, value in found.arguments.items():
        of = [f"{place}.{name}" for name in origin.get(key, []) if item.get(name) is not None]
        same = len(of) == 1 and item.get(origin[key][0]) == value
        kept = job.source.object(of[0]) if same else value
        verdict = Verdict.RENAMED if same else Verdict.DERIVED
        job.put(f"{section}.{key}", kept, verdict, of, "" if same else "as it is read there")
    told = ("field_messages", "message_property_mappings", "roles_to_train", "train_on_eos", "train_on_eot", "roles",
            "chat_template", "message_field_role", "message_field_content", "ds_type", "path")  # fmt: skip
    for path in leaves:
        inner = path.removeprefix(f"{place}.").split(".")[0]
        if inner == "chat_template" and item.get(inner) not in (*_TEMPLATES, "jinja"):
            job.lose(path, _named_template(item[inner]), Verdict.APPROXIMATED)
        elif inner == "roles":
            job.lose(path, "ChatDataset reads the usual names of roles", Verdict.APPROXIMATED)
        elif inner in told:
            job.lose(path, "what NeMo's class does by itself", Verdict.DERIVED)
        job.lose(path, "NeMo's class has no such argument", Verdict.NEEDS_YOU)


def _named_template(name: Any) -> str:
    return f"{name} is a template of Axolotl's own; NeMo takes the tokenizer's, or a text in dataset.chat_template"


def _validation_share(job: Job, item: dict[str, Any], found: Read) -> str:
    """Cut the training split where `val_set_size` asks for it; what is left is the validation split, "" for none."""
    size = job.get("val_set_size")
    if not size or not found.target or found.target == MOCK:
        if size and found.target == MOCK:
            job.lose("val_set_size", "write validation_dataset", Verdict.NEEDS_YOU)
        return ""
    split = str(found.arguments.get("split") or "train")
    local = found.target == COLUMNS and (item.get("data_files") or str(item.get("path")).startswith((".", "/", "~")))
    if "[" in split or "+" in split or local:
        why = "a share of a split that is cut already, or of a local file: write validation_dataset"
        job.lose("val_set_size", why, Verdict.NEEDS_YOU)
        return ""
    at = f"{100 - round(100 * size)}%" if isinstance(size, float) and size < 1 else f"-{int(size)}"
    found.arguments["split"] = f"{split}[:{at}]"
    return f"{split}[{at}:]"


def _validation(job: Job, train: Read, share: str) -> None:
    tests = _items(job, "test_datasets")
    if tests:
        found = _read(tests[0], job)
        _write(job, "validation_dataset", found, "test_datasets.0", tests[0])
        for index in range(1, len(tests)):
            for leaf in job.leaves:
                if leaf.path.startswith(f"test_datasets.{index}."):
                    why = "write validation_dataset_NAME for each further one"
                    job.lose(leaf.path, why, Verdict.NEEDS_YOU)
    elif share:
        why = "the last part of the split, where Axolotl draws at random"
        arguments = {**train.arguments, "split": share}
        job.put("validation_dataset._target_", train.target, Verdict.APPROXIMATED, "val_set_size", why)
        for key, value in arguments.items():
            job.put(f"validation_dataset.{key}", value, Verdict.DERIVED, reason="as the training data")


def _several(job: Job, items: list[dict[str, Any]], first: Read) -> None:
    if len(items) < 2:
        return
    rest = [_read(item, job) for item in items[1:]]
    local = [str(read.arguments.get("path_or_dataset_id")) for read in (first, *rest)]
    alike = all({**read.arguments, "path_or_dataset_id": 0} == {**first.arguments, "path_or_dataset_id": 0}
                and read.target == first.target for read in rest)  # fmt: skip
    files = alike and all(name.endswith((".json", ".jsonl")) for name in local)
    if files:
        job.draft.written["dataset.path_or_dataset_id"].value = local
    for index in range(1, len(items)):
        for leaf in job.leaves:
            if leaf.path.startswith(f"datasets.{index}."):
                if files:
                    job.say(leaf.path, Verdict.DERIVED, "one of several files", "dataset.path_or_dataset_id", local)
                else:
                    job.lose(leaf.path, "NeMo reads one dataset, or several local files of one form: join them",
                             Verdict.NEEDS_YOU)  # fmt: skip


def _template(job: Job) -> None:
    name = job.get("chat_template")
    text = job.get("chat_template_jinja")
    chat = "dataset._target_" in job.draft.written and job.draft.written["dataset._target_"].value == CHAT
    if text and chat:
        job.put(
            "dataset.chat_template", job.source.object("chat_template_jinja"), Verdict.RENAMED, "chat_template_jinja"
        )
    if not chat:
        why = "no dataset here has chats"
        for key in ("chat_template", "chat_template_jinja"):
            job.lose(key, why, Verdict.DROPPED)
    elif name in _TEMPLATES or name == "jinja":
        job.say("chat_template", Verdict.DERIVED, "the tokenizer's own, or the text beside it")
    else:
        job.lose("chat_template", _named_template(name), Verdict.APPROXIMATED)
