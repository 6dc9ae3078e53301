"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const kept = localStorage.getItem("tpscope-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch {
    // A browser may forbid storage to files; the system's theme then holds.
  }
})();
