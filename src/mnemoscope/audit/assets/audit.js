"use strict";
// The audit's page put together: its theme, its figures, and its list of passages, narrowed by what a reader asks for.
(() => {
  const { makeFigures, makeTheme, wireCopies, wirePrint, wireContents, afterQuiet } = mnemoscope;
  const PAGE_ROWS = 20;
  const data = JSON.parse(document.getElementById("data").textContent);
  const theme = makeTheme();
  const figures = makeFigures({ specs: data.figures, darkConfig: data.dark_config, name: data.name, isDark: theme.isDark, onCell: () => {} });
  wireCopies();
  wirePrint(figures);
  wireContents();
  wirePassages();
  theme.onChange(() => figures.redraw().then(figures.drawAll));
  addEventListener("resize", afterQuiet(200, figures.redraw));
  document.body.dataset.ready = "true";

  /** Rows that fit the filter, a page at a time; on paper all of those that are shown. */
  function wirePassages() {
    const filter = document.getElementById("passage-filter");
    if (!filter) return;
    const rows = [...document.querySelectorAll("#passages > details")];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const count = document.getElementById("passage-count");
    const more = document.getElementById("passage-more");
    let limit = PAGE_ROWS;
    filter.hidden = false;

    function show() {
      const words = filter.elements.words.value.trim().toLowerCase();
      const kind = filter.elements.kind?.value ?? "";
      const fits = (row, place) =>
        (kind === "" || row.dataset.kind === kind) &&
        (!filter.elements.whole.checked || row.dataset.whole === "true") &&
        (!filter.elements.private.checked || row.dataset.private === "true") &&
        (words === "" || texts[place].includes(words));
      const found = rows.filter(fits);
      const shown = new Set(found.slice(0, limit));
      for (const row of rows) row.hidden = !shown.has(row);
      count.textContent = found.length === rows.length ? `${rows.length} passages` : `${found.length} of ${rows.length} passages`;
      more.hidden = found.length <= limit;
      more.textContent = `Show more: ${found.length - limit} left`;
    }

    const again = () => {
      limit = PAGE_ROWS;
      show();
    };
    filter.addEventListener("input", again);
    filter.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      const first = limit;
      limit += 4 * PAGE_ROWS;
      show();
      rows.filter((row) => !row.hidden)[first]?.querySelector("summary").focus();
    });
    show();
  }
})();
