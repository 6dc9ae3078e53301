"""What the frameworks do, seen by running them. Each claim is one that a user would act on."""

import json
import re
from pathlib import Path

import pytest

from tpscope.frameworks import overlay, registry
from tpscope.language.verdict import Reduction, Severity, Status

pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("columns")]
TWO_NEMOS = ("nemo@0.6.0", "nemo@0.7.0")
ALL = [f"{family.name}@{version}" for family in registry.families().values() for version in family.versions]


def named(column, leaf):
    return [row for row in column.parameters if f".{leaf}." in row.name or row.name == f"{leaf}.weight"]


def loops(column, leaf):
    return {row.gradient_loop for row in named(column, leaf)}


def test_qk_norm_gradients_are_summed_by_one_release_and_not_by_the_one_before(ask):
    result = ask("qwen3-8b", *TWO_NEMOS)
    before, after = result.frameworks
    for leaf in ("q_norm", "k_norm"):
        assert len(named(before, leaf)) == len(named(after, leaf)) == 36
        assert loops(before, leaf) == {Reduction.NONE}
        assert loops(after, leaf) == {Reduction.SUM}
    assert any("synchronize_tp_replica_gradients" in line.text for line in after.gradient_trail)
    assert before.gradient_trail
    assert not any("synchronize_tp_replica_gradients" in line.text for line in before.gradient_trail)
    worst = result.differences[0]
    assert worst.severity == Severity.WRONG
    assert worst.subject == "gradient of q_norm, k_norm"


@pytest.mark.parametrize("name", ALL)
def test_every_trail_line_stands_at_its_path_and_line(ask, name):
    column = ask("qwen3-8b", name).frameworks[0]
    root = overlay.installed(registry.parse(name)).path
    lines = column.selection.trail + column.gradient_trail
    assert len(lines) > 10
    for line in lines:
        source = (root / line.path).read_text(encoding="utf-8").splitlines()
        assert source[line.line - 1].strip() == line.text, line


def test_the_levels_of_an_unregistered_model_and_their_order_by_experiment(ask):
    before, after = ask("mistral-7b", "nemo@0.2.0", "nemo@0.7.0").frameworks
    assert (before.selection.level, after.selection.level) == ("base", "hf")
    assert [step.level for step in before.selection.order] == ["custom", "hf", "optimized", "hf", "base"]
    assert [step.level for step in after.selection.order] == ["custom", "optimized", "hf", "base"]
    assert "use_hf_tp_plan is set" in before.selection.order[1].tried_when
    assert not any("use_hf_tp_plan" in step.tried_when for step in after.selection.order)


def test_sequence_parallel_that_is_ignored_is_said(ask):
    result = ask("mistral-7b", "nemo@0.7.0", sequence_parallel=True)
    (ignored,) = result.frameworks[0].ignored
    assert ignored["setting"] == "sequence_parallel"
    assert "asked for and ignored" in ignored["what"]


def test_sequence_parallel_that_is_done_is_not_called_ignored(ask):
    column = ask("llama-3.1-8b", "nemo@0.7.0", sequence_parallel=True).frameworks[0]
    assert column.ignored == []
    assert loops(column, "input_layernorm") == {Reduction.SUM}
    counts = column.forward["collectives_small_model"]["forward"]
    assert counts["all_gather"] == counts["reduce_scatter"] == 5


def test_axolotl_refuses_tied_embeddings_in_its_own_words(ask):
    column = ask("llama-3.2-1b", "axolotl@0.19.0").frameworks[0]
    assert column.status == Status.REFUSED
    assert "incompatible with models configured with `tie_word_embeddings`" in column.error.message
    assert column.error.where.path == "axolotl/loaders/utils.py"
    assert column.error.where.text.startswith("raise ValueError")


def test_an_early_nemo_unties_a_tied_head_and_its_loader_ties_it_again(ask):
    before, after = ask("llama-3.2-1b", "nemo@0.2.0", "nemo@0.7.0").frameworks
    assert (before.head.tied, before.head.tied_after, before.head.tied_after_step) == (True, True, True)
    assert before.head.retied_at.text == "model.tie_weights()"
    assert (after.head.tied, after.head.tied_after, after.head.retied_at) == (True, True, None)


def test_the_head_is_kept_sharded_by_the_plan_and_gathered_by_the_default_loss(ask):
    head = ask("llama-3.1-8b", "nemo@0.7.0").frameworks[0].head
    assert (head.plan_output, head.gathered_by) == ("Shard(dim=2)", "loss")
    assert "full_tensor()" in head.where.text


def test_the_class_attribute_of_the_head_is_lost_in_transformers_5_4(ask):
    column = ask("qwen3-8b", "axolotl@0.16.0").frameworks[0]
    assert {row.placement for row in named(column, "lm_head")} == {"Replicate()"}
    newer = ask("qwen3-8b", "axolotl@0.19.0").frameworks[0]
    assert {row.placement for row in named(newer, "lm_head")} == {"Shard(dim=0)"}


def test_lora_becomes_dtensors_in_nemo_and_plain_tensors_in_peft(ask):
    nemo, axolotl = ask("llama-3.1-8b", "nemo@0.7.0", "axolotl@0.19.0", lora="r=16,targets=all-linear").frameworks
    assert "ColwiseParallelLora" in nemo.lora.styles
    assert nemo.lora.note is None
    assert "plain tensors of the size of a shard" in axolotl.lora.note
    assert {row.trainable for row in named(nemo, "q_proj") if "lora" not in row.name} == {False}


def test_force_hf_is_a_column_of_its_own(ask):
    own, hf = ask("llama-3.1-8b", "nemo@0.7.0", "nemo@0.7.0+hf").frameworks
    assert own.model_class.startswith("nemo_automodel")
    assert hf.model_class.startswith("transformers")


def test_a_custom_plan_wins_and_says_so(ask, tmp_path):
    plan = tmp_path / "my_plan.py"
    plan.write_text(
        "from torch.distributed.tensor.parallel import ColwiseParallel\n"
        "PLAN = {'model.layers.*.mlp.up_proj': ColwiseParallel()}\n"
    )
    column = ask("llama-3.1-8b", "nemo@0.7.0", custom_plan=f"{plan}:PLAN").frameworks[0]
    assert column.selection.level == "custom"
    assert {row.name.split(".")[-2] for row in column.parameters if row.placement != "Replicate()"} == {"up_proj"}


def test_gradients_are_observed_under_the_custom_plan_and_not_under_the_shipped_one(ask, tmp_path):
    plan = tmp_path / "hf_plan.py"
    plan.write_text("PLAN = {'model.layers.*.input_layernorm': 'replicated_with_grad_allreduce'}\n")
    shipped, own = (
        ask("llama-3.1-8b", "transformers@5.23.0", **wishes).frameworks[0]
        for wishes in ({}, {"custom_plan": f"{plan}:PLAN"})
    )
    assert loops(shipped, "input_layernorm") == {Reduction.MEAN}
    assert loops(own, "input_layernorm") == {Reduction.SUM}
    assert own.head.loss == shipped.head.loss
    assert shipped.head.loss.startswith("transformers.loss.")


def test_axolotl_has_no_key_for_pipeline_stages(ask):
    column = ask("llama-3.1-8b", "axolotl@0.19.0", pp=2).frameworks[0]
    assert column.status == Status.UNSUPPORTED
    assert "no key for pipeline parallelism" in column.error.message
    assert "pipeline_parallel" in column.error.message


def test_five_axes_in_nemo_and_only_the_active_ones_in_axolotl(ask):
    nemo, axolotl = ask("llama-3.1-8b", "nemo@0.7.0", "axolotl@0.13.2", dp_shard=2).frameworks
    assert list(nemo.mesh.axes) == ["pp", "dp_replicate", "dp_shard", "cp", "tp"]
    assert axolotl.mesh.axes == {"dp_shard": 2, "tp": 2}


def test_a_model_type_that_one_does_not_know_leaves_the_others_alone(ask):
    old, new = ask("tests/configs/unknown-type", "nemo@0.7.0", "axolotl@0.19.0").frameworks
    assert {old.status, new.status} == {Status.UNSUPPORTED}
    smollm, other = ask("smollm3-3b", "nemo@0.2.0", "nemo@0.7.0").frameworks
    assert smollm.status == other.status == Status.OK


@pytest.mark.parametrize("config", ["odd-vocab-llama", "kv1-llama", "odd-heads-llama", "biased-llama"])
def test_sizes_that_do_not_divide_are_the_frameworks_to_judge(ask, config):
    result = ask(f"tests/configs/{config}", "nemo@0.7.0", "axolotl@0.19.0", "transformers@5.23.0")
    for column in result.frameworks:
        assert column.status in set(Status)
        assert column.error is None or (column.error.kind != "ProcessDied" and column.error.message)


def test_custom_code_runs_only_when_trusted(ask):
    nemo, hf = ask("tests/configs/remote-code", "nemo@0.7.0", "transformers@5.23.0", trust_remote_code=True).frameworks
    assert nemo.status == hf.status == Status.REFUSED
    assert "custom-code architecture" in nemo.error.message
    assert "no `tp_plan`" in hf.error.message


def test_every_style_that_these_plans_use_has_a_normal_form(ask):
    for model in ("llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "mixtral-8x7b"):
        for column in ask(model, "nemo@0.7.0", "axolotl@0.16.0", "transformers@5.23.0").frameworks:
            assert [row.style for row in column.plan if not row.known] == []


def test_torch_outside_the_declared_range_is_listed(ask):
    old, new = ask("llama-3.1-8b", "axolotl@0.13.2", "axolotl@0.19.0").frameworks
    assert [item["package"] for item in old.environment["outside_pin"]] == ["torch"]
    assert new.environment["outside_pin"] == []


@pytest.mark.parametrize("name", ALL)
def test_styles_that_a_framework_exports_are_known(name):
    """Every style string and ParallelStyle class of an overlay has a normal form, or is shown as unknown by name."""
    from tpscope.language.style import BY_NAME

    root = overlay.ensure(registry.parse(name), lambda text: None).path
    found = set()
    for path in (
        *root.glob("transformers/integrations/tensor_parallel.py"),
        *root.glob("transformers/distributed/*.py"),
    ):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'^\s+"([a-z_]+)": (?:\w+Parallel\w*|MoEParamShard|TensorParallelLayer)\(', text, 8))
        found |= set(re.findall(r'ALL_PARALLEL_STYLES\.register\(\s*"([a-z_]+)"', text))
    assert found
    assert found - set(BY_NAME) == set()


def test_the_answer_is_the_documented_schema(ask):
    from jsonschema import validate

    from tpscope.render import document

    text = document.document(ask("qwen3-8b", *TWO_NEMOS))
    tree = json.loads(text)
    assert tree["schema"] == "tpscope.compare/1"
    validate(tree, json.loads(Path("docs/schema/compare.json").read_text(encoding="utf-8")))
