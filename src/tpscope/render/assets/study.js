(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const menu = document.getElementById("menu");
  const desktop = matchMedia("(min-width: 64rem)");
  const fit = () => {
    menu.open = desktop.matches;
  };
  desktop.addEventListener("change", fit);
  fit();
  for (const link of all("a", menu)) {
    link.addEventListener("click", () => {
      if (!desktop.matches) menu.open = false;
    });
  }

  for (const table of all("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = all("thead th", table);
    const value = (row, column) => row.cells[column].textContent.trim();
    const numeric = (text) => (/^[-+]?[\d,.]+\s*(%|\D*)$/.test(text) ? Number.parseFloat(text.replaceAll(",", "")) : NaN);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const next = { ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")] ?? "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const rows = [...original];
        if (next !== "none") {
          rows.sort((a, b) => {
            const [x, y] = [value(a, column), value(b, column)];
            const [m, n] = [numeric(x), numeric(y)];
            const both = !Number.isNaN(m) && !Number.isNaN(n);
            return sign * (both ? m - n : x.localeCompare(y, "en", { numeric: true }));
          });
        }
        body.append(...rows);
      });
    });
  }

  const search = document.getElementById("search");
  const blocks = all(".block").map((node) => ({
    node,
    items: all("[data-find] > *", node),
    words: all(":scope > :is(h2, h3, h4, p, pre, figure), summary", node).map((part) => part.textContent).join(" ").toLowerCase(),
  }));
  function narrow() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { node, items, words } of blocks) {
      const said = terms.every((term) => words.includes(term));
      node.hidden = terms.length > 0 && !said && items.every((item) => item.hidden);
    }
    for (const table of all(".block > .scroll:has(table), details.evidence")) {
      const items = all("[data-find] > *", table);
      table.hidden = terms.length > 0 && items.every((item) => item.hidden);
    }
    let shown = 0;
    for (const chapter of all(".chapter")) {
      const some = all(".block", chapter).some((block) => !block.hidden);
      chapter.hidden = terms.length > 0 && !some;
      shown += some;
    }
    document.getElementById("nothing").hidden = shown > 0;
  }
  search.addEventListener("input", narrow);
  if (search.value) narrow();
})();
