"use strict";
// The page put together: its data, its choices, and what they are told to.
(() => {
  const { makeFigures, makeTables, makeExplorer, embeddedSource } = mnemoscope;
  const { makeTheme, wireCopies, wirePrint, wireContents, afterQuiet } = mnemoscope;
  const KINDS = ["model", "context", "continuation"];
  const data = JSON.parse(document.getElementById("data").textContent);
  const study = data.study;
  const theme = makeTheme();
  const explorer = startExplorer();
  const figures = makeFigures({ specs: data.figures, darkConfig: data.dark_config, name: study.name, isDark: theme.isDark, onCell });
  makeTables(data.tables, study.name);
  wireChoices();
  wireCopies();
  wirePrint(figures);
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
})();
