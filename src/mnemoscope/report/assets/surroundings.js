"use strict";
// What every page has around its findings: a theme, contents that follow the reader, copying, printing, resizing.
(() => {
  const { copyText } = mnemoscope;

  /** Light or dark: what the system says, until the reader says otherwise; remembered where that is allowed. */
  function makeTheme() {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const button = document.getElementById("theme");
    const listeners = [];
    const isDark = () => (root.dataset.theme === "auto" ? system.matches : root.dataset.theme === "dark");
    const tell = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
      for (const listener of listeners) listener();
    };
    try {
      root.dataset.theme = localStorage.getItem("mnemoscope-theme") ?? "auto";
    } catch {
      root.dataset.theme = "auto"; // a browser that keeps nothing for local files
    }
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try {
        localStorage.setItem("mnemoscope-theme", root.dataset.theme);
      } catch {
        // the choice lasts as long as the page
      }
      tell();
    });
    system.addEventListener("change", tell);
    tell();
    return { isDark, onChange: (listener) => listeners.push(listener) };
  }

  function wireCopies() {
    for (const button of document.querySelectorAll("[data-copies]")) {
      button.addEventListener("click", () => copyText(document.getElementById(button.dataset.copies).textContent, button));
    }
  }

  /** Paper shows everything: all details open, all figures drawn. Drawing ahead, while the reader reads. */
  function wirePrint(figures) {
    const opened = [];
    addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll("details:not([open])")) {
        details.open = true;
        opened.push(details);
      }
    });
    addEventListener("afterprint", () => opened.splice(0).forEach((details) => (details.open = false)));
    const idle = globalThis.requestIdleCallback ?? ((work) => setTimeout(work, 500));
    idle(() => figures.drawAll());
  }

  /** The part that is being read is marked in the contents. */
  function wireContents() {
    const links = new Map([...document.querySelectorAll("#contents a")].map((link) => [link.hash.slice(1), link]));
    const mark = (entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    };
    const seen = new IntersectionObserver(mark, { rootMargin: "-30% 0px -65% 0px" });
    for (const id of links.keys()) {
      const part = document.getElementById(id);
      if (part) seen.observe(part);
    }
  }

  function afterQuiet(milliseconds, work) {
    let waiting = 0;
    let width = innerWidth;
    return () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (innerWidth !== width) work(); // phones change the height alone while one scrolls
        width = innerWidth;
      }, milliseconds);
    };
  }

  Object.assign(mnemoscope, { makeTheme, wireCopies, wirePrint, wireContents, afterQuiet });
})();
