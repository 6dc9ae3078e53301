"""25 mistakes, each in a config that is good without it: every one is reported; 40 good configs are clean."""

import copy

import pytest
import yaml
from batch import files, world_of

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.migrate.checks import Side, model_of, pitfalls
from tpscope.migrate.convert import OTHER, convert, ranks_of
from tpscope.migrate.result import Standing, Verdict
from tpscope.migrate.source import plain_of, read
from tpscope.migrate.write import text_of

AXOLOTL = {
    "base_model": "meta-llama/Llama-3.1-8B", "datasets": [{"path": "our/notes", "type": "alpaca"}], "max_steps": 100,
    "micro_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 1e-4, "optimizer": "adamw_torch",
}  # fmt: skip
CHAT = "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset"
NEMO = {
    "model": {
        "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": "meta-llama/Llama-3.1-8B",
    },
    "distributed": {"strategy": "fsdp2"}, "step_scheduler": {"global_batch_size": 32, "local_batch_size": 2},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4},
    "dataset": {"_target_": CHAT, "path_or_dataset_id": "our/talks", "split": "train"},
}  # fmt: skip
TIED = "meta-llama/Llama-3.2-1B"
# What is changed (a dotted path and a value), and how it is reported: unknown, needs you, refused or pitfall.
MISTAKES = [
    ("axolotl", {"tensor_paralel_size": 2}, "unknown"),
    ("axolotl", {"lora_alfa": 16}, "unknown"),
    ("axolotl", {"gradient_acumulation_steps": 2}, "unknown"),
    ("axolotl", {"learning_rat": 1e-3}, "unknown"),
    ("axolotl", {"sample_paking": True}, "unknown"),
    ("axolotl", {"warmup_step": 5}, "unknown"),
    ("axolotl", {"wandb_projekt": "ours"}, "unknown"),
    ("nemo", {"distributed.tp_sise": 2}, "unknown"),
    ("nemo", {"step_scheduler.globl_batch_size": 8}, "unknown"),
    ("nemo", {"checkpont.checkpoint_dir": "runs"}, "unknown"),
    ("nemo", {"lr_scheduler.lr_warmup_stps": 10}, "unknown"),
    ("nemo", {"loss_function._target_": "torch.nn.CrossEntropyLoss"}, "unknown"),
    ("nemo", {"step_scheduler.global_batch_size": 30}, "needs you"),
    ("nemo", {"distributed.dp_size": 6, "distributed.dp_replicate_size": 4, "_world": 6}, "needs you"),
    ("nemo", {"distributed.pp_size": 2, "distributed.pipeline.pp_schedule": "1f1b"}, "needs you"),
    ("nemo", {"optimizer._target_": "torch.optim.NoSuch"}, "needs you"),
    ("nemo", {"lr_scheduler.lr_decay_style": "cosin"}, "needs you"),
    ("axolotl", {"optimizer": "adamw_torh"}, "needs you"),
    ("axolotl", {"lr_scheduler": "cosinus"}, "needs you"),
    ("axolotl", {"datasets": [{"path": "our/notes", "type": "alpacca"}]}, "needs you"),
    ("axolotl", {"num_epochs": 0.5, "max_steps": None}, "needs you"),
    ("axolotl", {"tensor_parallel_size": 3}, "refused"),
    ("nemo", {"distributed.tp_size": 5}, "refused"),
    ("nemo", {"distributed.dp_size": 4, "distributed.tp_size": 4}, "refused"),
    ("nemo", {"distributed.tp_size": 2, "model.pretrained_model_name_or_path": TIED}, "pitfall"),
]


def changed(data, changes):
    made = copy.deepcopy(data)
    for path, value in changes.items():
        *parents, name = path.split(".")
        node = made
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = value
    return made


def reports(path, world=8):
    """What is said of a file: the kinds of reports that would make a user look."""
    try:
        source = read(path)
        draft, unknown = convert(source, ranks_of(source, world))
    except UserError:
        return {"refused"}
    said = {"unknown"} if unknown else set()
    said |= {"needs you" for field in draft.fields if field.verdict is Verdict.NEEDS_YOU}
    data = plain_of(text_of(draft, source, unknown))
    spec, _ = model_of(path)
    names = {"nemo": "nemo@0.7.0", "axolotl": "axolotl@0.19.0"}
    side = Side(OTHER[source.kind], registry.parse(names[OTHER[source.kind]]), data, "the output")
    said |= {"pitfall" for check in pitfalls(side, spec, world) if check.standing is Standing.FAILED}
    return said


@pytest.mark.parametrize(
    ("kind", "mistake", "how"), MISTAKES, ids=[f"{kind}: {next(iter(m))}" for kind, m, _ in MISTAKES]
)
def test_a_mistake_is_reported(kind, mistake, how, tmp_path):
    mistake = dict(mistake)
    world = mistake.pop("_world", 8)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(changed(AXOLOTL if kind == "axolotl" else NEMO, mistake)))
    assert how in reports(path, world)


def test_there_are_25_mistakes():
    assert len(MISTAKES) == 25


@pytest.mark.parametrize("data", [AXOLOTL, NEMO], ids=["axolotl", "nemo"])
def test_the_config_that_mistakes_are_put_into_is_clean(data, tmp_path):
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(data | ({"sequence_len": 512} if data is AXOLOTL else {})))
    if data is NEMO:
        good = changed(NEMO, {"dataset.seq_length": 512})
        path.write_text(yaml.safe_dump(good))
    assert not reports(path)


# What asks on purpose for something that the other side has not.
ASKING = (
    "pipeline",
    "dpo",
    "streaming",
    "completion",
    "two-datasets",
    "lora-saved-modules",
    "lora-plus",
    "rex",
    "frozen",
)


def test_40_good_configs_pass_clean():
    good = [path for path in [*files("axolotl"), *files("nemo")] if path.stem not in ASKING]
    # What needs the user (a length of data that no file has) is no mistake.
    loud = {path.name: said for path in good if (said := reports(path, world_of(path)) - {"needs you"})}
    assert not loud
    assert len(good) >= 40
