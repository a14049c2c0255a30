"use strict";
// One sequence: its tokens under one another as truth and generation, and its scores under every model and context.
(() => {
  const { element, showProbability } = mnemoscope;
  const MAX_CELL = 24; // characters of a token that are shown
  const LEAST_SCALE_NATS = 4; // so that the calm of a recited sequence looks calm
  const UNKNOWN = -1; // other negative tokens are hidden ones
  const MARKS = {
    "=": "the model says the same",
    x: "the model says another token",
    X: "the first such",
    "?": "unknown",
  };

  /** The sequence as the chosen model and context see it. `chosen` is {model, context, continuation}. */
  function drawSequence({ sequence, texts, study, chosen, command }) {
    const view = viewOf({ sequence, texts, study, chosen });
    return [
      element("h3", { class: "sequence-title" }, titleOf(sequence)),
      element("p", { class: "sequence-place" }, placeOf(view)),
      ...partsOf(view),
      ...legendOf(view),
      ...notesOf(sequence),
      scoresOf(view),
      element("p", { id: "sequence-command" }, "In a terminal: ", element("code", {}, command)),
    ];
  }

  function viewOf({ sequence, texts, study, chosen }) {
    const place = study.contexts.indexOf(chosen.context);
    const trace = sequence.traces?.find((one) => one.model === chosen.model && one.context === chosen.context) ?? null;
    const score = sequence.scores?.[chosen.model]?.[place] ?? null;
    const finite = (trace?.entropy ?? []).filter((value) => value !== null);
    return {
      sequence,
      texts,
      study,
      chosen,
      trace,
      score,
      k: chosen.context,
      n: study.continuations.at(-1),
      largest: Math.max(LEAST_SCALE_NATS, Math.ceil(Math.max(0, ...finite))),
      isHidden: new Set(sequence.redacted ?? []),
    };
  }

  function titleOf(sequence) {
    const copies = sequence.num_repeats === null ? "" : `, ${countOf(sequence.num_repeats, "copy", "copies")} in the training stream`;
    return `Sequence ${sequence.id}, ${sequence.group}${copies}`;
  }

  const countOf = (count, one, many) => `${count.toLocaleString("en-US")} ${count === 1 ? one : many}`;

  function placeOf({ sequence, study, chosen, score, k, n }) {
    const parts = [`Seen by ${study.models[chosen.model].label} after k = ${k} tokens.`];
    if (sequence.offset !== null && sequence.offset !== undefined) {
      parts.push(`The window starts at token ${sequence.offset} of its row.`);
    }
    if (score && score.first_mismatch !== null) {
      const first = score.first_mismatch;
      const where = first >= n ? "none within the longest continuation" : `index ${first}, token ${k + first}`;
      parts.push(`First mismatch: ${where}.`);
    }
    if (sequence.weight !== null && sequence.weight !== undefined && sequence.weight !== 1) {
      parts.push(`It stands for about ${Math.round(sequence.weight).toLocaleString("en-US")} sequences of the study.`);
    }
    return parts.join(" ");
  }

  /** Context and continuation, as far as their tokens or matches are known. */
  function partsOf(view) {
    const { k, n } = view;
    return [
      ...partOf(view, "context", 0, view.sequence.tokens ? k : 0, `Context: tokens 0 to ${k - 1}, given to the model`),
      ...partOf(view, "continuation", k, k + n, `Continuation: tokens ${k} to ${k + n - 1}, truth above generation`),
    ];
  }

  /** Whether anything is known token by token: of imported scores nothing is. */
  const isShown = ({ sequence, score }) => Boolean(sequence.tokens) || /[01]/.test(score?.matched ?? "");

  function partOf(view, part, start, stop, title) {
    if (start >= stop || !isShown(view)) return [];
    const isContinuation = part === "continuation";
    const cells = [];
    for (let index = start; index < stop; index += 1) cells.push(cellOf(view, index, isContinuation));
    const holder = { class: "tokens", "data-part": part, role: "list", "aria-label": title };
    return [element("h4", {}, title), element("div", holder, keyOf(view, isContinuation), cells)];
  }

  /** What the lines of a cell are, as the first cell. */
  function keyOf(view, isContinuation) {
    const lines = [element("span", { class: "token-index" }, "token"), element("span", { class: "token-truth" }, "truth")];
    if (isContinuation) {
      lines.push(element("span", { class: "token-model" }, "model"), element("span", { class: "token-mark" }, "match"));
    }
    if (view.trace) lines.push(element("span", { class: "token-entropy" }, "nats"));
    return element("div", { class: "token-key", "aria-hidden": "true" }, lines);
  }

  function cellOf(view, index, isContinuation) {
    const mark = isContinuation ? markOf(view, index - view.k) : null;
    const truth = textOf(view, view.sequence.tokens?.[index], index);
    const said = isContinuation ? generatedOf(view, index, mark) : null;
    const lines = [element("span", { class: "token-index" }, String(index)), tokenLine("token-truth", truth)];
    if (isContinuation) {
      lines.push(tokenLine("token-model", said), element("span", { class: "token-mark", title: MARKS[mark] }, mark));
    }
    if (view.trace) lines.push(heatOf(view, index));
    const ends = isContinuation && view.study.continuations.includes(index - view.k + 1) && index < view.k + view.n - 1;
    const attributes = { class: "token", role: "listitem", "data-index": index, "data-match": mark, "data-end": ends };
    return element("div", attributes, lines);
  }

  const tokenLine = (name, { text, whole }) => element("span", { class: name, dir: "ltr", title: whole }, text);

  function markOf({ score }, place) {
    const bit = score?.matched?.[place] ?? "?";
    if (bit === "1") return "=";
    if (bit === "0") return place === score.first_mismatch ? "X" : "x";
    return "?";
  }

  /** The generated token; where it is not stored, the truth if it matched. */
  function generatedOf(view, index, mark) {
    const token = view.trace?.generated?.[index];
    if (token !== undefined && token !== null && token !== UNKNOWN) return textOf(view, token, index);
    return mark === "=" ? textOf(view, view.sequence.tokens?.[index], index) : { text: "?", whole: null };
  }

  /** A token's text with its spaces made visible, cut where it is long; its id where it has no text of its own. */
  function textOf({ texts, isHidden }, token, index) {
    if (token === undefined || token === null) return { text: "?", whole: null };
    if (token < 0 || isHidden.has(index)) return { text: "██", whole: "hidden" };
    const whole = texts[token];
    if (whole === undefined) return { text: `<${token}>`, whole: `token ${token}: no text by itself` };
    const seen = whole.replaceAll(" ", "·");
    const letters = [...seen];
    if (letters.length <= MAX_CELL) return { text: seen, whole: `token ${token}` };
    const kept = letters.slice(0, MAX_CELL / 2).join("");
    return { text: `${kept}[+${letters.length - MAX_CELL / 2}]`, whole: `token ${token}: ${letters.length} characters` };
  }

  function heatOf({ trace, largest }, index) {
    const value = trace.entropy[index];
    const isKnown = value !== null && value !== undefined;
    const bar = element("span", { class: "token-entropy", title: isKnown ? `${value.toFixed(2)} nats` : "no entropy here" });
    if (isKnown) bar.style.setProperty("--heat-share", String(Math.min(1, value / largest)));
    return bar;
  }

  function legendOf(view) {
    if (!isShown(view)) return [];
    const signs = Object.entries(MARKS).map(([mark, words]) =>
      element("span", { class: "sign" }, element("b", { "data-match": mark }, mark), ` ${words}`),
    );
    const scale = element("span", { class: "sign" }, "entropy 0 ", element("span", { class: "heat-scale" }), ` ${view.largest} nats`);
    const unknown = element("span", { class: "sign" }, "entropy and generated tokens: not traced under this model and context");
    return [element("p", { class: "legend" }, signs, view.trace ? scale : unknown)];
  }

  function notesOf(sequence) {
    const notes = sequence.notes ?? [];
    if (!notes.length) return [];
    return [element("ul", { id: "sequence-notes" }, notes.map((note) => element("li", {}, note)))];
  }

  /** Matched tokens, first mismatch and p_z under every model and every context. */
  function scoresOf(view) {
    const { study } = view;
    const matched = study.continuations.map((n) => `n = ${n}`);
    const head = (words, title) => element("th", { scope: "col", title }, words);
    const groups = element(
      "tr",
      {},
      element("td", { colspan: 2 }),
      element("th", { scope: "colgroup", colspan: matched.length }, "matched tokens of the first n"),
      element("td", {}),
      element("th", { scope: "colgroup", colspan: matched.length }, "p_z: the chance to sample the truth"),
    );
    const columns = ["model", "k", ...matched, "first mismatch", ...matched].map((words) => head(words));
    const rows = study.models.flatMap((_, model) => study.contexts.map((_k, place) => scoreRow(view, model, place)));
    return element(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Scores of the sequence" },
      element("table", { id: "sequence-scores" }, element("thead", {}, groups, element("tr", {}, columns)), element("tbody", {}, rows)),
    );
  }

  function scoreRow({ sequence, study, chosen, n }, model, place) {
    const score = sequence.scores?.[model]?.[place] ?? null;
    const isChosen = model === chosen.model && study.contexts[place] === chosen.context;
    const first = score?.first_mismatch ?? null;
    const named = element("th", { scope: "rowgroup", rowspan: study.contexts.length }, study.models[model].label);
    const cells = [
      place === 0 ? named : null,
      numberCell(String(study.contexts[place])),
      ...study.continuations.map((length, index) => matchCell(score?.num_matched?.[index] ?? null, length)),
      numberCell(first === null ? "?" : first >= n ? "none" : String(first)),
      ...study.continuations.map((_, index) => numberCell(showProbability(score?.log_probability?.[index]))),
    ];
    const state = isChosen ? "true" : null;
    return element("tr", { "data-chosen": state, "aria-current": state, "data-first": place === 0 }, cells.filter(Boolean));
  }

  const numberCell = (text) => element("td", { class: "number" }, text);

  function matchCell(count, length) {
    const isFull = count === length;
    return element("td", { class: isFull ? "number full" : "number" }, count === null ? "?" : isFull ? `all ${count}` : String(count));
  }

  Object.assign(mnemoscope, { drawSequence });
})();
