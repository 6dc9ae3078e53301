"""What others published: rows with sources, and predictions that are recorded and not calibrated on."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tpscope.price import published
from tpscope.report import published_page

ROWS = published.rows()


def test_every_row_has_a_source_and_a_layout_of_its_gpus():
    assert len(ROWS) > 20
    assert {row.repository for row in ROWS} == {"pytorch/torchtitan", "NVIDIA-NeMo/Automodel"}
    for row in ROWS:
        assert len(row.commit) == 40
        assert row.text.startswith("| ")
    with pytest.raises(ValidationError, match="the layout is not of 7 GPUs"):
        published.Row.model_validate(ROWS[0].model_dump() | {"gpus": 7})


def test_every_published_figure_stands_in_the_text_of_its_line():
    for row in ROWS:
        cells = {cell.strip().replace(",", "") for cell in row.text.split("|")}
        figures = [row.tokens_per_second, row.seconds, row.memory_gib]
        for figure in figures:
            assert figure is None or any(_is(cell, figure) for cell in cells), (row.name, figure)


def _is(cell, figure):
    try:
        return float(cell) == figure
    except ValueError:
        return False


def test_float8_is_not_predicted_and_what_is_compiled_there_is_said():
    float8 = next(row for row in ROWS if row.float8)
    assert "float8" in published.predict(float8, pool=None).why
    compiled = next(row for row in ROWS if row.compile and not row.float8)
    assert "compiled there, eager here" in compiled.differences
    eager = next(row for row in ROWS if not row.compile and not row.unmodelled)
    assert "compiled there, eager here" not in eager.differences


def test_what_is_recorded_is_of_these_rows_and_the_page_shows_each():
    found = published.recorded_in(Path())
    assert [one.row for one in found.rows] == ROWS
    text = "\n".join(published_page.section(found))
    for one in found.rows:
        assert f"{one.row.path.rpartition('/')[2]}:{one.row.line}" in text
        assert (one.tokens_per_second is None) == bool(one.why)
