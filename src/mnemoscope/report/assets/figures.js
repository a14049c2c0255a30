"use strict";
// Figures: drawn when they come near, again when the theme or a choice changes; their cells can be chosen.
(() => {
  const { element, saveFile, fileName, unpack, narrow, stack, darken, onPaper, withoutHover } = mnemoscope;
  const LARGEST_SCALE = 1.3;
  const SMALLEST_SCALE = 0.85; // of 12-pixel type; below it panels go below one another, or the figure's box scrolls
  const PNG_SCALE = 3;
  const MAX_KEPT = 4;

  /** All figures of the page. `isDark()` says which theme is on; `onCell` hears of a chosen transition cell. */
  function makeFigures({ specs, darkConfig, name, isDark, onCell }) {
    const tooltip = makeTooltip();
    const figures = [...document.querySelectorAll("figure[data-figure]")]
      .filter((box) => specs[box.dataset.figure])
      .map((box) => makeFigure(box, { spec: unpack(specs[box.dataset.figure]), darkConfig, isDark, tooltip, onCell }));
    for (const figure of figures) addDownloads(figure, name);
    const near = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
      { rootMargin: "600px" },
    );
    const byBox = new Map(figures.map((figure) => [figure.box, figure]));
    const draw = (box) => byBox.get(box).draw();
    figures.forEach((figure) => near.observe(figure.box));
    /** Every figure, and what paper needs of it, one after the other. */
    const drawAll = async () => {
      for (const figure of figures) {
        await figure.draw();
        await figure.drawForPaper();
      }
    };
    return {
      drawAll,
      redraw: () => Promise.all(figures.filter((figure) => figure.isDrawn()).map((figure) => figure.draw())),
      choose: (choices) => Promise.all(figures.map((figure) => figure.choose(choices))),
    };
  }

  function makeFigure(box, { spec, darkConfig, isDark, tooltip, onCell }) {
    const plot = box.querySelector(".plot");
    const state = { shown: spec, drawing: null, mark: "" };
    const kept = new Map(); // what was drawn before, by theme, choice and width: going back takes no time

    async function draw() {
      const theme = isDark() ? "dark" : "light";
      const mark = `${theme} ${box.dataset.chosen ?? ""} ${plot.clientWidth}`;
      if (state.mark === mark) return state.drawing;
      state.mark = mark;
      const shown = state.shown;
      state.drawing = (state.drawing ?? Promise.resolve()).then(() => drawNow(mark, theme, shown)).catch(fail);
      return state.drawing;
    }

    async function drawNow(mark, theme, shown) {
      if (state.mark !== mark) return; // the reader has chosen on
      if (!kept.has(mark)) keep(mark, await makeDrawing(theme === "dark" ? darken(shown, darkConfig) : onPaper(shown)));
      plot.replaceChildren(kept.get(mark).holder);
      box.dataset.drawn = theme;
    }

    async function makeDrawing(shown) {
      let drawn = await embed(shown, tooltip);
      if (scaleOf(drawn.svg) < SMALLEST_SCALE) {
        drawn.view.finalize();
        drawn = await embed(stack(shown), tooltip);
      }
      fit(drawn.svg);
      if (spec.usermeta?.cells) makeCells(drawn.svg, onCell, tooltip);
      drawn.svg.setAttribute("aria-label", box.getAttribute("aria-label") ?? "");
      return drawn;
    }

    function keep(mark, drawn) {
      kept.set(mark, drawn);
      if (kept.size <= MAX_KEPT) return;
      const [oldest, { view }] = kept.entries().next().value;
      view.finalize();
      kept.delete(oldest);
    }

    /** A light copy beside a dark figure, for printers; a light figure is its own. */
    async function drawForPaper() {
      box.querySelector(".plot-paper")?.remove();
      if (!isDark()) return;
      const { holder, view } = await embed(onPaper(withoutHover(state.shown)), null);
      view.finalize();
      holder.className = "plot-paper";
      plot.after(holder);
    }

    function fail(error) {
      plot.replaceChildren(element("p", { class: "problem" }, `This figure could not be drawn: ${error.message}`));
      box.dataset.drawn = "failed";
    }

    const scaleOf = (svg) => Math.min(LARGEST_SCALE, roomOf(plot) / Number(svg.dataset.width));

    /** As wide as there is room, within limits of legibility; wider ones scroll inside their own box. */
    function fit(svg) {
      const scale = Math.max(scaleOf(svg), Math.min(SMALLEST_SCALE, 1));
      svg.setAttribute("width", Math.round(Number(svg.dataset.width) * scale));
      svg.setAttribute("height", Math.round(Number(svg.dataset.height) * scale));
    }

    function choose(choices) {
      const { spec: narrowed, followed } = narrow(spec, choices);
      box.dataset.chosen = followed.join(" ");
      state.shown = narrowed;
      return isDrawn() ? draw() : Promise.resolve();
    }

    const isDrawn = () => box.dataset.drawn !== undefined;
    return { box, draw, drawForPaper, choose, isDrawn, shown: () => state.shown };
  }

  /** Pixels that a figure may take; a closed part of the page has none yet, and is taken to be as wide as its section. */
  function roomOf(plot) {
    return plot.clientWidth || plot.closest("section")?.clientWidth || 600;
  }

  /** A description as SVG in a holder of its own. No code is made from text: the interpreter runs expressions. */
  async function embed(spec, tooltip) {
    const holder = element("div");
    const { view } = await globalThis.vegaEmbed(holder, spec, {
      ast: true,
      renderer: "svg",
      actions: false,
      defaultStyle: false,
      tooltip: tooltip?.show ?? false,
    });
    const svg = holder.querySelector("svg");
    if (svg) {
      svg.dataset.width = svg.getAttribute("width");
      svg.dataset.height = svg.getAttribute("height");
      svg.setAttribute("role", spec.usermeta?.cells ? "group" : "img"); // an image would hide its cells
    }
    return { holder, view, svg };
  }

  /** Saves the figure as it is chosen, always in the light theme: for paper. */
  function addDownloads(figure, name) {
    const file = fileName(name, figure.box.dataset.figure);
    const ways = {
      svg: async (view) => saveFile(`${file}.svg`, "image/svg+xml", await view.toSVG()),
      png: async (view) => saveFile(`${file}.png`, "image/png", await canvasBlob(await view.toCanvas(PNG_SCALE))),
    };
    for (const [way, save] of Object.entries(ways)) {
      figure.box.querySelector(`[data-action="figure-${way}"]`)?.addEventListener("click", async () => {
        const { view } = await embed(withoutHover(figure.shown()), null);
        await save(view);
        view.finalize();
      });
    }
  }

  const canvasBlob = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

  /** One box for all figures; what it says is text. */
  function makeTooltip() {
    const box = element("div", { id: "tooltip", role: "tooltip", hidden: true });
    document.body.append(box);

    function show(_handler, event, _item, value) {
      if (value === null || value === undefined || value === "") {
        box.hidden = true;
        return;
      }
      box.replaceChildren(...linesOf(value));
      box.hidden = false;
      place(event.clientX, event.clientY);
    }

    function place(x, y) {
      const left = Math.min(x + 14, innerWidth - box.offsetWidth - 8);
      const top = y + 18 + box.offsetHeight > innerHeight ? y - box.offsetHeight - 12 : y + 18;
      box.style.left = `${Math.max(8, left)}px`;
      box.style.top = `${Math.max(8, top)}px`;
    }

    addEventListener("scroll", () => (box.hidden = true), { passive: true });
    addEventListener("keydown", (event) => event.key === "Escape" && (box.hidden = true));
    return { show };
  }

  function linesOf(value) {
    if (typeof value !== "object") return [element("div", {}, String(value))];
    return Object.entries(value).map(([title, words]) =>
      element("div", {}, element("span", { class: "tooltip-title" }, title), " ", String(words)),
    );
  }

  /** The cells of a matrix as buttons: one of them in the tab order, arrows move among them. */
  function makeCells(svg, onCell, tooltip) {
    const cells = [...svg.querySelectorAll("path, rect")].filter((node) => datumOf(node));
    cells.forEach((cell, place) => {
      cell.setAttribute("tabindex", place === 0 ? "0" : "-1");
      cell.setAttribute("role", "button");
      cell.dataset.cell = `${datumOf(cell).level_from} to ${datumOf(cell).level_to}`;
      cell.addEventListener("focus", () => showAt(cell, tooltip));
      cell.addEventListener("blur", () => tooltip.show(null, null, null, null));
    });
    svg.addEventListener("click", (event) => datumOf(event.target) && onCell(datumOf(event.target)));
    svg.addEventListener("keydown", (event) => {
      const cell = event.target.closest("[data-cell]");
      if (!cell) return;
      if (event.key === "Enter" || event.key === " ") onCell(datumOf(cell));
      else if (event.key.startsWith("Arrow")) move(cells, cell, event.key);
      else return;
      event.preventDefault();
    });
  }

  /** The row behind a mark of a transition matrix; null for any other mark. */
  function datumOf(node) {
    const datum = node.__data__?.datum; // where Vega keeps a node's item
    return datum?.level_from !== undefined && datum.model_from !== undefined ? datum : null;
  }

  function showAt(cell, tooltip) {
    const box = cell.getBoundingClientRect();
    tooltip.show(null, { clientX: box.right, clientY: box.bottom }, null, cell.__data__.tooltip ?? null);
  }

  /** Focus goes to the nearest cell on that side. */
  function move(cells, cell, key) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    const from = middle(cell);
    let next = null;
    let nearest = Infinity;
    for (const other of cells) {
      const to = middle(other);
      const along = (to.x - from.x) * dx + (to.y - from.y) * dy;
      const aside = Math.abs((to.x - from.x) * dy) + Math.abs((to.y - from.y) * dx);
      if (along > 1 && along + 3 * aside < nearest) {
        nearest = along + 3 * aside;
        next = other;
      }
    }
    if (!next) return;
    cell.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  }

  function middle(node) {
    const box = node.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  }

  Object.assign(mnemoscope, { makeFigures });
})();
