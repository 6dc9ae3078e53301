"""The data flow of a layer is what its recorded visits say: who took whose storage, and who communicated."""

from dataclasses import replace

from test_study import MADE, column, run

from tpscope.language.measured.layer import Visit
from tpscope.report.experiments.block_rows import Block
from tpscope.report.facts import Study
from tpscope.report.runs import SEQUENCE
from tpscope.report.sections.flow import by_kind, layers

VISITS = [
    Visit("", "Layer", "", 1, 9, [2, 4, 8], [2, 4, 8], [2, 4, 8], [2, 4, 8]),
    Visit("norm", "Norm", "", 1, 2, [2, 4, 8], [2, 4, 8], [2, 4, 8], [2, 4, 8]),
    Visit("self_attn", "Attention", "", 2, 6, [2, 4, 8], [2, 4, 8], [2, 4, 8], [2, 4, 8]),
    Visit("self_attn.q_proj", "Linear", "self_attn", 2, 3, [2, 4, 8], [2, 4, 4], [2, 4, 8], [2, 4, 8],
          backward={"all_reduce": 1}),
    Visit("self_attn.k_proj", "Linear", "self_attn", 2, 4, [2, 4, 8], [2, 4, 4], [2, 4, 8], [2, 4, 8]),
    Visit("self_attn.o_proj", "Linear", "self_attn", 5, 6, [2, 4, 4], [2, 4, 8], [2, 4, 8], [2, 4, 8],
          forward={"all_reduce": 1}),
]  # fmt: skip


def block(framework="one@1.0", visits=VISITS, **more):
    return Block(
        framework=framework, command=f"python -m x --with {framework}", made=MADE, model="model-one",
        layer="model.layers.0", kind="Layer", visits=visits, **more,
    )  # fmt: skip


def text(*rows):
    answers = [column("one@1.0"), column("two@2.0")]
    return "\n".join(layers(Study([run(answers=answers), run(kind=SEQUENCE, answers=answers)], (), rows)))


def test_who_takes_whose_storage_is_an_arrow_with_the_layout_of_its_shape():
    drawn = text(block())
    assert 'n0["norm<br/>no rule"]' in drawn
    for line in ("in -->|Replicate| n0", "n0 -->|Replicate| n1", "n0 -->|Replicate| n2", "n1 -->|Shard(2)| a3",
                 "n2 -->|Shard(2)| a3", "a3 -->|Shard(2)| n3", "n3 -->|Replicate| out"):  # fmt: skip
        assert line in drawn, line
    assert "own arithmetic of<br/>Attention" in drawn


def test_another_storage_is_another_arrow():
    chained = [*VISITS[:4], replace(VISITS[4], takes=3), *VISITS[5:]]
    assert "n1 -->|Replicate| n2" in text(block(visits=chained))
    assert "n1 -->|Replicate| n2" not in text(block())


def test_collectives_stand_in_the_box_that_issued_them():
    drawn = text(block())
    assert "q_proj<br/>colwise<br/>backward: all_reduce" not in drawn
    assert "q_proj<br/>no rule<br/>backward: all_reduce" in drawn
    assert "o_proj<br/>no rule<br/>forward: all_reduce" in drawn
    assert "a layer issues 1 all_reduce in forward and 1 all_reduce in backward." in drawn
    between = [*VISITS[:5], replace(VISITS[5], before={"all_gather": 1})]
    assert "own arithmetic of<br/>Attention<br/>forward: all_gather" in text(block(visits=between))
    assert "all_gather" not in drawn


def test_the_style_is_that_of_the_recorded_plan():
    planned = column("one@1.0")
    planned.plan[0] = replace(planned.plan[0], pattern="model.layers.*.self_attn.q_proj")
    study = Study([run(answers=[planned])], (), [block()])
    assert "q_proj<br/>colwise<br/>backward: all_reduce" in "\n".join(layers(study))


def test_frameworks_that_run_alike_share_a_diagram_and_others_do_not():
    assert text(block(), block("two@2.0")).count("flowchart TD") == 1
    assert "one@1.0, two@2.0, without sequence parallelism" in text(block(), block("two@2.0"))
    other = [*VISITS[:5], replace(VISITS[5], forward={"reduce_scatter": 1}, shape_out=[2, 2, 8])]
    drawn = text(block(), block("two@2.0", visits=other))
    assert drawn.count("flowchart TD") == 2
    assert "n3 -->|Shard(1)| out" in drawn


def test_a_setting_that_changes_nothing_is_said_and_not_drawn_again():
    drawn = text(block(), block(sequence_parallel=True))
    assert drawn.count("flowchart TD") == 1
    assert "With sequence parallelism asked for, exactly as without: one@1.0." in drawn


def test_what_was_not_seen_says_why():
    drawn = text(block(visits=[], unobserved="ValueError: tied"))
    assert "Not seen to run without sequence parallelism: one@1.0: ValueError: tied" in drawn
    assert "flowchart" not in drawn


def test_without_rows_there_is_nothing():
    assert text() == ""


def test_counts_by_kind_are_those_of_forward_loss_and_backward():
    counted = column("one@1.0")
    counted.collectives = {"forward": {"all_reduce": 2}, "loss": {"all_gather": 1}, "loop": {"all_reduce": 9}}
    assert by_kind(Study([run(answers=[counted])])) == [["tp=2", "one@1.0", "2", "1", "0", "0"]]
