"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const nameTheme = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("tpscope-theme", root.dataset.theme);
    } catch {
      // Not kept then; the switch still works on this page.
    }
    nameTheme();
  });
  system.addEventListener("change", nameTheme);
  nameTheme();

  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const only = document.getElementById("only-differing");
  const lists = all("[data-find]").map((node) => ({
    node,
    kind: node.dataset.find,
    items: [...node.children].map((item) => ({ item, text: item.textContent.toLowerCase().replace(/\s+/g, " ") })),
  }));
  const opened = new Set();

  function filter() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const totals = new Map();
    const hits = new Map();
    const shown = [];
    for (const node of opened) node.open = false;
    opened.clear();
    for (const { node, kind, items } of lists) {
      let count = 0;
      for (const { item, text } of items) {
        const differs = kind !== "rows" || !only?.checked || "differs" in item.dataset;
        const match = differs && terms.every((term) => text.includes(term));
        item.hidden = !match;
        if (match) {
          count += 1;
          shown.push(item);
        }
      }
      const [sum, of] = totals.get(kind) ?? [0, 0];
      totals.set(kind, [sum + count, of + items.length]);
      const file = node.closest("details.file");
      if (file) file.hidden = count === 0;
      for (let outer = node.closest("details"); outer; outer = outer.parentElement.closest("details")) {
        hits.set(outer, (hits.get(outer) ?? 0) + count);
      }
    }
    for (const [details, count] of hits) {
      const label = details.querySelector(":scope > summary > .hits");
      if (label) label.textContent = terms.length ? `${count} found` : "";
      if (terms.length && count && !details.open) {
        details.open = true;
        opened.add(details);
      }
    }
    const parts = [...totals].map(([kind, [count, of]]) => `${count} of ${of} ${kind}`);
    found.textContent = terms.length || only?.checked ? parts.join(", ") : "";
    highlight(terms, shown);
  }

  function highlight(terms, shown) {
    if (!globalThis.CSS?.highlights) return;
    const ranges = [];
    for (const item of terms.length ? shown : []) {
      const walker = document.createTreeWalker(item, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode.data.toLowerCase();
        for (const term of terms) {
          for (let at = text.indexOf(term); at >= 0; at = text.indexOf(term, at + term.length)) {
            const range = new Range();
            range.setStart(walker.currentNode, at);
            range.setEnd(walker.currentNode, at + term.length);
            ranges.push(range);
          }
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges.slice(0, 5000)));
  }

  search.addEventListener("input", filter);
  only?.addEventListener("change", filter);
  // A browser may restore both fields when the page is loaded again.
  if (search.value || only?.checked) filter();

  async function copy(control) {
    const list = control.parentElement.querySelector("ol");
    const lines = all("li:not([hidden])", list).map((line) => line.textContent);
    try {
      await navigator.clipboard.writeText(lines.join("\n") + "\n");
      control.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(list);
      control.textContent = "Selected";
    }
    setTimeout(() => {
      control.textContent = "Copy";
    }, 1500);
  }
  for (const control of all("button.copy")) control.addEventListener("click", () => copy(control));

  const cells = all(".rank-grid .rank");
  const readout = document.getElementById("rank-readout");
  function tell(cell) {
    const title = cell.querySelector("title").textContent;
    readout.textContent = `${title}; its tp group: ranks ${cell.closest(".tp-group").dataset.ranks}`;
  }
  function move(cell, to) {
    if (!to || to === cell) return;
    cell.setAttribute("tabindex", "-1");
    to.setAttribute("tabindex", "0");
    to.focus();
  }
  cells.forEach((cell, index) => {
    const group = cell.parentElement.querySelectorAll(".rank").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -group, ArrowDown: group, Home: -index, End: cells.length };
    cell.setAttribute("tabindex", index ? "-1" : "0");
    cell.addEventListener("focus", () => tell(cell));
    cell.addEventListener("pointerenter", () => tell(cell));
    cell.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      move(cell, event.key === "End" ? cells.at(-1) : cells[index + steps[event.key]]);
    });
  });

  const closed = new Set();
  addEventListener("beforeprint", () => {
    for (const details of all("details:not([open])")) {
      closed.add(details);
      details.open = true;
    }
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
    closed.clear();
  });
})();
