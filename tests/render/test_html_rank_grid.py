import re
from math import prod

import pytest

from tpscope.render.rank_grid import MOST_RANKS, rank_grid

LAYOUTS = [
    {"tp": 1},
    {"tp": 2},
    {"dp_shard": 7, "tp": 3},
    {"pp": 2, "dp_replicate": 2, "dp_shard": 2, "cp": 2, "tp": 2},
    {"dp_shard": 16, "tp": 8},
    {"tp": 64},
    {"pp": 4, "dp_shard": 32, "tp": 8},
    {"dp_shard": 1024},
]


def ranks(svg: str) -> list[int]:
    return [int(found) for found in re.findall(r'data-rank="(\d+)"', svg)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_is_drawn_once(layout):
    assert ranks(rank_grid(layout)) == list(range(prod(layout.values())))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_nothing_is_drawn_outside_the_picture_or_over_another_rank(layout):
    svg = rank_grid(layout)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())
    number = r'="([\d.]+)"'
    seen = re.findall(rf"</title><rect x{number} y{number} width{number} height{number}", svg)
    assert len(set(seen)) == prod(layout.values())
    boxes = re.findall(rf"<rect[^>]*? x{number} y{number} width{number} height{number}", svg)
    for x, y, wide, high in boxes:
        assert float(x) + float(wide) <= width
        assert float(y) + float(high) <= height


def test_tp_varies_fastest():
    svg = rank_grid({"pp": 2, "dp_shard": 3, "cp": 2, "tp": 4})
    assert "<title>rank 0: pp 0, dp_shard 0, cp 0, tp 0</title>" in svg
    assert "<title>rank 5: pp 0, dp_shard 0, cp 1, tp 1</title>" in svg
    assert "<title>rank 47: pp 1, dp_shard 2, cp 1, tp 3</title>" in svg


def test_a_frame_holds_one_tp_group():
    svg = rank_grid({"dp_shard": 3, "tp": 4})
    groups = svg.split('<g class="tp-group"')[1:]
    assert [ranks(group) for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert 'data-ranks="4 to 7"' in svg


def test_every_axis_with_more_than_one_rank_is_labelled():
    svg = rank_grid({"pp": 2, "dp_replicate": 2, "dp_shard": 2, "cp": 2, "tp": 2})
    for axis in ("pp", "dp_replicate", "dp_shard", "cp"):
        assert f">{axis} 0</text>" in svg
        assert f">{axis} 1</text>" in svg
    assert "tp 0 to 1 left to right" in svg


def test_numbers_are_left_out_where_they_would_not_be_readable():
    assert ">127</text>" in rank_grid({"dp_shard": 16, "tp": 8})
    assert ">129</text>" not in rank_grid({"dp_shard": 17, "tp": 8})
    assert "<title>rank 129: " in rank_grid({"dp_shard": 17, "tp": 8})


def test_it_can_be_read_without_seeing_it():
    svg = rank_grid({"dp_shard": 2, "tp": 4})
    assert '<title id="rank-title">8 ranks of the mesh</title>' in svg
    assert "dp_shard 2 x cp 1 x tp 4. tp varies fastest" in svg
    assert "2 groups of 4 ranks" in svg


def test_of_a_huge_world_the_first_ranks_are_drawn_and_it_is_said():
    svg = rank_grid({"pp": 16, "dp_shard": 128, "tp": 8})
    assert ranks(svg) == list(range(MOST_RANKS))
    assert "The first 1024 of 16384 ranks are drawn" in svg
    assert "ranks 0 to 1023 of 16384" in svg


def test_other_entries_of_a_layout_are_no_axes():
    assert rank_grid({"tp": 2, "world": 2, "sequence_parallel": False}) == rank_grid({"tp": 2})
