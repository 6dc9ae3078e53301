import time

import pytest
import sample

from tpscope.render.html import page

pytestmark = pytest.mark.browser

PHONE, DESKTOP = 360, 1280
RANKS, TP = 32, 4
AA = 4.5

CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ratio = (a, b) => {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  throw new Error("nothing is painted behind this text");
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.getClientRects().length || node.closest("script, title, desc")) continue;
  const drawn = node.closest("svg");
  const square = node.closest(".rank, .mark")?.querySelector("rect");
  const front = parse(drawn ? getComputedStyle(node).fill : getComputedStyle(node).color);
  const back = square ? parse(getComputedStyle(square).fill) : behind(node);
  const value = ratio(front, back);
  seen += 1;
  if (value < arguments[0]) poor.push([node.tagName, node.className.toString(), node.textContent.slice(0, 40), value]);
}
return [seen, poor];
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    columns = [sample.alpha(), sample.beta(), sample.refused()]
    file = tmp_path_factory.mktemp("page") / "compare.html"
    file.write_text(page(sample.comparison(*columns, pp=2, dp_shard=4, tp=TP)), encoding="utf-8")
    return file.as_uri()


class Page:
    """The opened page, asked in the words of the tests."""

    def __init__(self, driver, address):
        self.driver = driver
        self.address = address

    def open(self, width=DESKTOP, theme="light"):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(self.address)
        # By the browser, not by the page: what one process clears late would take away what the next one stores.
        origin = {"origin": "file:///", "storageTypes": "local_storage"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", origin)
        assert self.reload_until("return document.documentElement.dataset.theme === undefined")
        return self

    def reload_until(self, script, *arguments):
        """Open the page anew. What it stored reaches the next process of Chromium later: by seconds, when busy."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.driver.get(self.address)
            if self.run(script, *arguments):
                return True
            time.sleep(0.2)
        return False

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def shown(self, selector):
        # One call for all: asking node by node takes half a minute on a page of thousands.
        visible = "return [...document.querySelectorAll(arguments[0])].filter(node => node.checkVisibility())"
        return self.driver.execute_script(visible, selector)

    def type(self, words):
        field = self.find("#search")
        field.clear()
        field.send_keys(words)

    def expand_all(self):
        self.run("for (const details of document.querySelectorAll('details')) details.open = true")

    def background(self):
        return self.run("return getComputedStyle(document.body).backgroundColor")

    def overflow(self):
        return self.run("const root = document.documentElement; return root.scrollWidth - root.clientWidth")

    def fills(self):
        return self.run("return [...document.querySelectorAll('.rank > rect')].map((r) => getComputedStyle(r).fill)")

    def complaints(self):
        return self.driver.get_log("browser")


@pytest.fixture
def opened(chromium, address):
    found = Page(chromium, address)
    found.complaints()
    yield found.open()
    assert found.complaints() == []


def test_it_opens_offline_and_fetches_nothing(opened):
    opened.open()
    assert opened.find("h1").text == "sample-1b"
    assert opened.run("return performance.getEntriesByType('resource').length") == 0


def test_search_filters_rows_evidence_and_logs(opened):
    everything = len(opened.shown(".parameters tbody tr"))
    opened.type("q_norm")
    rows = opened.shown(".parameters tbody tr")
    assert 0 < len(rows) < everything
    assert all("q_norm" in row.text for row in rows)
    opened.type("registry.py 8")
    assert [line.text for line in opened.shown("[data-find=evidence] li")] == [
        "alpha/registry.py:8: choose_plan: candidate = sources[1](model)"
    ]
    opened.type("TOTAL steps")
    assert [line.text for line in opened.shown("[data-find=messages] li")] == ["INFO beta.trainer total steps = 1"]
    assert opened.find("#found").text.startswith("0 of 5 rows")


def test_clearing_the_search_puts_everything_back(opened):
    before = opened.find("main").text
    opened.type("registry")
    opened.find("#search").clear()
    opened.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    assert opened.find("main").text == before


def test_only_where_columns_differ(opened):
    opened.find("#only-differing").click()
    rows = opened.shown(".parameters tbody tr")
    assert len(rows) == 3
    assert all("differs" in row.text for row in rows)
    opened.find("#only-differing").click()
    assert len(opened.shown(".parameters tbody tr")) == 5


def test_expanding_evidence_shows_path_and_line(opened):
    assert opened.shown(".trail li") == []
    opened.find(".trail > summary").click()
    assert opened.shown(".trail li")[0].text.startswith("alpha/distributed/plans.py:40: choose_plan: ")


def test_evidence_can_be_expanded_and_copied_by_keyboard(opened):
    summary = opened.find(".trail > summary")
    summary.send_keys(" ")
    button = opened.find(".trail .copy")
    button.send_keys("\n")
    assert button.get_attribute("aria-label") == "Copy the lines of alpha/distributed/plans.py"
    opened.run("return new Promise((done) => setTimeout(done, 200))")
    assert button.text in ("Copied", "Selected")


def test_the_rank_grid_has_every_rank(opened):
    assert len(opened.shown(".rank")) == RANKS


def test_pointing_at_a_rank_highlights_its_tp_group_and_no_other(opened):
    from selenium.webdriver import ActionChains

    plain = opened.fills()
    assert len(set(plain)) == 1
    cell = opened.find(".rank[data-rank='6']")
    opened.run("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(opened.driver).move_to_element(cell).perform()
    lit = [rank for rank, (fill, before) in enumerate(zip(opened.fills(), plain, strict=True)) if fill != before]
    assert lit == [4, 5, 6, 7]
    assert opened.find("#rank-readout").text == "rank 6: pp 0, dp_shard 1, tp 2; its tp group: ranks 4 to 7"
    ActionChains(opened.driver).move_to_element(opened.find("#ranks-title")).perform()
    assert opened.fills() == plain


def test_arrow_keys_move_over_the_ranks(opened):
    from selenium.webdriver.common.keys import Keys

    first = opened.find(".rank[tabindex='0']")
    first.send_keys(Keys.ARROW_DOWN)
    active = opened.driver.switch_to.active_element
    assert active.get_attribute("data-rank") == str(TP)
    active.send_keys(Keys.END)
    active = opened.driver.switch_to.active_element
    assert active.get_attribute("data-rank") == str(RANKS - 1)
    active.send_keys(Keys.ARROW_RIGHT)
    assert opened.driver.switch_to.active_element == active
    assert len(opened.driver.find_elements("css selector", ".rank[tabindex='0']")) == 1


@pytest.mark.parametrize(("theme", "other"), [("light", "dark"), ("dark", "light")])
def test_the_switch_changes_the_theme_and_back(opened, theme, other):
    opened.open(theme=theme)
    before = opened.background()
    button = opened.find("#theme")
    assert button.text == f"{other.capitalize()} theme"
    button.click()
    after = opened.background()
    assert after != before
    assert button.text == f"{theme.capitalize()} theme"
    assert opened.reload_until("return getComputedStyle(document.body).backgroundColor === arguments[0]", after)
    opened.find("#theme").click()
    assert opened.background() == before


def test_the_switch_works_where_storage_is_forbidden(opened):
    forbid = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    script = opened.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": forbid})
    try:
        opened.open()
        before = opened.background()
        opened.find("#theme").click()
        assert opened.background() != before
    finally:
        opened.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_does_not_scroll_sideways(opened, width):
    opened.open(width=width)
    assert opened.overflow() == 0
    opened.expand_all()
    assert opened.overflow() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_contrast_aa(opened, theme):
    opened.open(theme=theme)
    opened.expand_all()
    seen, poor = opened.run(CONTRAST, AA)
    assert seen > 200
    assert poor == []
    opened.find(".rank[tabindex='0']").send_keys("")
    assert opened.run(CONTRAST, AA)[1] == []


def test_focus_is_visible_and_starts_at_the_skip_link(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find("body").send_keys(Keys.TAB)
    active = opened.driver.switch_to.active_element
    assert active.text == "Skip to the columns"
    seen = set()
    for _ in range(12):
        active = opened.driver.switch_to.active_element
        seen.add(active.tag_name)
        style = opened.run("const s = getComputedStyle(arguments[0]); return [s.outlineStyle, s.outlineWidth]", active)
        assert style == ["solid", "2px"]
        active.send_keys(Keys.TAB)
    assert {"a", "input", "button", "summary"} <= seen


def test_printing_expands_everything_and_puts_it_back(opened):
    closed = "return document.querySelectorAll('details:not([open])').length"
    before = opened.run(closed)
    assert before > 0
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run(closed) == 0
    opened.run("dispatchEvent(new Event('afterprint'))")
    assert opened.run(closed) == before
