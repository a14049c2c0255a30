"use strict";
// The explorer of `mnemoscope view`: its source is this page's own server.
(() => {
  let latest = null;

  start().catch((error) => {
    document.getElementById("explorer-root").textContent = `The study could not be opened: ${error.message}`;
  });

  async function start() {
    const { study, note, folder, order } = await ask("/api/study");
    document.title = `${study.name}: sequences`;
    document.getElementById("study-name").textContent = study.name;
    const source = { list, count, get };
    mnemoscope.makeExplorer(document.getElementById("explorer-root"), { study, source, note, folder, order });
    document.body.dataset.ready = "true";
  }

  /** A page of sequences; the request before it is given up, so that the server does not work for nobody. */
  function list(filter, cursor) {
    latest?.abort();
    latest = new AbortController();
    return ask(`/api/sequences?${parametersOf(filter, cursor)}`, latest.signal);
  }

  async function count(filter) {
    return (await ask(`/api/count?${parametersOf(filter, null)}`, latest?.signal)).total;
  }

  const get = (group, id) => ask(`/api/sequences/${encodeURIComponent(group)}/${encodeURIComponent(id)}`);

  /** The answer; an error with the server's own words where it refuses. */
  async function ask(address, signal) {
    const answer = await fetch(address, { signal });
    const value = await answer.json();
    if (!answer.ok) throw new Error(value.error ?? `status ${answer.status}`);
    return value;
  }

  /** The filter as flat parameters; what is not chosen, and an open end of a range, is left out. */
  function parametersOf(filter, cursor) {
    const { model, context, continuation, group, text, order, cell } = filter;
    const values = { model, context, continuation, group, text, order, cursor, cell: cell ? JSON.stringify(cell) : null };
    for (const name of ["matched", "copies"]) {
      const [low, high] = filter[name] ?? [null, null];
      values[`${name}_low`] = low;
      values[`${name}_high`] = high === Number.MAX_SAFE_INTEGER ? null : high;
    }
    const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
    return new URLSearchParams(given).toString();
  }
})();
