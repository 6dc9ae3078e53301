"""The matrix: one trace for all machines, and what was asked wrongly."""

import json
from io import StringIO
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.price import hardware
from tpscope.price.matrix import Cell, Matrix, matrix, numbers, words
from tpscope.render import document
from tpscope.render.price import runs, show_matrix


def test_several_sizes_and_machines_are_named_with_commas():
    assert (numbers("2,4, 8"), words("h200, h100")) == ([2, 4, 8], ["h200", "h100"])
    for wrong in ("2,four", "0", ""):
        with pytest.raises(UserError, match="is no number of ranks"):
            numbers(wrong)


def test_a_cell_without_a_price_says_so_and_its_words_stand_below():
    console = Console(file=StringIO(), width=120)
    good = Cell("m", 2, "nemo@0.7.0", "h200", 1, 8, standing="calibrated", step_ms=12.0, peak_bytes=2**30, fits=False)
    show_matrix(Matrix([good, Cell("n", 2, "nemo@0.7.0", "h200", 1, 8, "refused", "ValueError: odd heads")]), console)
    text = console.file.getvalue()
    assert "refused" in text
    assert "nemo@0.7.0, n: ValueError: odd heads" in text
    assert "h200 calibrated" in text
    assert "nothing was measured" not in text
    good.assumed.append("nothing was measured on it")
    show_matrix(Matrix([good]), console)
    assert "h200: nothing was measured on it" in console.file.getvalue()


def test_runs_of_layers_are_told_by_their_ends():
    assert runs([0, 1, 2, 8, 10, 11]) == "0 to 2, 8, 10 to 11"


@pytest.mark.frameworks
def test_a_faster_machine_is_faster_and_holds_the_same_bytes(pool):
    machines = {name: hardware.machine(name) for name in ("h200", "a100")}
    targets = [registry.parse(text) for text in ("nemo@0.7.0", "axolotl@0.19.0")]
    found = matrix(["qwen3-0.6b", "qwen2.5-7b"], [8], targets, machines, pool, 1, 512)
    assert len(found.cells) == 8
    h200, a100 = found.cells[:2]
    assert (h200.hardware, a100.hardware) == ("h200", "a100")
    assert h200.parts["compute"] < a100.parts["compute"]
    assert (h200.peak_bytes, h200.sent_bytes) == (a100.peak_bytes, a100.sent_bytes)
    assert 0 < h200.pass_ms < h200.step_ms
    refused = next(cell for cell in found.cells if cell.model == "qwen2.5-7b" and cell.framework == "nemo@0.7.0")
    assert (refused.status, "divisible by TP size" in refused.said) == ("refused", True)
    stops = next(cell for cell in found.cells if cell.model == "qwen2.5-7b" and cell.framework == "axolotl@0.19.0")
    assert (stops.status, stops.step_ms, stops.said.startswith("its own forward raises")) == ("stops", 0.0, True)
    jsonschema.validate(
        json.loads(document.document(found)), json.loads(Path("docs/schema/price-matrix.json").read_text())
    )
