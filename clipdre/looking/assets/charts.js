"use strict";
// Charts: specifications for Vega-Lite, which draws them. Expressions are interpreted (`ast`), so
// that the page's policy can forbid code that is made from text.

const DATA = JSON.parse(document.getElementById("data").textContent);
const HEIGHT = 200;
const LEVELS = 256;

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// Cells across a density: fewer for few points. A divisor of `LEVELS`.
const CELLS = DATA.points.count > 20000 ? 64 : 32;
const LEVELS_OF = DATA.points.levels.map(bytes);
const KEPT_POINTS = DATA.points.kept.map(bytes);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function draw(element, spec) {
  const quiet = colour("quiet");
  const config = {
    background: "transparent",
    view: { stroke: null },
    axis: { labelColor: quiet, titleColor: quiet, gridColor: colour("line"), domainColor: quiet, tickColor: quiet, labelFont: "system-ui", titleFont: "system-ui" },
    legend: { labelColor: quiet, titleColor: quiet },
  };
  const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", padding: 0, autosize: { type: "fit-x", contains: "padding" }, config, ...spec };
  return vegaEmbed(element, full, { ast: true, actions: false, renderer: "canvas" }).then((found) => found.view);
}

function edges(axis) {
  axis.numbers ??= axis.edges.map(Number);
  return axis.numbers;
}

function sums(axis) {
  // How many pairs are at each edge or above it, and below it.
  if (!axis.atLeast) {
    let above = axis.pool.reduce((a, b) => a + b, 0), below = 0;
    axis.atLeast = []; axis.lessThan = [];
    for (let n = 0; n < axis.edges.length; n++) {
      above -= axis.pool[n]; below += axis.pool[n];
      axis.atLeast.push(above); axis.lessThan.push(below);
    }
  }
  return axis;
}

// Bins between the edges, `merged` at a time, with the share of the tallest one.
function bins(axis, selection, merged) {
  const at = edges(axis);
  const found = [];
  for (let n = 0; n + 1 < at.length; n += merged) {
    const last = Math.min(n + merged, at.length - 1);
    let pool = 0, kept = 0;
    for (let m = n; m < last; m++) {
      pool += axis.pool[m + 1];
      if (selection >= 0) kept += axis.kept[selection][m + 1];
    }
    found.push({ from: at[n], to: at[last], pool, kept });
  }
  return found;
}

function histogram(axis, selection, { merged = 1, height = HEIGHT, line = true } = {}) {
  const at = edges(axis);
  const x = { field: "from", type: "quantitative", scale: { domain: [at[0], at[at.length - 1]], nice: false, zero: false }, axis: { title: null, grid: false, labelFlush: true, tickCount: line ? 10 : 4 } };
  const bars = (field, fill) => ({
    mark: { type: "rect", fill: colour(fill), strokeWidth: 0 },
    encoding: {
      x, x2: { field: "to" },
      y: { field, type: "quantitative", axis: null, scale: { nice: false } }, y2: { datum: 0 },
      opacity: line ? { condition: { test: "side == 'low' ? datum.to <= edge : datum.from >= edge", value: 1 }, value: 0.35 } : { value: 1 },
    },
  });
  return {
    width: "container", height,
    params: [{ name: "edge", value: at[0] }, { name: "side", value: "high" }],
    data: { values: bins(axis, selection, merged) },
    layer: [bars("pool", "pool"), ...(selection >= 0 ? [bars("kept", "kept")] : [])],
  };
}

function isKept(selection, point) {
  return (KEPT_POINTS[selection][point >> 3] >> (point & 7)) & 1;
}

// The value at the lower end of a cell of `CELLS`.
function cellValue(axis, cell) {
  const at = edges(axis);
  return at[0] + (cell / CELLS) * (at[at.length - 1] - at[0]);
}

function density(x, y, selection) {
  const across = LEVELS_OF[x], up = LEVELS_OF[y];
  const count = new Uint32Array(CELLS * CELLS), kept = new Uint32Array(CELLS * CELLS);
  const each = LEVELS / CELLS;
  for (let n = 0; n < across.length; n++) {
    const cell = ((across[n] / each) | 0) * CELLS + ((up[n] / each) | 0);
    count[cell]++;
    if (selection >= 0 && isKept(selection, n)) kept[cell]++;
  }
  const values = [];
  const [a, b] = [DATA.axes[x], DATA.axes[y]];
  for (let cell = 0; cell < count.length; cell++) {
    if (!count[cell]) continue;
    const [i, j] = [(cell / CELLS) | 0, cell % CELLS];
    values.push({ x: cellValue(a, i), x2: cellValue(a, i + 1), y: cellValue(b, j), y2: cellValue(b, j + 1), pairs: count[cell], kept: kept[cell] / count[cell] });
  }
  const scale = (axis) => ({ domain: [edges(axis)[0], edges(axis)[axis.edges.length - 1]], nice: false, zero: false });
  const title = (axis) => (axis.unit ? `${axis.label} (${axis.unit})` : axis.label);
  const place = {
    x: { field: "x", type: "quantitative", scale: scale(a), axis: { title: title(a), grid: false } }, x2: { field: "x2" },
    y: { field: "y", type: "quantitative", scale: scale(b), axis: { title: title(b), grid: false } }, y2: { field: "y2" },
  };
  const outline = { transform: [{ filter: "datum.kept >= 0.5" }], mark: { type: "rect", fillOpacity: 0, stroke: colour("mark"), strokeWidth: 1 }, encoding: place };
  return {
    width: "container", height: 430, autosize: { type: "fit", contains: "padding" }, padding: 4,
    data: { values },
    layer: [
      {
        params: [{ name: "brush", select: { type: "interval", encodings: ["x", "y"] } }],
        mark: { type: "rect", tooltip: true, strokeWidth: 0 },
        encoding: {
          ...place,
          fill: { field: "pairs", type: "quantitative", scale: { type: "log", range: [colour("soft"), colour("kept")] }, legend: { title: "pairs", orient: "top", gradientLength: 120 } },
        },
      },
      ...(selection >= 0 ? [outline] : []),
    ],
  };
}
