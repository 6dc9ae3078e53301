"""A diagram is drawn from the description that the Markdown has, and its words stay inside their boxes."""

import re

import pytest

from tpscope.language.answer import Step
from tpscope.render import diagram
from tpscope.report.text import chain_diagram, selection_diagram

STEPS = [
    Step("custom", 'a "custom" plan is given', "not asked: not so here"),
    Step("optimized", "the class is in THE_TABLE_OF_FUNCTIONS", "gave the plan"),
    Step("base", "nothing else gave a plan", "not reached"),
]


def source(lines):
    return "\n".join(line for line in lines if not line.startswith("```"))


def test_every_question_and_level_of_the_selection_is_in_the_drawing():
    flow = diagram.read(source(selection_diagram(STEPS)))
    assert [node.text for node in flow.nodes if node.question] == [f"{step.tried_when}?" for step in STEPS[:-1]]
    assert [node.text for node in flow.nodes if node.thick] == ["optimized"]
    drawn = diagram.svg(flow, 1)
    assert "custom" in drawn
    assert "base" in drawn
    assert 'class="box taken"' in drawn
    assert "(taken)" in diagram.said(flow)


def test_a_chain_is_drawn_in_its_order():
    flow = diagram.read(source(chain_diagram(["pp = 2", "tp = 2"])))
    assert diagram.said(flow) == "In order: pp = 2; then tp = 2."
    drawn = diagram.svg(flow, 7)
    assert drawn.index("pp = 2</text>") < drawn.index("tp = 2</text>")
    assert 'id="flow-7-title"' in drawn


def test_long_paths_are_broken_to_fit_a_phone():
    path = "/".join(["a_long_folder_name"] * 6) + "/with_a_module.py<br/>function_one, function_two"
    drawn = diagram.svg(diagram.read(source(chain_diagram([path, path]))), 1)
    assert float(re.search(r'width="(\d+)"', drawn)[1]) <= 328


def test_what_the_study_does_not_write_is_not_drawn():
    with pytest.raises(ValueError, match="no node"):
        diagram.read("flowchart LR\n    subgraph x")
    with pytest.raises(ValueError, match="not a flowchart"):
        diagram.read("pie")


def test_text_is_escaped():
    assert "<script>" not in diagram.svg(diagram.read(source(chain_diagram(["<script>", "b"]))), 1)
