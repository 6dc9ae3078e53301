"""Plans that `tpscope plan` writes run through the frameworks that they are for, and a broken one does not pass."""

import pytest

from tpscope.language.verdict import Verdict
from tpscope.plan import formats
from tpscope.plan.run import derive
from tpscope.prove.through import FRAMEWORKS, through

pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("columns")]


def said(kind, text):
    pass


@pytest.mark.parametrize("form", ["transformers", pytest.param("nemo", marks=pytest.mark.sweep)])
def test_a_fused_model_is_equal_through_the_framework_and_its_plain_columns_are_not(form):
    result = derive("phi-3-mini", 2, said, form=form)
    text = formats.write(result.case, form).text
    assert through(text, form, "phi-3-mini", 2, FRAMEWORKS[form], said).verdict is Verdict.EQUAL
    for good, bad in (
        ("colwise_gather_output", "colwise"), ("rowwise_split_input", "rowwise"), ("output_layouts=Replicate()", ""),
        ("RowwiseParallel(input_layouts=Replicate()),\n    \"model.l", "RowwiseParallel(),\n    \"model.l"),
    ):  # fmt: skip
        text = text.replace(good, bad)
    assert through(text, form, "phi-3-mini", 2, FRAMEWORKS[form], said).verdict in (Verdict.DIFFERENT, Verdict.CRASHED)
