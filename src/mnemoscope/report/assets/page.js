"use strict";
// The page put together: its data, its theme, its choices, and what they are told to.
(() => {
  const { makeFigures, makeTables, makeExplorer, embeddedSource, copyText } = mnemoscope;
  const KINDS = ["model", "context", "continuation"];
  const data = JSON.parse(document.getElementById("data").textContent);
  const study = data.study;
  const theme = makeTheme();
  const explorer = startExplorer();
  const figures = makeFigures({ specs: data.figures, darkConfig: data.dark_config, name: study.name, isDark: theme.isDark, onCell });
  makeTables(data.tables, study.name);
  wireChoices();
  wireCopies();
  wirePrint();
  wireContents();
  theme.onChange(() => figures.redraw().then(figures.drawAll));
  addEventListener("resize", afterQuiet(200, figures.redraw));
  document.body.dataset.ready = "true";

  function startExplorer() {
    const root = document.getElementById("explorer-root");
    if (!root || !data.explorer) return null;
    const source = embeddedSource(data.explorer, study);
    return makeExplorer(root, { study, source, note: data.explorer.note, folder: study.folder });
  }

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

  /** One bar for all figures and for the explorer. */
  function wireChoices() {
    const selects = Object.fromEntries(KINDS.map((kind) => [kind, document.getElementById(`choice-${kind}`)]));
    const reset = document.getElementById("choice-reset");
    const apply = () => {
      const choices = Object.fromEntries(KINDS.map((kind) => [kind, selects[kind].value]));
      reset.disabled = KINDS.every((kind) => choices[kind] === "");
      figures.choose(choices);
      explorer?.setFilter(chosenFilter(choices));
    };
    for (const kind of KINDS) selects[kind].addEventListener("change", apply);
    reset.addEventListener("click", () => {
      for (const kind of KINDS) selects[kind].value = "";
      apply();
    });
  }

  function chosenFilter(choices) {
    const filter = {};
    if (choices.model !== "") filter.model = study.models.findIndex((model) => model.label === choices.model);
    if (choices.context !== "") filter.context = Number(choices.context);
    if (choices.continuation !== "") filter.continuation = Number(choices.continuation);
    return filter;
  }

  /** A cell of a transition matrix becomes a filter of the explorer. */
  function onCell(row) {
    const from = levelOf(row.level_from, row.continuation_from);
    const to = levelOf(row.level_to, row.continuation_to);
    if (!explorer || !from || !to) return;
    const side = (end) => {
      const [level, model, k, n] = ["level", "model", "context", "continuation"].map((name) => row[`${name}_${end}`]);
      return `${level} under ${model} (k = ${k}, n = ${n})`;
    };
    explorer.showCell({
      group: row.group ?? null,
      model_from: row.model_from,
      model_to: row.model_to,
      context_from: row.context_from,
      context_to: row.context_to,
      continuation_from: row.continuation_from,
      continuation_to: row.continuation_to,
      from,
      to,
      label: `${side("from")} → ${side("to")}`,
    });
  }

  /** [low, high] of num_matched of a level at a continuation. */
  function levelOf(name, continuation) {
    const found = study.levels?.[continuation]?.find(([level]) => level === name);
    return found ? [found[1], found[2]] : null;
  }

  function wireCopies() {
    for (const button of document.querySelectorAll("[data-copies]")) {
      button.addEventListener("click", () => copyText(document.getElementById(button.dataset.copies).textContent, button));
    }
  }

  /** Paper shows everything: all details open, all figures drawn. Drawing ahead, while the reader reads. */
  function wirePrint() {
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
})();
