"use strict";
// A figure's description made another: narrowed to what the reader chose, stacked for a phone, darkened, for paper.
(() => {
  const CONCATENATIONS = ["hconcat", "vconcat", "concat"];
  const ALONE_WIDTH = 250;

  /** A description as the page carries it, with rows that name their columns again. */
  function unpack(spec) {
    const rowOf = (shape, values) => Object.fromEntries(values.map((value, place) => [shape[place], value]));
    const rowsOf = ({ shapes, texts, rows }) =>
      rows.map(([index, ...values]) => rowOf(shapes[index], values.map((value) => (Array.isArray(value) ? texts[value[0]] : value))));
    const datasets = Object.entries(spec.datasets ?? {}).map(([name, packed]) => [name, rowsOf(packed)]);
    return { ...spec, datasets: Object.fromEntries(datasets) };
  }

  /** The description that follows the choices as far as it can without going empty, and those that it follows. */
  function narrow(spec, choices) {
    let narrowed = structuredClone(spec);
    const followed = [];
    for (const [kind, value] of Object.entries(choices)) {
      if (value === "") continue;
      const panels = narrowPanels(narrowed, kind, value);
      const rows = narrowRows(panels ?? narrowed, kind, value);
      if (panels || rows) followed.push(`${kind}=${value}`);
      narrowed = rows ?? panels ?? narrowed;
    }
    return { spec: narrowed, followed };
  }

  /** Without the panels of the other values; null where no panel stands for this one, or all do. */
  function narrowPanels(spec, kind, value) {
    const prefix = `choice_${kind}_`;
    const models = spec.usermeta?.panel_models ?? [];
    const wanted = prefix + (kind === "model" ? models.indexOf(value) : value);
    const names = new Set(panelNames(spec).filter((name) => name.startsWith(prefix)));
    if (!names.has(wanted) || names.size === 1) return null;
    return dropPanels(spec, (name) => names.has(name) && name !== wanted);
  }

  function panels(spec) {
    return CONCATENATIONS.flatMap((way) => spec[way] ?? []);
  }

  function panelNames(spec) {
    return panels(spec).flatMap((panel) => [...(panel.name ? [panel.name] : []), ...panelNames(panel)]);
  }

  /** Without the panels whose names are dropped; null where nothing is left. */
  function dropPanels(spec, isDropped) {
    const kept = { ...spec };
    for (const way of CONCATENATIONS) {
      if (!kept[way]) continue;
      kept[way] = kept[way]
        .filter((panel) => !isDropped(panel.name ?? ""))
        .map((panel) => dropPanels(panel, isDropped))
        .filter((panel) => panel !== null);
      if (kept[way].length === 0) return null;
      const isAlone = kept[way].length === 1 && spec[way].length > 1 && way !== "vconcat";
      if (isAlone) kept[way] = [standAlone(kept[way][0], spec[way][0])];
    }
    return kept;
  }

  /** A panel that has its row for itself: as wide as one is, with the y axis that the first panel had for all. */
  function standAlone(panel, first) {
    const alone = withAxis(panel, first);
    if (panel.layer) alone.layer = panel.layer.map((view, place) => withAxis(view, first.layer?.[place]));
    if (panel.width < ALONE_WIDTH) alone.width = ALONE_WIDTH;
    return alone;
  }

  function withAxis(view, first) {
    const [y, other] = [view.encoding?.y, first?.encoding?.y];
    if (!y || !other || y.field !== other.field) return { ...view };
    const shown = { ...y, ...("title" in other && { title: other.title }), ...("axis" in other && { axis: other.axis }) };
    return { ...view, encoding: { ...view.encoding, y: shown } };
  }

  /** With the rows of the chosen value only; null where none has the field, or a table would go empty. */
  function narrowRows(spec, kind, value) {
    const field = spec.usermeta?.choices?.[kind];
    if (!field) return null;
    const isOther = (row) => row[field] !== undefined && row[field] !== null && String(row[field]) !== value;
    let isNarrower = false;
    const keep = (rows) => {
      if (!Array.isArray(rows)) return rows;
      const kept = rows.filter((row) => !isOther(row));
      if (kept.length === 0 && rows.length > 0) throw new RangeError(`no row of ${kind} ${value}`);
      isNarrower ||= kept.length < rows.length;
      return kept;
    };
    try {
      const used = usedData(spec);
      const narrowed = mapValues(spec, keep);
      for (const name of Object.keys(narrowed.datasets ?? {})) {
        if (used.has(name)) narrowed.datasets[name] = keep(narrowed.datasets[name]);
      }
      return isNarrower ? narrowed : null;
    } catch (error) {
      if (error instanceof RangeError) return null;
      throw error;
    }
  }

  /** The names of the data that some view reads. */
  function usedData(spec) {
    const own = spec.data?.name ? [spec.data.name] : [];
    const inner = [...panels(spec), ...(spec.layer ?? []), ...(spec.spec ? [spec.spec] : [])];
    return new Set([...own, ...inner.flatMap((view) => [...usedData(view)])]);
  }

  /** A copy in which the inline rows of every view are mapped. */
  function mapValues(spec, map) {
    const copy = { ...spec };
    if (copy.datasets) copy.datasets = { ...copy.datasets };
    if (copy.data?.values) copy.data = { ...copy.data, values: map(copy.data.values) };
    for (const part of [...CONCATENATIONS, "layer"]) {
      if (copy[part]) copy[part] = copy[part].map((view) => mapValues(view, map));
    }
    if (copy.spec) copy.spec = mapValues(copy.spec, map);
    return copy;
  }

  /** The description with its panels below one another, for narrow screens. */
  function stack(spec) {
    const stacked = { ...spec };
    if (stacked.hconcat) {
      stacked.vconcat = stacked.hconcat;
      delete stacked.hconcat;
    }
    if (stacked.concat || stacked.facet) stacked.columns = 1;
    for (const way of CONCATENATIONS) {
      if (stacked[way]) stacked[way] = stacked[way].map(stack);
    }
    return stacked;
  }

  /** The description on the dark page: the theme's colours, and for its own colours what it says they become. */
  function darken(spec, darkConfig) {
    const known = spec.usermeta?.dark_colors ?? {};
    const { datasets, usermeta, config, ...drawn } = spec;
    return { ...recolor(drawn, known), datasets, usermeta, config: mergeColors(recolor(config ?? {}, known), darkConfig) };
  }

  /** Every text that names a known colour, but for those among rows, becomes its dark twin. */
  function recolor(value, known) {
    if (typeof value === "string") return known[value] ?? value;
    if (Array.isArray(value)) return value.map((one) => recolor(one, known));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([name, one]) => [name, name === "values" ? one : recolor(one, known)]),
    );
  }

  /** The config with the colours of another: a figure keeps its own sizes and places. */
  function mergeColors(config, other) {
    const merged = { ...config };
    for (const [name, value] of Object.entries(other)) {
      if (name === "background" || /color/i.test(name)) merged[name] = value;
      else if (value && typeof value === "object" && !Array.isArray(value)) merged[name] = mergeColors(merged[name] ?? {}, value);
    }
    return merged;
  }

  /** The description on the light page, whose background shows through. */
  const onPaper = (spec) => ({ ...spec, config: { ...spec.config, background: null } });

  /** As it stands in files: without the marks that only a pointer finds. */
  function withoutHover(spec) {
    const kept = { ...spec };
    for (const part of [...CONCATENATIONS, "layer"]) {
      if (kept[part]) kept[part] = kept[part].filter((view) => !view.name?.startsWith("hover")).map(withoutHover);
    }
    return kept;
  }

  Object.assign(mnemoscope, { unpack, narrow, stack, darken, onPaper, withoutHover });
})();
