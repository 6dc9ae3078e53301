"""What becomes of single fields, each with what would be wrong beside it."""

import pytest
import yaml

from tpscope.errors import UserError
from tpscope.migrate.convert import convert, ranks_of
from tpscope.migrate.result import Verdict
from tpscope.migrate.source import plain_of, read, stated
from tpscope.migrate.write import may, number_text, put, text_of

AXOLOTL = {
    "base_model": "meta-llama/Llama-3.1-8B", "datasets": [{"path": "our/notes", "type": "alpaca"}],
    "micro_batch_size": 2, "gradient_accumulation_steps": 4, "learning_rate": 1e-4, "optimizer": "adamw_torch",
}  # fmt: skip
NEMO = {
    "model": {"pretrained_model_name_or_path": "meta-llama/Llama-3.1-8B"}, "distributed": {"strategy": "fsdp2"},
    "step_scheduler": {"global_batch_size": 32, "local_batch_size": 2}, "optimizer": {"_target_": "torch.optim.AdamW"},
    "dataset": {"_target_": "nemo_automodel.components.datasets.llm.chat_dataset.ChatDataset"},
}  # fmt: skip


def moved(data, folder, world=8, samples=None):
    path = folder / "config.yml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    source = read(path)
    draft, unknown = convert(source, ranks_of(source, world), samples)
    return text_of(draft, source, unknown), draft, unknown


def verdict(draft, source):
    return next(field.verdict for field in draft.fields if field.source == source)


def value(text, path):
    return stated(plain_of(text), path)


@pytest.mark.parametrize(("world", "tp", "whole"), [(8, 1, 64), (8, 2, 32), (2, 2, 8)])
def test_the_global_batch_counts_micro_batches_and_data_ranks(tmp_path, world, tp, whole):
    text, draft, _ = moved(AXOLOTL | {"tensor_parallel_size": tp}, tmp_path, world)
    assert value(text, "step_scheduler.global_batch_size") == whole
    assert verdict(draft, "gradient_accumulation_steps") is Verdict.DERIVED


def test_without_a_number_of_ranks_there_is_no_batch(tmp_path):
    with pytest.raises(UserError, match="--world"):
        moved(AXOLOTL, tmp_path, None)
    assert moved(AXOLOTL | {"dp_shard_size": 4}, tmp_path, None)


def test_a_batch_that_does_not_divide_needs_the_user(tmp_path):
    recipe = NEMO | {"step_scheduler": {"global_batch_size": 30, "local_batch_size": 4}}
    assert verdict(moved(recipe, tmp_path)[1], "step_scheduler.global_batch_size") is Verdict.NEEDS_YOU
    assert verdict(moved(NEMO, tmp_path)[1], "step_scheduler.global_batch_size") is Verdict.DERIVED


def test_coupled_decay_is_approximated_and_no_decay_is_not(tmp_path):
    adam = {"_target_": "torch.optim.Adam", "lr": 1e-4}
    coupled = moved(NEMO | {"optimizer": {**adam, "weight_decay": 0.1}}, tmp_path)[1]
    assert verdict(coupled, "optimizer._target_") is Verdict.APPROXIMATED
    plain = moved(NEMO | {"optimizer": {**adam, "weight_decay": 0}}, tmp_path)[1]
    assert verdict(plain, "optimizer._target_") is Verdict.DERIVED


def test_norms_and_biases_are_spared_from_decay_as_in_the_trainer(tmp_path):
    text, _, _ = moved(AXOLOTL | {"weight_decay": 0.1}, tmp_path)
    assert plain_of(text)["optimizer"]["param_group_overrides"][0]["wd_mult"] == 0.0
    assert "param_group_overrides" not in plain_of(moved(AXOLOTL, tmp_path)[0])["optimizer"]


def test_a_warmup_ratio_becomes_steps_where_the_steps_are_known(tmp_path):
    ratio = AXOLOTL | {"warmup_ratio": 0.05}
    assert verdict(moved(ratio, tmp_path)[1], "warmup_ratio") is Verdict.NEEDS_YOU
    text, draft, _ = moved(ratio | {"max_steps": 200}, tmp_path)
    assert value(text, "lr_scheduler.lr_warmup_steps") == 10
    assert verdict(draft, "warmup_ratio") is Verdict.DERIVED
    # 6400 samples, 64 a step, one epoch: 100 steps.
    assert value(moved(ratio, tmp_path, samples=6400)[0], "lr_scheduler.lr_warmup_steps") == 5


def test_a_key_that_nobody_knows_is_told_with_the_closest(tmp_path):
    text, _, unknown = moved(AXOLOTL | {"tensor_paralel_size": 2}, tmp_path)
    assert [(item.key, item.closest[0]) for item in unknown] == [("tensor_paralel_size", "tensor_parallel_size")]
    assert "tensor_paralel_size" in text
    assert not moved(AXOLOTL, tmp_path)[2]


def test_comments_order_and_anchors_survive_where_the_field_does(tmp_path):
    text, _, _ = moved(
        "# head\n\n"
        "base_model: a/b  # the model\n"
        "seed: 3\n"
        "# one rank's share\nmicro_batch_size: &n 2\n"
        "gradient_accumulation_steps: 1\nlogging_steps: *n\n"
        "lora_kernels: 1\nlearning_rate: 2e-4\ndatasets: [{path: p/q, type: alpaca}]\n",
        tmp_path,
    )
    assert text.startswith("# head\n")
    assert "a/b  # the model" in text
    assert "# one rank's share\n  local_batch_size: &n 2" in text
    assert "log_remote_every_steps: *n" in text
    assert text.index("pretrained_model_name_or_path") < text.index("seed:") < text.index("local_batch_size")


def test_our_comments_are_not_carried_on(tmp_path):
    there = moved(AXOLOTL | {"bf16": True}, tmp_path)[0]
    assert "# tpscope: approximated" in there
    back = moved(there, tmp_path)[0]
    assert back.count("Axolotl's Trainer computes under") == 1


@pytest.mark.parametrize("number", [2e-4, 1e-05, 1e16, 0.1, 3.0, 1.5e-9])
def test_pyyaml_reads_every_float_as_one(number):
    assert yaml.safe_load(number_text(number)) == number
    assert isinstance(yaml.safe_load("2e-4"), str)


def test_a_word_that_yaml_takes_for_a_truth_value_stays_a_word(tmp_path):
    assert value(moved(AXOLOTL | {"wandb_name": "on"}, tmp_path)[0], "wandb.name") == "on"


def test_a_file_that_is_there_is_only_written_over_by_force(tmp_path):
    path = tmp_path / "out.yml"
    put(path, "a: 1\n", force=False)
    with pytest.raises(UserError, match="--force"):
        may(path, force=False)
    put(path, "a: 2\n", force=True)
    assert path.read_text() == "a: 2\n"
    assert [item.name for item in tmp_path.iterdir()] == ["out.yml"]


def test_names_with_wildcards_are_matched_as_peft_does(tmp_path):
    peft = {"_target_": "nemo_automodel.components._peft.lora.PeftConfig", "dim": 8, "alpha": 16}
    assert (
        value(moved(NEMO | {"peft": {**peft, "target_modules": "*_proj"}}, tmp_path)[0], "lora_target_modules")
        == ".*_proj"
    )
    names = value(moved(NEMO | {"peft": {**peft, "target_modules": ["*.q_proj"]}}, tmp_path)[0], "lora_target_modules")
    assert names == ["q_proj"]


def test_the_seed_that_nothing_reads_is_told(tmp_path):
    text, draft, _ = moved(NEMO | {"rng": {"seed": 1111}}, tmp_path)
    assert verdict(draft, "rng.seed") is Verdict.APPROXIMATED
    assert value(text, "seed") == 1111


def test_a_file_begins_with_what_it_is_and_each_section_with_its_class(tmp_path):
    there = plain_of(moved(AXOLOTL | {"weight_decay": 0.1}, tmp_path)[0])
    assert next(iter(there)) == "recipe"
    assert {
        next(iter(section)) for section in there.values() if isinstance(section, dict) and "_target_" in section
    } == {"_target_"}
    assert next(iter(plain_of(moved(NEMO, tmp_path)[0]))) == "base_model"


def test_what_the_input_does_not_have_stands_with_its_like(tmp_path):
    names = list(plain_of(moved(NEMO | {"seed": 1}, tmp_path)[0]))
    assert names.index("fsdp_config") == names.index("fsdp_version") + 1
    assert names.index("learning_rate") < names.index("seed")


def test_what_is_lost_for_one_reason_is_told_once(tmp_path):
    lost = {"fsdp_version": 2, "fsdp_config": {"state_dict_type": "FULL_STATE_DICT", "cpu_ram_efficient_loading": True}}
    text, _, _ = moved(AXOLOTL | lost, tmp_path)
    assert "dropped: fsdp_config.cpu_ram_efficient_loading, fsdp_config.state_dict_type: how FSDP" in text


def test_no_validation_is_no_loss(tmp_path):
    assert verdict(moved(AXOLOTL | {"val_set_size": 0}, tmp_path)[1], "val_set_size") is Verdict.EXACT
    assert verdict(moved(AXOLOTL | {"val_set_size": 0.1}, tmp_path)[1], "val_set_size") is Verdict.APPROXIMATED


def test_steps_of_an_epoch_leave_out_what_is_kept_and_are_not_known_of_packs(tmp_path):
    config = AXOLOTL | {"evals_per_epoch": 2, "val_set_size": 0.5}
    # 6400 samples, half of them to train on, 64 a step: 50 steps an epoch.
    assert value(moved(config, tmp_path, samples=6400)[0], "step_scheduler.val_every_steps") == 25
    packed = moved(config | {"sample_packing": True}, tmp_path, samples=6400)
    assert value(packed[0], "step_scheduler.val_every_steps") is None
    assert verdict(packed[1], "evals_per_epoch") is Verdict.NEEDS_YOU


def test_what_is_commented_out_keeps_its_indentation(tmp_path):
    text = "base_model: a/b\n# - path: old\n#   type: alpaca\nseed: 3\n" + yaml.safe_dump(
        {key: item for key, item in AXOLOTL.items() if key != "base_model"}
    )
    assert "# - path: old\n#   type: alpaca\nseed: 3" in moved(text, tmp_path)[0]


@pytest.mark.parametrize(("form", "written"), [("torch_save", None), ("safetensors", True)])
def test_a_format_that_axolotl_refuses_is_not_written(form, written, tmp_path):
    text, draft, _ = moved(NEMO | {"checkpoint": {"model_save_format": form}}, tmp_path)
    assert value(text, "save_safetensors") is written
    assert verdict(draft, "checkpoint.model_save_format").kept is (written is not None)


@pytest.mark.parametrize("tp", [1, 2])
def test_ligers_norm_is_left_out_under_tensor_parallelism(tp, tmp_path):
    recipe = NEMO | {"model": {**NEMO["model"], "use_liger_kernel": True}, "distributed": {"tp_size": tp}}
    text, _, _ = moved(recipe, tmp_path)
    assert value(text, "liger_rms_norm") is (None if tp > 1 else True)
    assert value(text, "liger_glu_activation") is True


@pytest.mark.parametrize(("cp", "micro", "steps"), [(1, 2, 2), (2, 1, 8)])
def test_packs_under_context_parallelism_come_one_by_one(cp, micro, steps, tmp_path):
    recipe = NEMO | {"distributed": {"cp_size": cp}, "packed_sequence": {"packed_sequence_size": 512}}
    text, _, _ = moved(recipe, tmp_path)
    # 32 samples a step over 8 ranks, or over 4 data ranks.
    assert (value(text, "micro_batch_size"), value(text, "gradient_accumulation_steps")) == (micro, steps)
