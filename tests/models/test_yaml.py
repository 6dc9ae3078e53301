"""Ten Axolotl YAMLs and ten NeMo recipes: model, layout and LoRA as far as the file states them."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tpscope.errors import UserError
from tpscope.language.layout import Layout, Lora
from tpscope.models.read import read

DATA = Path(__file__).parents[1] / "data"


@dataclass
class Expected:
    model: str
    layout: Layout = field(default_factory=Layout)
    stated: str = ""
    lora: Lora | None = None
    sequence_parallel: bool | None = None
    plan: str | None = None
    trusts: bool = False
    settings: dict = field(default_factory=dict)
    notes: tuple = ()


AXOLOTL = {
    "full-tp-fsdp2": Expected(
        "llama-3.1-8b", Layout(dp_shard=4, tp=2), "dp_shard tp",
        settings={"gradient_accumulation_steps": 4, "max_grad_norm": 1.0, "sample_packing": False, "fsdp_version": 2},
    ),
    "lora-tp": Expected(
        "qwen3-8b", Layout(tp=2), "tp", Lora(16, 32, ("q_proj", "k_proj", "v_proj", "o_proj"), 0.05),
        settings={"gradient_checkpointing": True, "max_grad_norm": 0.3, "optimizer": "adamw_torch"},
    ),
    "qlora-all-linear": Expected(
        "mistral-7b", lora=Lora(32, 16, ("all-linear",), 0.05),
        settings={"load_in_4bit": True, "sample_packing": True, "bf16": True, "adapter": "qlora"},
        notes=("adapter: qlora is read as LoRA",),
    ),
    "tp-cp-packing": Expected(
        "qwen3-32b", Layout(dp_shard=2, cp=2, tp=2), "cp dp_shard tp",
        settings={"cut_cross_entropy": True, "ring_attn_func": "varlen_llama3", "heads_k_stride": 1},
    ),
    "old-sequence-parallel": Expected(
        "gemma-3-1b", Layout(cp=4), "cp", settings={"flash_attention": True},
        notes=("sequence_parallel_degree is Axolotl's old name of context_parallel_size",),
    ),
    "hsdp-tp": Expected(
        "llama-3.1-70b", Layout(dp_replicate=2, dp_shard=4, tp=8), "dp_replicate dp_shard tp",
        settings={"torch_compile": True, "micro_batch_size": 1, "gradient_accumulation_steps": 8},
    ),
    "anchors": Expected(
        "phi-3-mini", Layout(), "tp", Lora(8, 64, ("qkv_proj", "o_proj")), trusts=True,
        settings={"micro_batch_size": 2, "gradient_accumulation_steps": 4},
    ),
    "deepspeed-zero3": Expected(
        "mixtral-8x7b", lora=Lora(64, 128, (r"model\.layers\.\d+\.self_attn\.(q|v)_proj",)),
        settings={
            "deepspeed": "deepspeed_configs/zero3_bf16.json",
            "gradient_checkpointing_kwargs": {"use_reentrant": False},
        },
        notes=("regular expression",),
    ),
    "experts-liger": Expected(
        "qwen3-30b-a3b", Layout(dp_shard=2), "dp_shard",
        settings={"liger_rms_norm": True, "liger_fused_linear_cross_entropy": True, "expert_parallel_size": 4},
        notes=("expert_parallel_size is no axis",),
    ),
    "local-misspelt": Expected(
        "biased-llama", Layout(dp_shard=4), "dp_shard", settings={"fsdp": ["full_shard", "auto_wrap"]},
        notes=("dp_shard_size (line 5) repeats a key", "tensor_paralel_size is no key of Axolotl's"),
    ),
}  # fmt: skip

NEMO = {
    "full-fsdp2": Expected(
        "llama-3.2-1b", Layout(), "cp tp", sequence_parallel=False,
        settings={
            "step_scheduler.global_batch_size": 64, "clip_grad_norm.max_norm": 1.0,
            "optimizer._target_": "torch.optim.Adam",
        },
    ),
    "tp-sequence-parallel": Expected(
        "qwen3-8b", Layout(tp=4, sequence_parallel=True), "cp tp", sequence_parallel=True,
        settings={
            "distributed.activation_checkpointing": "selective", "distributed.mp_policy.reduce_dtype": "float32",
            "loss_fn._target_": "nemo_automodel.components.loss.te_parallel_ce.TEParallelCrossEntropy",
        },
    ),
    "manager-hf-plan": Expected(
        "gemma-3-27b", Layout(tp=8), "cp dp_replicate tp", sequence_parallel=False,
        settings={"distributed.use_hf_tp_plan": True, "packed_sequence.packed_sequence_size": 4096},
    ),
    "lora-wildcards": Expected(
        "llama-3.1-70b", Layout(tp=4), "cp pp tp", Lora(16, 32, ("*_proj",), 0.1), sequence_parallel=False, trusts=True,
        settings={"peft.use_triton": True, "recipe": "TrainFinetuneRecipeForNextTokenPrediction"},
    ),
    "qlora-match-all": Expected(
        "phi-4", Layout(dp_replicate=2), "dp_replicate", Lora(8, 32, ("all-linear",)),
        settings={"quantization.load_in_4bit": True, "distributed.strategy": "ddp"},
        notes=("dp_size under ddp counts replicas", "peft.alpha is not stated: 32"),
    ),
    "pipeline-tp": Expected(
        "llama-3.1-405b", Layout(pp=4, dp_replicate=2, dp_shard=2, tp=8), "cp dp_replicate dp_shard pp tp",
        settings={"distributed.pipeline.pp_schedule": "interleaved1f1b", "compile.enabled": True},
        notes=("dp_size 4 is dp_replicate x dp_shard: read as 2 x 2",),
    ),
    "experts-from-config": Expected(
        "deepseek-v3", Layout(pp=2), "cp pp tp", sequence_parallel=False,
        settings={
            "distributed.ep_size": 32, "model.backend.dispatcher": "deepep",
            "distributed.activation_checkpointing": True,
        },
        notes=("ep_size is no axis",),
    ),
    "own-plan": Expected(
        "olmo-2-7b", Layout(cp=2, tp=2), "cp tp", plan="my_project.plans.olmo2_plan", settings={"model.force_hf": True}
    ),
    "anchors-inline-config": Expected(
        "anchors-inline-config", Layout(dp_shard=2, tp=2), "cp dp_shard pp tp", Lora(4, 8, ("all-linear",)),
        settings={"distributed.strategy": "megatron_fsdp", "peft.exclude_modules": ["*.out_proj", "*lm_head"]},
        notes=("every Linear layer but *.out_proj, *lm_head",),
    ),
    "manager-own-plan-local": Expected(
        "tiny-qwen3", Layout(dp_shard=2, tp=2, sequence_parallel=True), "dp_shard tp",
        Lora(4, 16, ("*.q_proj", "*.o_proj")), sequence_parallel=True, settings={"model.attn_implementation": "sdpa"},
        notes=("distributed.custom_tp_plan is a plan written in the recipe",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "path", "expected"),
    [("axolotl", DATA / "axolotl" / f"{name}.yml", expected) for name, expected in AXOLOTL.items()]
    + [("nemo", DATA / "nemo" / f"{name}.yaml", expected) for name, expected in NEMO.items()],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_what_a_training_yaml_asks_for(kind, path, expected):
    spec, intent = read(str(path))
    assert spec.name == expected.model
    assert (intent.kind, intent.path) == (kind, path)
    assert intent.layout == expected.layout
    assert intent.stated == frozenset(expected.stated.split())
    assert intent.lora == expected.lora
    assert intent.sequence_parallel is expected.sequence_parallel
    assert intent.custom_plan == expected.plan
    assert intent.trust_remote_code is expected.trusts
    assert intent.world is None
    assert expected.settings.items() <= intent.settings.items()
    for words in expected.notes:
        assert any(words in note for note in intent.notes), intent.notes


def test_the_tables_cover_all_files():
    assert {path.stem for path in (DATA / "axolotl").iterdir()} == set(AXOLOTL)
    assert {path.stem for path in (DATA / "nemo").iterdir()} == set(NEMO)


def test_what_is_read_into_a_field_is_not_repeated_in_the_settings():
    _, intent = read(str(DATA / "nemo" / "own-plan.yaml"))
    assert not {"distributed.tp_size", "distributed.tp_plan", "model.pretrained_model_name_or_path"} & set(
        intent.settings
    )


def test_an_inline_plan_is_kept_whole():
    _, intent = read(str(DATA / "nemo" / "manager-own-plan-local.yaml"))
    assert set(intent.settings["distributed.custom_tp_plan"]) == {
        "model.layers.*.self_attn.q_proj",
        "model.layers.*.self_attn.o_proj",
    }


def test_the_yaml_changes_the_published_config():
    spec, _ = read(str(DATA / "nemo" / "experts-from-config.yaml"))
    assert spec.config["num_hidden_layers"] == 8
    assert spec.notes[-1] == "the YAML sets num_hidden_layers over the published config"
    spec, _ = read(str(DATA / "axolotl" / "deepspeed-zero3.yml"))
    assert spec.config["output_router_logits"] is True


def test_a_config_written_in_the_recipe():
    spec, _ = read(str(DATA / "nemo" / "anchors-inline-config.yaml"))
    assert (spec.model_type, spec.architecture, spec.status) == ("qwen3_moe", "Qwen3MoeForCausalLM", "local")
    assert spec.config["num_experts"] == 4
    assert "model.config" in spec.source
    assert "model_type qwen3_moe is taken from the package" in spec.notes[0]


def test_a_local_model_is_found_beside_the_yaml_with_a_note():
    spec, _ = read(str(DATA / "axolotl" / "local-misspelt.yml"))
    assert "is found beside local-misspelt.yml" in spec.notes[-1]


def test_the_weights_and_the_config_can_have_two_names(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("base_model: somebody/finetune\nbase_model_config: Qwen/Qwen3-8B\n")
    spec, _ = read(str(path))
    assert spec.name == "qwen3-8b"
    assert "from base_model_config" in spec.notes[-1]


MODEL = "model: {pretrained_model_name_or_path: Qwen/Qwen3-8B}\n"


@pytest.mark.parametrize("value", ["none", "None", "null", "", "~", "0", "-1"])
def test_a_dp_size_that_is_left_to_the_world_size(tmp_path, value):
    path = tmp_path / "a.yaml"
    path.write_text(f"{MODEL}distributed:\n  dp_size: {value}\n  tp_size: 2\n")
    _, intent = read(str(path))
    assert intent.stated == {"tp"}
    assert intent.layout == Layout(tp=2)


@pytest.mark.parametrize(("value", "size"), [("2", 2), ('"2"', 2), ("2.0", 2), ("0x4", 4)])
def test_numbers_in_any_spelling(tmp_path, value, size):
    path = tmp_path / "a.yml"
    path.write_text(f"base_model: Qwen/Qwen3-8B\ntensor_parallel_size: {value}\n")
    assert read(str(path))[1].layout.tp == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_model: Qwen/Qwen3-8B\ntensor_parallel_size: ${TP}\n", "key tensor_parallel_size is '${TP}'"),
        ("base_model: ${MODEL_ID}\n", "key base_model is '${MODEL_ID}'"),
        ("base_model: Qwen/Qwen3-8B\nadapter: lora\nlora_r: $R\n", "key lora_r is '$R'"),
        (MODEL + "distributed: {tp_size: '${oc.env:TP,2}'}\n", "key distributed.tp_size is '${oc.env:TP,2}'"),
        ("model: {pretrained_model_name_or_path: '${HF_MODEL}'}\n", "key model.pretrained_model_name_or_path"),
        (MODEL + "peft: {target_modules: ['*_proj', '${X}']}\n", "key peft.target_modules is '${X}'"),
        (MODEL + "distributed: {tp_plan: '${PLAN}'}\n", "key distributed.tp_plan is '${PLAN}'"),
        (MODEL + "distributed: {sequence_parallel: '${SP}'}\n", "key distributed.sequence_parallel is '${SP}'"),
    ],
)
def test_an_interpolation_in_a_field_that_matters_is_named(tmp_path, text, words):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="write the value that the run gets") as caught:
        read(str(path))
    assert words in str(caught.value)


def test_an_interpolation_elsewhere_is_kept_with_a_note(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(MODEL + "step_scheduler: {global_batch_size: '${GBS}'}\nwandb: {project: '${P}'}\n")
    _, intent = read(str(path))
    assert intent.settings["step_scheduler.global_batch_size"] == "${GBS}"
    assert len(intent.notes) == 1
    assert "step_scheduler.global_batch_size is '${GBS}', kept as it is" in intent.notes[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_model: Qwen/Qwen3-8B\ntensor_parallel_size: two\n", "'two' where a number is expected"),
        ("base_model: Qwen/Qwen3-8B\ntensor_parallel_size: 1.5\n", "1.5 where a whole number is expected"),
        ("base_model: Qwen/Qwen3-8B\ntensor_parallel_size: yes\n", "True where a number is expected"),
        ("base_model: Qwen/Qwen3-8B\ntensor_parallel_size: [2]\n", "[2] where a number is expected"),
        ("base_model: 7\n", "7 where a string is expected"),
        ("base_model:\n", "key base_model is empty"),
        ("base_model: Qwen/Qwen3-8B\nadapter: lora\nlora_alpha: 8\n", "lora_r is not stated beside adapter: lora"),
        ("base_model: Qwen/Qwen3-8B\ntrust_remote_code: maybe\n", "'maybe' where true or false is expected"),
        (MODEL + "distributed: fsdp2\n", "'fsdp2' where a mapping is expected"),
        (MODEL + "distributed: {dp_size: 3, dp_replicate_size: 2}\n", "dp_replicate_size 2 does not divide"),
        (MODEL + "peft: {dim: big}\n", "key peft.dim is 'big'"),
        ("model: {_target_: nemo_automodel.components.models.gpt2.build_gpt2_model}\n", "names no published model"),
        ("model: {config: {_target_: transformers.LlamaConfig}}\n", "does not tell the model type"),
    ],
)
def test_values_that_mean_nothing_are_named(tmp_path, text, words):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_adapter_that_is_no_lora_is_no_lora(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("base_model: Qwen/Qwen3-8B\nadapter: llama-adapter\n")
    _, intent = read(str(path))
    assert intent.lora is None
    assert "neither lora nor qlora" in intent.notes[0]


def test_peft_defaults_of_nemo_are_named(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(MODEL + "peft: {_target_: nemo_automodel.components._peft.lora.PeftConfig}\n")
    _, intent = read(str(path))
    assert intent.lora == Lora(8, 32, ("*_proj",))
    assert [note.split(":")[0] for note in intent.notes] == [
        "peft.dim is not stated",
        "peft.alpha is not stated",
        "peft names no modules",
    ]
