"use strict";
// The tables behind the findings: sorted by a column, copied, saved as CSV, a page of rows at a time.
(() => {
  const { element, showNumber, saveFile, copyText, fileName } = mnemoscope;
  const PAGE_ROWS = 50;
  const FEW_ROWS = 8; // of so few, what is the same in all may be the very finding
  const LAST = ["source", "num_parameters", "num_non_embedding_parameters", "training_step", "interval_method", "unit"];

  /** Fills every box of the page that names a table: at once where it lies open, else when it is opened. */
  function makeTables(tables, name) {
    for (const box of document.querySelectorAll(".table-box")) {
      const table = tables[box.dataset.table];
      if (!table) continue;
      const closed = box.closest("details:not([open])");
      const fill = () => box.childElementCount || fillBox(box, table, fileName(name, box.dataset.table));
      if (closed) closed.addEventListener("toggle", fill, { once: true });
      else fill();
    }
  }

  function fillBox(box, table, file) {
    const { varying, constant } = splitColumns(table);
    const state = { rows: [...table.rows], numShown: PAGE_ROWS, sorted: null };
    const body = element("tbody");
    const more = element("button", { type: "button", "data-action": "more-rows" });
    const heads = varying.map((column) => headOf(column, () => sortBy(column)));
    more.addEventListener("click", () => {
      state.numShown += 4 * PAGE_ROWS;
      showRows();
    });

    function sortBy(column) {
      const isDown = state.sorted?.column === column && state.sorted.isAscending;
      state.sorted = { column, isAscending: !isDown };
      state.rows = sortRows(table.rows, column, !isDown);
      for (const { column: other, cell } of heads) {
        cell.setAttribute("aria-sort", other !== column ? "none" : isDown ? "descending" : "ascending");
      }
      showRows();
    }

    function showRows() {
      body.replaceChildren(
        ...state.rows.slice(0, state.numShown).map((row) =>
          element("tr", {}, varying.map((column) => cellOf(row[column.place], column))),
        ),
      );
      more.hidden = state.rows.length <= state.numShown;
      more.textContent = `Show more: ${(state.rows.length - state.numShown).toLocaleString("en-US")} rows left`;
    }

    const shown = element(
      "table",
      { "aria-label": table.caption },
      element("thead", {}, element("tr", {}, heads.map(({ cell }) => cell))),
      body,
    );
    const scroll = { class: "table-scroll", tabindex: "0", role: "region", "aria-label": table.caption };
    if (!box.closest("details")) box.append(element("p", { class: "table-caption" }, table.caption));
    box.append(element("div", scroll, shown), element("div", { class: "table-foot" }, buttonsOf(table, file), more));
    box.append(element("p", { class: "table-note" }, noteOf(table, constant, box.dataset.table)));
    showRows();
  }

  /** Columns in which rows differ, and those that say the same in all of them, to be told once. */
  function splitColumns(table) {
    const placed = table.columns.map((column, place) => ({ ...column, place }));
    placed.sort((one, other) => LAST.indexOf(one.name) - LAST.indexOf(other.name)); // a stable sort: the rest keep their order
    const isConstant = ({ place }) => table.rows.every((row) => row[place] === table.rows[0][place]);
    if (table.rows.length < FEW_ROWS) return { varying: placed, constant: [] };
    return {
      varying: placed.filter((column) => !isConstant(column)),
      constant: placed.filter((column) => isConstant(column) && table.rows[0][column.place] !== null).map((column) => ({
        name: column.name,
        value: show(table.rows[0][column.place], column),
      })),
    };
  }

  function headOf(column, onClick) {
    const unit = column.unit && column.unit !== "1" ? column.unit : "";
    const words = [column.meaning, unit && `unit: ${unit}`].filter(Boolean).join("; ");
    const button = element("button", { type: "button", title: words, on: { click: onClick } }, column.name);
    const attributes = { scope: "col", "data-column": column.name, "aria-sort": "none", class: kindOf(column) };
    return { column, cell: element("th", attributes, button, unit && element("span", { class: "unit" }, unit)) };
  }

  const kindOf = (column) => (column.type === "number" ? "number" : "text");
  function cellOf(value, column) {
    const text = show(value, column);
    return element("td", { class: kindOf(column), title: text.length > 30 ? text : null }, text);
  }

  function show(value, column) {
    if (value === null || value === undefined) return "–";
    if (column.type === "flag") return value ? "yes" : "no";
    // A step or a length is a name as well as a number, but large ones read better with separators all the same.
    return column.type === "number" ? showNumber(value) : String(value);
  }

  /** Rows by one column; what is missing comes last either way. */
  function sortRows(rows, column, isAscending) {
    const place = column.place;
    const order = isAscending ? 1 : -1;
    const compare =
      column.type === "text"
        ? (one, other) => one.localeCompare(other, "en", { numeric: true })
        : (one, other) => one - other;
    return [...rows].sort((one, other) => {
      const [a, b] = [one[place], other[place]];
      if (a === null || b === null) return (a === null) - (b === null);
      return order * compare(a, b);
    });
  }

  function buttonsOf(table, file) {
    const copy = element("button", { type: "button", "data-action": "copy" }, "Copy");
    copy.addEventListener("click", () => copyText(separated(table, "\t"), copy));
    const save = element("button", { type: "button", "data-action": "csv" }, "CSV");
    save.addEventListener("click", () => saveFile(`${file}.csv`, "text/csv;charset=utf-8", separated(table, ",")));
    return [copy, save];
  }

  /** All rows and columns of the page's table as text, unrounded; no text is a spreadsheet's formula. */
  function separated(table, separator) {
    const quote = (value) => {
      const isFormula = typeof value === "string" && /^[=+\-@\t\r]/.test(value);
      const text = value === null || value === undefined ? "" : (isFormula ? "'" : "") + String(value);
      return /[",\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const lines = [table.columns.map((column) => column.name), ...table.rows];
    return lines.map((cells) => cells.map(quote).join(separator)).join("\n") + "\n";
  }

  function noteOf(table, constant, name) {
    const parts = [];
    const held = constant.map((column) => `${column.name} ${column.value}`).join(", ");
    const size = table.rows.length.toLocaleString("en-US");
    if (table.is_cut) {
      const whole = `the whole is in analyses/${name}.parquet`;
      const first = table.first ? `, those of ${table.first} first` : "";
      parts.push(`${size} of ${table.num_rows.toLocaleString("en-US")} rows${first}; ${whole}.`);
    } else {
      parts.push(`${size} ${table.rows.length === 1 ? "row" : "rows"}.`);
    }
    if (held) parts.push(`The same in every row${table.is_cut ? " here" : ""}: ${held}.`);
    return parts.join(" ");
  }

  Object.assign(mnemoscope, { makeTables });
})();
