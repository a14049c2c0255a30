"use strict";
// The explorer of sequences: filters, a list, and the chosen one. The page and `mnemoscope view` give it a source:
//   list(filter, cursor) -> Promise<{total, rows, next, note}>      get(group, id) -> Promise<{sequence, texts}>
//   and, if totals can be null at first, count(filter) -> Promise<total>
(() => {
  const { element, select, drawSequence, showProbability } = mnemoscope;
  const TYPING_MILLISECONDS = 250;
  const ORDERS = [
    ["matched", "matched tokens, most first"],
    ["log_probability", "probability of the truth, highest first"],
    ["id", "place in the corpus"],
  ];
  const GROUPS = [["", "members and control"], ["member", "members"], ["control", "control"]];

  function makeExplorer(root, { study, source, note, folder, order = "matched" }) {
    const first = startOf(study);
    const state = { ...startFilter(), cell: null };
    const shown = { rows: [], next: null, total: null, selected: null, asked: 0 };
    const parts = partsOf(study);
    const fields = parts.fields;
    root.replaceChildren(parts.whole);
    parts.note.textContent = note ?? "";
    writeFields();

    fields.form.addEventListener("submit", (event) => event.preventDefault());
    fields.form.addEventListener("change", readFields);
    let typing = 0;
    fields.form.addEventListener("input", (event) => {
      if (event.target.tagName !== "INPUT") return;
      clearTimeout(typing);
      typing = setTimeout(readFields, TYPING_MILLISECONDS);
    });
    parts.clear.addEventListener("click", () => setFilter({ ...startFilter(), cell: null }));
    parts.clearCell.addEventListener("click", () => setFilter({ cell: null }));
    parts.more.addEventListener("click", () => load(shown.next));
    parts.list.addEventListener("click", (event) => pick(event.target.closest("[role=option]")));
    parts.list.addEventListener("keydown", onKey);

    function startFilter() {
      return { ...first, matched: null, copies: null, group: null, text: null, order };
    }

    /** What stands in the controls becomes the filter, if it is another one. */
    function readFields() {
      clearTimeout(typing);
      const read = {
        model: Number(fields.model.value),
        context: Number(fields.context.value),
        continuation: Number(fields.continuation.value),
        group: fields.group?.value || null,
        matched: rangeOf(fields["matched-low"], fields["matched-high"]),
        copies: rangeOf(fields["copies-low"], fields["copies-high"]),
        text: fields.text.value.trim() || null,
        order: fields.order.value,
      };
      const isSame = Object.entries(read).every(([name, value]) => JSON.stringify(value) === JSON.stringify(state[name]));
      if (!isSame) setFilter(read);
    }

    function writeFields() {
      for (const name of ["model", "context", "continuation", "group", "text", "order"]) {
        if (fields[name] && fields[name] !== document.activeElement) fields[name].value = state[name] ?? "";
      }
      for (const [name, range] of [["matched", state.matched], ["copies", state.copies]]) {
        for (const [place, end] of ["low", "high"].entries()) {
          const field = fields[`${name}-${end}`];
          const value = range?.[place];
          if (field && field !== document.activeElement) field.value = Number.isFinite(value) ? value : "";
        }
      }
      fields["matched-high"].placeholder = String(state.continuation);
      fields["matched-low"].max = fields["matched-high"].max = String(state.continuation);
      parts.chip.hidden = state.cell === null;
      parts.chipWords.textContent = state.cell ? state.cell.label : "";
    }

    /** Change any part of the filter; a chosen cell brings its own model, context and continuation. */
    function setFilter(some) {
      Object.assign(state, some);
      writeFields();
      return load(null);
    }

    async function load(cursor) {
      const asked = ++shown.asked;
      parts.list.setAttribute("aria-busy", "true");
      try {
        const answer = await source.list({ ...state }, cursor);
        if (asked !== shown.asked) return; // a newer filter was set while this one was looked up
        shown.rows = cursor === null ? answer.rows : [...shown.rows, ...answer.rows];
        shown.next = answer.next;
        shown.total = answer.total;
        parts.note.textContent = answer.note ?? note ?? "";
        writeList(cursor === null ? 0 : shown.rows.length - answer.rows.length);
        if (shown.total === null && source.count) countLater(asked);
      } catch (error) {
        if (asked === shown.asked) parts.count.textContent = `The list could not be had: ${error.message}`;
      } finally {
        if (asked === shown.asked) parts.list.removeAttribute("aria-busy");
      }
    }

    /** How many there are in all, where the source takes longer for that than for the first of them. */
    async function countLater(asked) {
      const total = await source.count({ ...state }).catch(() => null);
      if (asked !== shown.asked || total === null) return;
      shown.total = total;
      parts.count.textContent = countOf(shown);
    }

    function writeList(from) {
      const options = shown.rows.slice(from).map((row, place) => optionOf(row, from + place, state));
      if (from === 0) parts.list.replaceChildren(...options);
      else parts.list.append(...options);
      parts.more.hidden = shown.next === null;
      parts.count.textContent = countOf(shown);
      parts.list.hidden = shown.rows.length === 0;
      const again = shown.rows.findIndex((row) => isSame(row, shown.selected));
      if (from === 0) choose(again >= 0 ? again : 0, again >= 0);
    }

    function onKey(event) {
      const last = shown.rows.length - 1;
      const at = shown.rows.findIndex((row) => isSame(row, shown.selected));
      const next = { ArrowDown: Math.min(at + 1, last), ArrowUp: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      choose(next);
    }

    function pick(option) {
      if (option) choose([...parts.list.children].indexOf(option));
    }

    async function choose(index, isQuiet = false) {
      const row = shown.rows[index];
      if (!row) {
        shown.selected = null;
        const words = shown.next === null ? "No sequence fits these filters." : "None so far; there are more to look through.";
        parts.sequence.replaceChildren(element("p", { class: "empty" }, words));
        delete parts.sequence.dataset.id;
        return;
      }
      shown.selected = row;
      for (const [place, option] of [...parts.list.children].entries()) {
        option.setAttribute("aria-selected", String(place === index));
      }
      const option = parts.list.children[index];
      parts.list.setAttribute("aria-activedescendant", option.id);
      if (!isQuiet) keepInView(parts.list, option);
      await show(row);
    }

    async function show(row) {
      let drawn;
      try {
        const { sequence, texts } = await source.get(row.group, row.id);
        if (!isSame(row, shown.selected)) return;
        const chosen = { model: state.model, context: state.context, continuation: state.continuation };
        drawn = drawSequence({ sequence, texts, study, chosen, command: commandOf(folder, row, chosen, study) });
      } catch (error) {
        drawn = [element("p", { class: "problem" }, `The sequence could not be had: ${error.message}`)];
      }
      parts.sequence.replaceChildren(...drawn);
      parts.sequence.dataset.group = row.group;
      parts.sequence.dataset.id = row.id;
    }

    load(null);
    return {
      setFilter,
      showCell(cell) {
        const to = study.models.findIndex((model) => model.label === cell.model_to);
        const seen = { context: cell.context_to, continuation: cell.continuation_to };
        root.scrollIntoView({ block: "start" });
        parts.list.focus({ preventScroll: true });
        return setFilter({ ...startFilter(), ...seen, model: Math.max(0, to), cell });
      },
    };
  }

  /** The last model that is a final one, at the shortest context and the longest continuation: what most is known of. */
  function startOf(study) {
    const finals = study.models.map((model, index) => ({ ...model, index })).filter((model) => model.is_final);
    const largest = finals.sort((one, other) => (other.num_parameters ?? 0) - (one.num_parameters ?? 0))[0];
    const context = study.traced_contexts?.[0] ?? study.contexts[0];
    return { model: largest?.index ?? study.models.length - 1, context, continuation: study.continuations.at(-1) };
  }

  /** All that stands in the root. */
  function partsOf(study) {
    const fields = fieldsOf(study);
    const clear = element("button", { type: "button", "data-action": "clear-filters" }, "Clear filters");
    const clearCell = element("button", { type: "button", "data-action": "clear-cell", "aria-label": "Show all again" }, "×");
    const chipWords = element("span");
    const chip = element("p", { id: "explorer-cell", class: "chip", hidden: true }, chipWords, clearCell);
    const count = element("p", { id: "explorer-count", role: "status" });
    const list = element("div", { id: "explorer-list", role: "listbox", tabindex: "0", "aria-label": "Sequences" });
    const more = element("button", { type: "button", id: "explorer-more", hidden: true }, "More sequences");
    const note = element("p", { id: "explorer-note" });
    const sequence = element("div", { id: "sequence", "aria-live": "polite" });
    fields.form.append(clear);
    const left = element("div", { class: "explorer-left" }, chip, count, list, more, note);
    const whole = element("div", { class: "explorer" }, fields.form, left, sequence);
    return { whole, fields, clear, clearCell, chip, chipWords, count, list, more, note, sequence };
  }

  function fieldsOf(study) {
    const fields = {
      model: select({ "data-filter": "model" }, study.models.map((model, index) => [index, model.label])),
      context: select({ "data-filter": "context" }, study.contexts.map((k) => [k, `k = ${k}`])),
      continuation: select({ "data-filter": "continuation" }, study.continuations.map((n) => [n, `n = ${n}`])),
      group: study.groups.length > 1 ? select({ "data-filter": "group" }, GROUPS) : null,
      "matched-low": numberField("matched-low", "fewest matched tokens"),
      "matched-high": numberField("matched-high", "most matched tokens"),
      "copies-low": numberField("copies-low", "fewest copies"),
      "copies-high": numberField("copies-high", "most copies"),
      text: element("input", { type: "search", "data-filter": "text", autocomplete: "off", spellcheck: "false", placeholder: "words of its text" }),
      order: select({ "data-filter": "order" }, ORDERS),
    };
    const labelled = (words, field) => (field ? element("label", {}, element("span", {}, words), field) : null);
    const range = (words, name) =>
      element("fieldset", {}, element("legend", {}, words), fields[`${name}-low`], element("span", {}, "to"), fields[`${name}-high`]);
    fields.form = element(
      "form",
      { class: "filters", "aria-label": "Filters of the sequences" },
      labelled("Model", fields.model),
      labelled("Context", fields.context),
      labelled("Continuation", fields.continuation),
      labelled("Group", fields.group),
      range("Matched tokens", "matched"),
      range("Copies in training", "copies"),
      labelled("Search", fields.text),
      labelled("Order", fields.order),
    );
    return fields;
  }

  function numberField(name, words) {
    return element("input", { type: "number", min: "0", step: "1", inputmode: "numeric", "data-filter": name, "aria-label": words });
  }

  /** [low, high] of two fields, an empty one open; null where both are empty. */
  function rangeOf(low, high) {
    const number = (field, empty) => (field.value === "" || Number.isNaN(field.valueAsNumber) ? empty : field.valueAsNumber);
    const range = [number(low, 0), number(high, Number.MAX_SAFE_INTEGER)];
    return low.value === "" && high.value === "" ? null : range;
  }

  const isSame = (row, other) => row !== null && other !== null && row.id === other.id && row.group === other.group;

  function countOf({ rows, total }) {
    const shown = rows.length.toLocaleString("en-US");
    if (total === null) return `${shown} sequences listed`;
    const all = `${total.toLocaleString("en-US")} ${total === 1 ? "sequence" : "sequences"}`;
    return rows.length < total ? `${shown} of ${all} listed` : all;
  }

  function optionOf(row, index, state) {
    const copies = row.num_repeats === null ? "" : `${row.num_repeats}× in training`;
    const facts = [
      `${row.group} ${row.id}`,
      row.num_matched === null ? "matched ?" : `matched ${row.num_matched} of ${state.continuation}`,
      row.log_probability === null ? "" : `p_z ${showProbability(row.log_probability)}`,
      copies,
    ].filter(Boolean);
    const share = row.num_matched === null ? null : row.num_matched / state.continuation;
    const bar = element("span", { class: "match-bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", String(share ?? 0));
    const attributes = { role: "option", id: `option-${index}`, "data-group": row.group, "data-id": row.id, "aria-selected": "false" };
    return element(
      "div",
      attributes,
      element("span", { class: "row-facts" }, facts.join(" · ")),
      bar,
      row.preview === null || row.preview === undefined ? null : previewOf(row.preview),
    );
  }

  /** The words of the context, a bar, the true continuation. */
  function previewOf(preview) {
    return element("span", { class: "row-preview", dir: "ltr" }, preview);
  }

  /** Scroll the list, never the page. */
  function keepInView(list, option) {
    const top = option.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + option.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + option.offsetHeight - list.clientHeight;
    }
  }

  function commandOf(folder, row, chosen, study) {
    const quoted = (text) => (/^~?[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
    const group = row.group === "control" ? " --group control" : "";
    return `mnemoscope show ${quoted(folder)} ${row.id} --model ${quoted(study.models[chosen.model].label)} --context ${chosen.context}${group}`;
  }

  Object.assign(mnemoscope, { makeExplorer });
})();
