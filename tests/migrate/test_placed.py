"""Plans and trainable parameters of both sides, beside each other."""

from tpscope.frameworks import registry
from tpscope.language.answer import Failure, FrameworkAnswer, LoraAnswer, ParameterRow, Selection, TrailLine
from tpscope.language.layout import Layout
from tpscope.language.verdict import Reduction, Status
from tpscope.migrate.answers import Answers
from tpscope.migrate.checks import Side
from tpscope.migrate.placed import compared
from tpscope.migrate.result import Standing


def row(name, placement="Shard(dim=0)", shape=(8, 8), trainable=True):
    return ParameterRow(
        name, list(shape), placement, list(shape), Reduction.NONE, Reduction.UNOBSERVED, None, trainable
    )


def column(identifier, rows):
    found = FrameworkAnswer(identifier, parameters=rows, selection=Selection(level="hf"), lora=LoraAnswer())
    found.total_parameters = sum(item.shape[0] * item.shape[1] for item in rows)
    return found


def answers(left, right):
    names = ("axolotl@0.19.0", "nemo@0.7.0")
    found = []
    for name, rows in zip(names, (left, right), strict=True):
        one = Answers(Side(name.partition("@")[0], registry.parse(name), {}, ""), Layout(tp=2))
        one.column = column(name, rows)
        found.append(one)
    return found


HF = [row("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "Replicate()"),
      row("base_model.model.lm_head.weight", trainable=False)]  # fmt: skip
NEMO = [row("model.layers.0.self_attn.q_proj.lora_A.weight", "Replicate()"), row("lm_head.weight", trainable=False)]


def found(left, right):
    return {check.name: check for check in compared(answers(left, right))}


def test_the_same_parameters_under_both_spellings_are_the_same():
    checks = found(HF, NEMO)
    assert checks["trainable parameters"].standing is Standing.OK
    assert checks["trainable parameters"].source == "1 tensors of 64 numbers"
    assert checks["plan"].sentence == "the same placement of 2 of 2 kinds of parameters"


def test_a_parameter_that_one_side_alone_trains_is_named():
    check = found(HF, [NEMO[0], row("lm_head.weight")])["trainable parameters"]
    assert check.standing is Standing.TOLD
    assert "nemo@0.7.0 alone has lm_head" in check.sentence


def test_a_layer_that_one_side_does_not_train_is_seen():
    more = [*HF, row("base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight", "Replicate()")]
    assert found(more, NEMO)["trainable parameters"].standing is Standing.TOLD


def test_another_shape_is_named():
    check = found(HF, [row("model.layers.0.self_attn.q_proj.lora_A.weight", "Replicate()", (4, 8)), NEMO[1]])
    assert "of other shapes: q_proj.lora_A" in check["trainable parameters"].sentence


def test_another_placement_is_named_with_both_sides():
    check = found(HF, [NEMO[0], row("lm_head.weight", "Replicate()", trainable=False)])["plan"]
    assert check.standing is Standing.TOLD
    assert "1 of 2 kinds of parameters; differs: lm_head (Shard(dim=0) | Replicate())" in check.sentence


def test_a_side_that_refuses_is_not_compared():
    pair = answers(HF, NEMO)
    pair[0].column.status = Status.REFUSED
    pair[0].column.error = Failure("ValueError", "tied", "check", TrailLine("axolotl/x.py", 3, "f", "raise"))
    checks = compared(pair)
    assert {check.standing for check in checks} == {Standing.UNCHECKED}
    assert "axolotl@0.19.0 refused: tied (axolotl/x.py:3)" in checks[0].sentence
