"""The study's page in a real Chromium, at phone and desktop width, in both themes."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from test_page import AA, CONTRAST, DESKTOP, PHONE, Page

from tpscope.render.study_html import page
from tpscope.report import study

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
BOTH = [(width, theme) for width in (PHONE, DESKTOP) for theme in ("light", "dark")]

# Text that is wider than what cuts it off: words of a diagram beyond their box or drawing, and hidden overflow.
CLIPPED = """
const clipped = [];
for (const group of document.querySelectorAll('.flow g')) {
  const box = group.querySelector('rect').getBBox();
  for (const text of group.querySelectorAll('text')) {
    const words = text.getBBox();
    if (words.x < box.x - 0.5 || words.x + words.width > box.x + box.width + 0.5 ||
        words.y < box.y - 0.5 || words.y + words.height > box.y + box.height + 0.5) clipped.push(text.textContent);
  }
}
for (const drawn of document.querySelectorAll('svg.flow')) {
  const box = drawn.getBBox();
  if (box.x < 0 || box.y < 0 || box.x + box.width > drawn.viewBox.baseVal.width ||
      box.y + box.height > drawn.viewBox.baseVal.height) clipped.push('drawing ' + drawn.textContent.slice(0, 60));
}
for (const drawn of document.querySelectorAll('svg.bars, svg.rank-grid')) {
  const { width, height } = drawn.viewBox.baseVal;
  for (const text of drawn.querySelectorAll('text')) {
    const words = text.getBBox();
    if (words.x < -0.5 || words.y < -0.5 || words.x + words.width > width + 0.5 ||
        words.y + words.height > height + 0.5) clipped.push(text.textContent);
  }
}
for (const text of document.querySelectorAll('.mark text, .rank text')) {
  const [words, box] = [text.getBBox(), text.parentElement.querySelector('rect').getBBox()];
  if (words.x < box.x - 0.5 || words.x + words.width > box.x + box.width + 0.5) clipped.push(text.textContent);
}
for (const node of document.querySelectorAll('main *:not(svg *), header *, nav *')) {
  const style = getComputedStyle(node);
  if (['hidden', 'clip'].includes(style.overflowX) && node.scrollWidth > node.clientWidth) clipped.push(node.tagName);
}
return clipped;
"""
# Texts of one drawing that lie on each other.
COVERED = """
const covered = [];
for (const drawn of document.querySelectorAll('svg.flow, svg.bars, svg.rank-grid')) {
  const boxes = [...drawn.querySelectorAll('text')].map((text) => [text.textContent, text.getBBox()]);
  boxes.forEach(([one, a], index) => boxes.slice(index + 1).forEach(([other, b]) => {
    const across = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
    const down = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
    if (across > 1 && down > 3) covered.push(one + ' | ' + other);
  }));
}
return covered;
"""
# Table cells whose text runs into the next cell.
SPILLED = """
return [...document.querySelectorAll('td, th')].filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
  .map((cell) => cell.textContent.slice(0, 60));
"""


def text():
    """The recorded study; a made-up one where none was recorded."""
    if (ROOT / study.STUDY).is_file():
        return (ROOT / study.STUDY).read_text(encoding="utf-8")
    from test_study import ROWS

    return study.page(ROWS)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(text()), encoding="utf-8")
    assert file.stat().st_size < 3_000_000
    return file.as_uri()


@pytest.fixture
def opened(chromium, address):
    found = Page(chromium, address)
    found.complaints()
    yield found.open()
    assert found.complaints() == []


def test_it_opens_offline_and_fetches_nothing(opened):
    assert "tensor parallelism" in opened.find("h1").text
    assert opened.run("return performance.getEntriesByType('resource').length") == 0


def test_the_eleven_sections_are_there_in_order(opened):
    titles = [node.text for node in opened.shown("h2")]
    numbers = [title.partition(".")[0] for title in titles if title[0].isdigit()]
    assert numbers == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize(("width", "theme"), BOTH)
def test_nothing_overflows_and_no_text_is_clipped(opened, width, theme):
    opened.open(width=width, theme=theme)
    assert opened.overflow() == 0
    opened.expand_all()
    assert opened.overflow() == 0
    assert opened.run(CLIPPED) == []
    assert opened.run(SPILLED) == []
    assert opened.run(COVERED) == []


def test_text_beyond_its_box_would_be_seen(opened):
    opened.run("document.querySelector('.flow g rect').setAttribute('width', '10')")
    assert opened.run(CLIPPED) != []


def test_text_on_text_and_a_label_beyond_its_plot_would_be_seen(opened):
    opened.run("document.querySelector('.flow text.layout').setAttribute('y', '30')")
    opened.run("document.querySelector('.flow text.layout').setAttribute('x', '170')")
    assert opened.run(COVERED) != []
    assert opened.run(CLIPPED) == []
    opened.run("document.querySelector('.bars text.name').setAttribute('x', '10')")
    assert opened.run(CLIPPED) != []


def test_every_plot_has_its_words_and_its_table_under_it(opened):
    said = opened.run("return [...document.querySelectorAll('svg.bars desc')].map((one) => one.textContent)")
    assert said
    assert all(re.search(r"\d", words) for words in said)
    under = "return [...document.querySelectorAll('figure.plot + .scroll > table')].length"
    assert opened.run(under) == len(opened.shown("figure.plot"))
    assert len(opened.shown("figure.plot")) <= 8


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_keep_their_colours_apart(opened, theme):
    opened.open(theme=theme)
    coloured = "(one) => [one.className.baseVal, getComputedStyle(one).fill]"
    fills = opened.run(f"return [...document.querySelectorAll('.key rect')].map({coloured})")
    assert len({fill for _, fill in fills}) == len({name for name, _ in fills}) > 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast_aa(opened, theme):
    opened.open(theme=theme)
    opened.expand_all()
    seen, poor = opened.run(CONTRAST, AA)
    assert seen > 100
    assert poor == []


def test_search_shows_what_has_the_words_and_nothing_else(opened):
    everything = len(opened.shown("tbody tr"))
    opened.type("optimized_tp_plans.py")
    rows = opened.shown("tbody tr")
    assert 0 < len(rows) < everything
    assert all("optimized_tp_plans.py" in row.get_attribute("textContent") for row in rows)
    assert len(opened.shown(".chapter")) < 12
    assert "rows" in opened.find("#found").text
    opened.type("no such words anywhere")
    assert opened.shown("tbody tr") == []
    assert opened.find("#nothing").is_displayed()


def test_clearing_the_search_puts_everything_back(opened):
    before = opened.find("main").text
    opened.type("qwen3")
    opened.find("#search").clear()
    opened.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    assert opened.find("main").text == before


def test_a_table_sorts_up_down_and_back(opened):
    table = next(
        node for node in opened.shown("table.sortable") if len(node.find_elements("css selector", "tbody tr")) > 5
    )
    first = lambda: [row.text for row in table.find_elements("css selector", "tbody tr td:first-child")]  # noqa: E731
    button, head = (table.find_element("css selector", selector) for selector in ("th:first-child .sort", "th"))
    original = first()
    button.click()
    assert first() == sorted(original, key=str.casefold)
    assert head.get_attribute("aria-sort") == "ascending"
    button.click()
    assert first() == sorted(original, key=str.casefold, reverse=True)
    button.click()
    assert first() == original
    assert head.get_attribute("aria-sort") is None


def test_evidence_expands_by_keyboard(opened):
    assert opened.shown(".evidence li") == []
    opened.find(".evidence > summary").send_keys(" ")
    assert ":" in opened.shown(".evidence li")[0].text


def test_the_menu_is_open_beside_the_text_and_closed_above_it_on_a_phone(opened):
    assert opened.shown("#menu a")
    opened.open(width=PHONE)
    assert opened.shown("#menu a") == []
    opened.find("#menu > summary").click()
    opened.shown("#menu a")[3].click()
    assert opened.shown("#menu a") == []
    assert opened.run("return location.hash.length") > 1


def test_every_drawing_has_a_title_and_its_words(opened):
    said = opened.run(
        "return [...document.querySelectorAll('svg.flow')].map((s) => s.querySelector('desc').textContent)"
    )
    assert said
    assert all(len(words) > 15 for words in said)


def test_every_link_leads_somewhere(opened):
    gone = """
    return [...document.querySelectorAll('a[href^="#"]')].map((link) => link.hash)
      .filter((hash) => !document.getElementById(decodeURIComponent(hash.slice(1))));
    """
    assert opened.run(gone) == []


def test_printed_tables_keep_their_headings(opened):
    seen = "return [...document.querySelectorAll('thead th')].every((one) => one.innerText.trim() !== '')"
    opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert opened.run(seen)
        opened.run("document.querySelector('thead button').style.display = 'none'")
        assert not opened.run(seen)
    finally:
        opened.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_printing_expands_everything(opened):
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run("return document.querySelectorAll('details:not([open])').length") == 0
    opened.run("dispatchEvent(new Event('afterprint'))")
