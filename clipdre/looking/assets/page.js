// The page: what is chosen, and what follows from it.

const byId = (id) => document.getElementById(id);
const NEAR = 4;
const INSIDE = 12;
const views = { cut: null, two: null };

function options(select, items, chosen) {
  select.replaceChildren(...items.map(([value, text]) => make("option", { value, text, selected: value === chosen })));
}

function cutAxis() { return DATA.axes[Number(byId("cut-axis").value)]; }

function quoted(text) { return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`; }

function moveLine() {
  const axis = sums(cutAxis()), n = Number(byId("cut-line").value), high = byId("cut-side").value === "high";
  const kept = (high ? axis.atLeast : axis.lessThan)[n], edge = axis.edges[n], sign = high ? ">=" : "<";
  byId("cut-count").replaceChildren(
    make("b", { text: `${kept.toLocaleString("en")} pairs` }), ` of ${DATA.pool.toLocaleString("en")} (${share(kept, DATA.pool)}) have ${axis.label} ${high ? "of at least" : "of less than"} ${edge}${axis.unit ? ` ${axis.unit}` : ""}`,
    ...(axis.missing ? [make("small", { text: `${axis.missing.toLocaleString("en")} pairs have no value` })] : []),
  );
  byId("cut-count").dataset.kept = kept;
  const condition = `${axis.sql} ${sign} ${edge}`;
  const where = axis.missing && !axis.whole ? `isfinite(${axis.sql}) AND ${condition}` : condition;
  byId("cut-command").textContent = `clipdre filter ${[DATA.folder, ...DATA.joined].map(quoted).join(" --with ")} --where ${quoted(where)} -o kept`;
  byId("cut-line").setAttribute("aria-valuetext", `${edge}: ${kept} pairs`);
  if (views.cut) views.cut.signal("edge", edges(axis)[n]).signal("side", high ? "high" : "low").runAsync();
  nearLine(axis, edges(axis)[n], high);
}

function nearLine(axis, edge, high) {
  const at = DATA.axes.indexOf(axis);
  const rows = DATA.samples.filter((n) => DATA.rows[n].values[at] !== null).sort((a, b) => DATA.rows[a].values[at] - DATA.rows[b].values[at]);
  const above = rows.filter((n) => DATA.rows[n].values[at] >= edge).slice(0, NEAR);
  const below = rows.filter((n) => DATA.rows[n].values[at] < edge).reverse().slice(0, NEAR);
  fill(byId("cut-above"), high ? above : below, [at]);
  fill(byId("cut-below"), high ? below : above, [at]);
}

// The edge to begin with: the rule's own cut, else one that keeps the better 30%.
function firstEdge(axis, selection) {
  const cut = axis.cuts.find((own) => own.selection === selection) || axis.cuts[0];
  const at = edges(axis);
  if (cut) {
    const first = at.findIndex((edge) => edge >= cut.value);
    return first < 0 ? at.length - 1 : first;
  }
  const total = sums(axis).atLeast[0] + axis.lessThan[0];
  const counts = axis.better === "low" ? axis.lessThan : axis.atLeast;
  const goal = 0.3 * total;
  let best = 0;
  counts.forEach((count, n) => { if (Math.abs(count - goal) < Math.abs(counts[best] - goal)) best = n; });
  return best;
}

async function showCut() {
  const axis = cutAxis(), selection = Number(byId("cut-kept").value);
  byId("cut-meaning").textContent = axis.meaning === axis.label ? "" : axis.meaning;
  const line = byId("cut-line");
  line.max = axis.edges.length - 1;
  line.setAttribute("aria-label", `Line through ${axis.label}`);
  const cut = axis.cuts.find((own) => own.selection === selection);
  byId("cut-side").value = cut ? (cut.bottom ? "low" : "high") : axis.better === "low" ? "low" : "high";
  line.value = firstEdge(axis, selection);
  views.cut = null;
  views.cut = await draw(byId("cut-chart"), histogram(axis, selection));
  moveLine();
}

function showMultiples() {
  const selection = DATA.selections.length ? 0 : -1;
  byId("multiples").replaceChildren(...DATA.axes.map((axis, n) => {
    const chart = make("span", { className: "chart" });
    chart.style.display = "block";
    const box = make("button", { type: "button", title: axis.meaning, onclick: () => { byId("cut-axis").value = n; showCut(); byId("cut").scrollIntoView(); } }, axis.label, chart);
    box.dataset.axis = axis.label;
    const merged = Math.max(1, Math.ceil(axis.edges.length / 60));
    seen(box, () => draw(chart, histogram(axis, selection, { merged, height: 70, line: false })));
    return box;
  }));
}

// Do something when an element first comes into view, or soon: it may be printed unseen.
function seen(element, work) {
  const once = () => { if (observer) { observer.disconnect(); observer = null; work(); } };
  let observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) once();
  }, { rootMargin: "300px" });
  observer.observe(element);
  setTimeout(once, 1500);
}

async function showTwo() {
  const [x, y, selection] = ["two-x", "two-y", "two-kept"].map((id) => Number(byId(id).value));
  const view = await draw(byId("two-chart"), density(x, y, selection));
  views.two = view;
  view.addSignalListener("brush", (_, range) => showInside(x, y, range));
  showInside(x, y, {});
}

function showInside(x, y, range) {
  const inside = (value, ends) => !ends || (value !== null && value >= Math.min(...ends) && value <= Math.max(...ends));
  const rows = DATA.samples.filter((n) => inside(DATA.rows[n].values[x], range.x) && inside(DATA.rows[n].values[y], range.y));
  let count = 0;
  const value = (axis, level) => cellValue(DATA.axes[axis], ((level + 0.5) * CELLS) / LEVELS);
  for (let n = 0; n < DATA.points.count; n++)
    if (inside(value(x, LEVELS_OF[x][n]), range.x) && inside(value(y, LEVELS_OF[y][n]), range.y)) count++;
  byId("two-count").textContent = range.x || range.y
    ? `About ${share(count, DATA.points.count)} of the pairs are inside (of ${DATA.points.count.toLocaleString("en")} drawn at random). Some of them:`
    : `${DATA.points.count.toLocaleString("en")} pairs, drawn at random. Draw a rectangle to see the pairs inside; some of all:`;
  const every = Math.max(1, rows.length / INSIDE);
  fill(byId("two-cards"), rows.filter((_, n) => Math.floor(n / every) !== Math.floor((n - 1) / every)).slice(0, INSIDE), [x, y]);
}

function showGalleries() {
  byId("galleries").replaceChildren(...DATA.galleries.map((gallery, n) => {
    const cards = make("div", { className: "cards" });
    const box = make("details", { open: n < 6 }, make("summary", {}, gallery.title, make("small", { text: gallery.note })), cards);
    box.dataset.title = gallery.title;
    const main = axisAt("log_ratio"), by = axisAt(gallery.by);
    const axes = by < 0 || by === main ? [main, axisAt("kl_text")] : [by, main];
    fill(cards, gallery.rows, axes);
    return box;
  }));
}

function start() {
  const axes = DATA.axes.map((axis, n) => [String(n), axis.label]);
  const rules = [...DATA.selections.map((own, n) => [String(n), `kept by ${own.name}`]), ["-1", "nothing"]];
  const cut = DATA.axes.findIndex((axis) => axis.cuts.length);
  const first = String(Math.max(0, cut)), second = String(Math.max(0, axisAt("kl_text")));
  options(byId("cut-axis"), axes, first);
  options(byId("two-x"), axes, String(Math.max(0, axisAt("log_ratio"))));
  options(byId("two-y"), axes, second);
  for (const id of ["cut-kept", "two-kept"]) options(byId(id), rules, rules[0][0]);
  for (const label of document.querySelectorAll(".kept-by")) label.hidden = !DATA.selections.length;
  byId("cut-axis").onchange = byId("cut-kept").onchange = showCut;
  byId("cut-line").oninput = byId("cut-side").onchange = moveLine;
  byId("cut-copy").onclick = () => copied(byId("cut-copy"), byId("cut-command").textContent);
  for (const id of ["two-x", "two-y", "two-kept"]) byId(id).onchange = showTwo;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showCut(); showMultiples(); showTwo(); });
  addEventListener("beforeprint", () => { for (const box of document.querySelectorAll("details")) box.open = true; });
  byId("details").onclick = (event) => { if (event.target === byId("details")) byId("details").close(); };
  if (!DATA.pool) return;
  showCut();
  showGalleries();
  showMultiples();
  seen(byId("two"), showTwo);
}

start();
