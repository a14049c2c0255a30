"use strict";
// The page's own sample of sequences as a source of the explorer: filtered, ordered and searched in memory.
(() => {
  const PAGE_ROWS = 60;
  const PREVIEW_TOKENS = 12;

  /** A source over the page's data: the same functions as the server's. */
  function embeddedSource({ sequences, texts, note }, study) {
    const searched = new Map();

    async function list(filter, cursor) {
      const start = cursor ?? 0;
      const found = sequences.filter((sequence) => fits(sequence, filter)).map((sequence) => rowOf(sequence, filter));
      found.sort(ORDERS[filter.order] ?? ORDERS.id);
      const next = start + PAGE_ROWS < found.length ? start + PAGE_ROWS : null;
      const rows = found.slice(start, start + PAGE_ROWS).map(({ sequence, ...row }) => ({ ...row, preview: previewOf(sequence, filter) }));
      return { total: found.length, rows, next, note };
    }

    async function get(group, id) {
      const sequence = sequences.find((one) => one.group === group && one.id === id);
      if (!sequence) throw new Error(`no ${group} sequence ${id} in this page's sample`);
      return { sequence, texts };
    }

    const scoreAt = (sequence, model, context) => sequence.scores?.[model]?.[study.contexts.indexOf(context)] ?? null;
    const matchedAt = (sequence, model, context, continuation) =>
      scoreAt(sequence, model, context)?.num_matched?.[study.continuations.indexOf(continuation)] ?? null;

    function fits(sequence, { model, context, continuation, group, matched, copies, text, cell }) {
      if (group !== null && sequence.group !== group) return false;
      if (matched && !isWithin(matchedAt(sequence, model, context, continuation), matched)) return false;
      if (copies && !isWithin(sequence.num_repeats, copies)) return false;
      if (cell && !fitsCell(sequence, cell)) return false;
      return !text || textOf(sequence).includes(text.toLowerCase());
    }

    function fitsCell(sequence, cell) {
      if (cell.group && sequence.group !== cell.group) return false;
      const sides = [
        [cell.model_from, cell.context_from, cell.continuation_from, cell.from],
        [cell.model_to, cell.context_to, cell.continuation_to, cell.to],
      ];
      return sides.every(([label, context, continuation, range]) => {
        const model = study.models.findIndex((one) => one.label === label);
        return isWithin(matchedAt(sequence, model, context, continuation), range);
      });
    }

    function rowOf(sequence, { model, context, continuation }) {
      const score = scoreAt(sequence, model, context);
      const place = study.continuations.indexOf(continuation);
      return {
        sequence,
        id: sequence.id,
        group: sequence.group,
        num_repeats: sequence.num_repeats ?? null,
        num_matched: score?.num_matched?.[place] ?? null,
        first_mismatch: score?.first_mismatch ?? null,
        log_probability: score?.log_probability?.[place] ?? null,
      };
    }

    const wordsOf = (sequence, tokens) => tokens.map((token) => (token < 0 ? "█" : (texts[token] ?? `<${token}>`))).join("");

    function textOf(sequence) {
      if (!searched.has(sequence)) searched.set(sequence, wordsOf(sequence, sequence.tokens ?? []).toLowerCase());
      return searched.get(sequence);
    }

    function previewOf(sequence, { context, continuation }) {
      if (!sequence.tokens) return null;
      const last = sequence.tokens.slice(Math.max(0, context - PREVIEW_TOKENS), context);
      const truth = sequence.tokens.slice(context, context + Math.min(continuation, PREVIEW_TOKENS));
      return `${wordsOf(sequence, last)} | ${wordsOf(sequence, truth)}`;
    }

    return { list, get };
  }

  const isWithin = (value, [low, high]) => value !== null && value !== undefined && value >= low && value <= high;
  const byPlace = (one, other) => (one.group === other.group ? one.id - other.id : one.group === "member" ? -1 : 1);
  const descending = (name) => (one, other) => (other[name] ?? -Infinity) - (one[name] ?? -Infinity) || byPlace(one, other);
  const ORDERS = { id: byPlace, matched: descending("num_matched"), log_probability: descending("log_probability") };

  Object.assign(mnemoscope, { embeddedSource });
})();
