"""A plot is the table under it: every number that stands there is drawn, and nothing else."""

import re

import pytest

from tpscope.render.plot import plot
from tpscope.render.study_html import page
from tpscope.report.text import plotted, table

HEAD = ["framework", "scenario", "equal", "different", "crashed"]
ROWS = [["one@1", "plain", "7", "2", "0"], ["one@1", "clip", "9", "0", "0"], ["two@2", "plain", "0", "1", "8"]]
SHARES = [["`a-model`", "100.0%", "50.0%"], ["`b-model`", "25.0%", "-"]]


def widths(drawn):
    return [
        float(width)
        for width in re.findall(r'<g class="mark">(?:<title>.*?</title>)?<rect [^>]*width="([\d.]+)"', drawn)
    ]


def stacked(rows=ROWS):
    return plot("stacked", HEAD, rows, "Proofs", 1)


def test_every_count_that_is_not_zero_is_a_part_as_long_as_it_is_large():
    found = widths(stacked())
    assert len(found) == 5
    assert found[0] / found[1] == pytest.approx(7 / 2, rel=0.02)
    more = widths(stacked([["one@1", "plain", "7", "2", "4"], *ROWS[1:]]))
    assert len(more) == 6


def test_the_words_beside_a_drawing_say_every_number():
    drawn = stacked()
    assert "plain: 7 equal, 2 different; clip: 9 equal." in drawn
    assert "plain: 1 different, 8 crashed." in drawn
    assert "8 crashed" not in stacked(ROWS[:2])


def test_a_verdict_has_the_same_colour_in_every_plot():
    only = plot("stacked", ["framework", "scenario", "crashed"], [["x@1", "plain", "3"]], "Proofs", 2)
    assert re.search(r'<rect class="s2"[^>]*/><text class="on s2"', only)
    assert 'class="s0"' not in only


def test_what_is_no_number_is_written_and_not_drawn():
    drawn = plot("bars", ["model", "one@1", "two@2"], SHARES, "Share", 3)
    assert len(widths(drawn)) == 3
    assert "b-model: -." in drawn
    assert drawn.count('class="head"') == 2


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="none of stacked, bars"):
        plot("pie", HEAD, ROWS, "Proofs", 1)


def document(mark):
    lines = ["# Study", "", "## 1. One", "", *mark, *table("Proofs by framework.", HEAD, ROWS)]
    return page("\n".join(lines))


def test_a_page_draws_a_marked_table_above_it_and_no_other():
    drawn = document(plotted("stacked"))
    assert drawn.index('<figure class="plot"') < drawn.index('<table class="sortable">')
    assert "plot: stacked" not in drawn
    assert '<figure class="plot"' not in document([])


def test_labels_leave_room_for_themselves():
    long = [["one@1", "a-rather-long-scenario-name", "7", "2", "0"]]
    x = float(re.search(r'<text class="name" x="([\d.]+)"', plot("stacked", HEAD, long, "Proofs", 1))[1])
    assert x >= len("a-rather-long-scenario-name") * 6.5
