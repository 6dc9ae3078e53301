"""What differs is found and said; what does not differ is not."""

import pytest
from columns import column, plan_row, refused, row

from tpscope.compare.differences import find
from tpscope.compare.join import canonical
from tpscope.language.answer import Failure, Head, TrailLine
from tpscope.language.verdict import Severity, Status

LAYER = "model.layers.{}.self_attn.{}.weight"


def layers(leaf, **what):
    return [row(LAYER.format(index, leaf), **what) for index in range(2)]


def said(columns, severity=None):
    return [item.meaning for item in find(columns) if severity in (None, item.severity)]


def test_equal_columns_differ_in_nothing():
    same = [*layers("q_proj", placement="Shard(dim=0)", loop="sharded", shape=(64, 64)), *layers("q_norm", shape=(8,))]
    assert find([column("a@1", same), column("b@1", same)]) == []


def test_a_gradient_that_one_sums_and_the_other_does_not_is_wrong():
    columns = [
        column("nemo@0.6.0", layers("q_norm", loop="none", shape=(8,))),
        column("nemo@0.7.0", layers("q_norm", loop="sum", shape=(8,))),
    ]
    (sentence,) = said(columns, Severity.WRONG)
    assert sentence.startswith("q_norm: nemo@0.6.0 replicates it and nobody sums its gradient, ")
    assert "nemo@0.7.0 replicates it and sums its gradient" in sentence


def test_mean_and_none_of_a_whole_gradient_are_no_alarm():
    columns = [
        column("a@1", layers("norm", loop="none", shape=(8,))),
        column("b@1", layers("norm", loop="mean", shape=(8,))),
    ]
    assert said(columns, Severity.WRONG) == []


def test_a_sum_that_is_planned_and_never_done_is_wrong():
    (sentence,) = said([column("a@1", layers("q_norm", plan="sum", loop="none", shape=(8,)))], Severity.WRONG)
    assert "marks the gradient to be summed over tp and nothing does it" in sentence


def test_a_refusal_carries_the_frameworks_words_and_line():
    (sentence,) = said([refused("b@1", "tied embeddings")], Severity.BLOCKS)
    assert sentence == "b@1 refuses: tied embeddings (pkg/check.py:7)"


def test_a_crash_outside_the_declared_torch_says_so():
    crashed = refused("b@1", status=Status.CRASHED)
    crashed.environment["outside_pin"] = [{"package": "torch", "version": "2.13.0", "declared": "==2.8.0"}]
    (sentence,) = said([crashed], Severity.BLOCKS)
    assert "outside its declared range ==2.8.0" in sentence
    crashed.environment["outside_pin"] = []
    assert "outside" not in said([crashed], Severity.BLOCKS)[0]


def test_a_loop_that_raises_blocks_and_says_where():
    where = TrailLine("a/accelerator.py", 9, "clip_grad_norm_", "return clip(parameters)")
    broken = column("a@1", loop_error=Failure("RuntimeError", "mixed", "training loop", where))
    (sentence,) = said([broken], Severity.BLOCKS)
    assert "before the first optimizer step, in clip_grad_norm_: RuntimeError: mixed (a/accelerator.py:9)" in sentence


@pytest.mark.parametrize(
    ("after", "step", "wrong"),
    [(False, None, 1), (True, None, 0), (True, True, 0), (True, False, 1), (False, False, 1)],
)
def test_untying_is_told_from_staying_tied(after, step, wrong):
    tied = column("a@1", tied=True, tied_after=after)
    tied.head.tied_after_step = step
    assert len(said([tied], Severity.WRONG)) == wrong


def test_a_head_that_the_loader_ties_again_is_a_note():
    tied = column("a@1", tied=True, tied_after=True)
    tied.head.retied_at = TrailLine("a/load.py", 9, "load", "model.tie_weights()")
    assert said([tied], Severity.WRONG) == []
    assert said([tied], Severity.NOTE) == [
        "a@1: sharding unties head and embedding, the checkpoint loader ties them again (a/load.py:9)"
    ]


def test_a_parameter_sharded_here_and_whole_there_costs():
    columns = [
        column("a@1", [row("lm_head.weight", "Shard(dim=0)", "sharded")]),
        column("b@1", [row("lm_head.weight", "Replicate()")]),
    ]
    assert any(
        sentence.startswith("lm_head: a@1: Shard(dim=0); b@1: Replicate()") for sentence in said(columns, Severity.COST)
    )


def test_an_adapter_as_wide_as_the_whole_layer_does_not_fit_its_shard():
    base = row("base_model.model.m.q_proj.base_layer.weight", "Shard(dim=0)", "sharded", shape=(8, 8))
    whole = row("base_model.model.m.q_proj.lora_B.default.weight", shape=(8, 2))
    fitting = row("base_model.model.m.q_proj.lora_B.default.weight", "Shard(dim=0)", "sharded", shape=(8, 2))
    assert any("adapters" in sentence for sentence in said([column("a@1", [base, whole])], Severity.WRONG))
    assert said([column("a@1", [base, fitting])], Severity.WRONG) == []


def test_logits_gathered_by_the_loss_are_shown_beside_a_plan_that_keeps_them():
    loud = column("a@1", plan=[plan_row("lm_head")])
    loud.head = Head(gathered_by="loss")
    assert any("the default loss gathers" in sentence for sentence in said([loud], Severity.COST))


def test_worst_comes_first():
    columns = [
        column("a@1", layers("q_norm", shape=(8,)), level="base"),
        column("b@1", layers("q_norm", loop="sum", shape=(8,))),
        refused("c@1"),
    ]
    severities = [item.severity for item in find(columns)]
    assert severities == sorted(severities, key=list(Severity).index)
    assert severities[0] == Severity.WRONG


@pytest.mark.parametrize(
    ("name", "joined"),
    [
        ("base_model.model.model.layers.1.q_proj.base_layer.weight", "model.layers.*.q_proj.weight"),
        ("model.layers.3.block_sparse_moe.experts.5.w1.weight", "model.layers.*.mlp.experts.gate_up_proj"),
        ("model.layers.3.mlp.experts.down_projs", "model.layers.*.mlp.experts.down_proj"),
        ("model.layers.0.self_attn.q_norm.weight", "model.layers.*.self_attn.q_norm.weight"),
    ],
)
def test_spellings_of_one_parameter_meet(name, joined):
    assert canonical(name) == joined


def test_a_column_that_ignores_sequence_parallel_is_not_measured_by_one_that_does_it():
    done = column("a@1", layers("norm", loop="sum", shape=(8,)))
    ignoring = column("b@1", layers("norm", loop="none", shape=(8,)))
    assert len(said([done, ignoring], Severity.WRONG)) == 1
    ignoring.ignored = [{"setting": "sequence_parallel", "what": "no"}]
    assert said([done, ignoring], Severity.WRONG) == []
