"""A flow in layers: boxes side by side take the same input, arrows go straight down and touch both their boxes."""

import re

from tpscope.render import diagram, layered
from tpscope.report.text import flow_diagram, mesh_diagram

NODES = [("i", "input"), ("q", "q_proj<br/>colwise"), ("k", "k_proj"), ("a", "own arithmetic"), ("o", "o_proj")]
EDGES = [
    ("i", "q", "Replicate"),
    ("i", "k", "Replicate"),
    ("q", "a", "Shard(2)"),
    ("k", "a", "Shard(2)"),
    ("a", "o", ""),
]


def source(lines):
    return "\n".join(line for line in lines if not line.startswith("```"))


def flow(edges=EDGES):
    return diagram.read(source(flow_diagram(NODES, edges)))


def boxes(drawn):
    """Words of a box to its x, y, width, height."""
    found = re.findall(
        r'<g class="box"><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"[^>]*/>(.*?)</g>', drawn
    )
    return {re.findall(r">([^<]+)</text>", words)[0]: tuple(map(float, (x, y, w, h))) for x, y, w, h, words in found}


def test_a_flow_that_asks_nothing_is_drawn_in_layers_and_one_that_asks_is_not():
    assert diagram.layered(flow())
    assert not diagram.layered(diagram.read('flowchart TD\n    s["plan?"] --> q0{"given?"}'))
    assert not diagram.layered(diagram.read('flowchart LR\n    n0["a"]\n    n1["b"]\n    n0 --> n1'))


def test_what_takes_the_same_stands_side_by_side_and_what_takes_both_below():
    found = boxes(layered.svg(flow(), 1, "A layer"))
    assert list(found) == ["input", "q_proj", "k_proj", "own arithmetic", "o_proj"]
    assert found["q_proj"][1] == found["k_proj"][1]
    assert found["q_proj"][0] + found["q_proj"][2] <= found["k_proj"][0]
    assert found["own arithmetic"][1] > found["q_proj"][1] + found["q_proj"][3]
    chained = boxes(layered.svg(flow([("i", "q", ""), ("q", "k", ""), ("k", "a", ""), ("a", "o", "")]), 1, "A layer"))
    assert chained["q_proj"][1] != chained["k_proj"][1]


def test_every_arrow_starts_at_a_box_and_ends_at_one():
    drawn = layered.svg(flow(), 1, "A layer")
    found = boxes(drawn).values()
    arrows = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)" marker', drawn)
    assert len(arrows) == len(EDGES)
    for x, top, to, bottom in (map(float, arrow) for arrow in arrows):
        assert x == to
        assert any(left <= x <= left + width and abs(y + height - top) < 0.01 for left, y, width, height in found)
        assert any(left <= x <= left + width and abs(y - bottom) < 0.01 for left, y, width, height in found)


def test_the_words_name_every_arrow_with_its_layout():
    words = diagram.said(flow())
    assert "input to (Replicate) q_proj colwise" in words
    assert "own arithmetic to o_proj" in words
    assert "Shard(1)" not in words


def test_a_mesh_has_every_rank_once_with_the_last_axis_fastest():
    lines = mesh_diagram({"pp": 2, "dp_shard": 1, "tp": 3})
    assert diagram.mesh(source(lines)) == {"pp": 2, "dp_shard": 1, "tp": 3}
    assert [line.strip() for line in lines if "ranks" in line] == [
        'm0_["tp: ranks 0, 1, 2"]',
        'm1_["tp: ranks 3, 4, 5"]',
    ]
    assert "dp_shard 0" not in source(lines)
    assert diagram.mesh(source(flow_diagram(NODES, EDGES))) == {}


def test_the_frames_of_a_mesh_are_closed():
    lines = [line.strip() for line in mesh_diagram({"pp": 2, "cp": 2, "tp": 2})]
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end") == 6
