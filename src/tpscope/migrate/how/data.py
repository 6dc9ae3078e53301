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
_PERCENT = re.compile(r"(?P<name>[\w./-]+)\[:(?P<share>\d+)%\]")
_SPACED = "{input} {instruction} "
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
    for leaf in job.leaves:
        job.lose(leaf.path)


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
    wanted = _SPACED if context else "{instruction} "
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
        "format": _SPACED if context else "{instruction} ", "no_input_format": "{instruction} ",
    }  # fmt: skip


def _shared(job: Job, part: dict[str, Any]) -> tuple[str, float] | None:
    """The whole split and the share that is validated on, where both sections cut one split in two."""
    other = job.source.plain.get("validation_dataset")
    if not isinstance(other, dict) or _same(part) != _same(other):
        return None
    train, test = str(part.get("split")), str(other.get("split"))
    if (found := _PERCENT.fullmatch(train)) and test == f"{found['name']}[{found['share']}%:]":
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


def length_to_nemo(job: Job) -> None:
    """The longest sample, and packing."""
    length = job.get("sequence_len")
    of = "sequence_len" if length is not None else ""
    kept: Any = job.source.object("sequence_len") if isinstance(job.source.get("sequence_len"), int) else length or 512
    cut = job.get("excess_length_strategy") == "truncate"
    target = job.draft.written.get("dataset._target_")
    takes = target is not None and target.value in (CHAT, COLUMNS)
    if job.get("sample_packing"):
        _packed(job, kept, of)
    elif takes:
        verdict = Verdict.DERIVED if cut else Verdict.APPROXIMATED
        why = "what is longer is cut in both" if cut else "NeMo cuts what is longer, Axolotl drops such samples"
        job.put("dataset.seq_length", kept, verdict, of, why)
    else:
        job.lose("sequence_len", "it belongs into dataset, which waits for you", Verdict.NEEDS_YOU)
    if takes and (cut or not job.get("sample_packing")):
        if job.get("sample_packing"):
            job.put("dataset.seq_length", kept, Verdict.DERIVED, reason="the length at which samples are cut")
        of = "excess_length_strategy" if job.leaf("excess_length_strategy") else ""
        job.put("dataset.truncation", True, Verdict.DERIVED, of if cut else "", "so that a batch never is longer")
        _like_training(job)
    if job.get("pad_to_sequence_len") and takes and not job.get("sample_packing"):
        job.put("dataset.padding", "max_length", Verdict.DERIVED, "pad_to_sequence_len", "every sample at full length")
    job.lose("pad_to_sequence_len", "packs are filled up in both", Verdict.DERIVED)
    job.lose("excess_length_strategy", "what is longer than a pack is dropped in both", Verdict.DERIVED)
    job.lose("eval_sample_packing", "NeMo packs validation where it packs training", Verdict.APPROXIMATED)
    for leaf in job.leaves:
        job.lose(leaf.path)


def _packed(job: Job, length: Any, of: str) -> None:
    why = "the length of a pack, of which a micro-batch has micro_batch_size"
    job.put("packed_sequence.packed_sequence_size", length, Verdict.DERIVED, of, why)
    why = "whole samples packed, each attending to itself, too long ones dropped in both; which samples meet differs"
    job.put("packed_sequence.packing_strategy", "neat", Verdict.APPROXIMATED, "sample_packing", why)


def _like_training(job: Job) -> None:
    if "validation_dataset._target_" in job.draft.written:
        for key in ("seq_length", "truncation"):
            value = job.draft.written[f"dataset.{key}"].value
            job.put(f"validation_dataset.{key}", value, Verdict.DERIVED, reason="as the training data")


def length_to_axolotl(job: Job) -> None:
    """Packs, else the length that the dataset cuts at."""
    size = job.get("packed_sequence.packed_sequence_size")
    packed = isinstance(size, int) and size > 0
    path, length = job.first("dataset.seq_length", "dataset.seq_len", "dataset.max_length")
    if packed:
        at = "packed_sequence.packed_sequence_size"
        job.put("sequence_len", job.source.object(at), Verdict.DERIVED, at, "the length of a pack")
        strategy = "packed_sequence.packing_strategy"
        why = "whole samples packed, each attending to itself; which samples meet differs"
        job.put("sample_packing", True, Verdict.APPROXIMATED, strategy if job.leaf(strategy) else "", why)
    elif length is not None:
        cut = job.get("dataset.truncation") not in (None, False, "do_not_truncate")
        why = "what is longer is cut in both" if cut else "Axolotl drops what is longer; NeMo leaves it"
        kept = job.source.object(path) if isinstance(job.source.get(path), int) else length
        job.put("sequence_len", kept, Verdict.DERIVED if cut else Verdict.APPROXIMATED, path, why)
    else:
        why = "NeMo takes samples as long as they are, Axolotl must be told the longest: 2048 is a guess"
        job.put("sequence_len", 2048, Verdict.NEEDS_YOU, reason=why)
    if job.get("dataset.truncation") not in (None, False, "do_not_truncate"):
        job.put("excess_length_strategy", "truncate", Verdict.DERIVED, "dataset.truncation", "what is longer is cut")
    job.lose("dataset.truncation", "nothing is cut", Verdict.DERIVED)
    full = job.get("dataset.padding") == "max_length" or job.get("dataset.pad_to_max_length") is True
    if full and not packed:
        of = next(key for key in ("dataset.padding", "dataset.pad_to_max_length") if job.leaf(key))
        job.put("pad_to_sequence_len", True, Verdict.DERIVED, of, "every sample at full length")
    for leaf in job.leaves:
        job.lose(leaf.path, "said by the training data", Verdict.DERIVED)
