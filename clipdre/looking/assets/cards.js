// Pairs: cards, and what is known of one. Captions are only ever set as text.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function number(value) {
  if (value === null || value === undefined) return "missing";
  const size = Math.abs(value);
  return Number.isInteger(value) ? value.toLocaleString("en") : size >= 0.001 && size < 1e6 ? value.toFixed(size < 1 ? 3 : 2) : value.toExponential(2);
}

function share(part, whole) {
  if (!whole) return "0%";
  const percent = (100 * part) / whole;
  return `${percent > 0 && percent < 0.1 ? percent.toFixed(3) : percent.toFixed(1)}%`;
}

function picture(row, name = "") {
  if (!row.image) return make("span", { text: "no image" });
  const image = make("img", { src: row.image, alt: (row.caption || row.key || "").slice(0, 120), className: name });
  if (row.blurred) image.classList.add("blurred");
  return image;
}

function axisAt(label) {
  return DATA.axes.findIndex((axis) => axis.label === label);
}

function card(index, axes) {
  const row = DATA.rows[index];
  const caption = make("bdi", { className: "caption", text: row.caption || row.key || "" });
  const values = axes.filter((n) => n >= 0).map((n) => make("span", { className: "value", text: `${DATA.axes[n].label} ${number(row.values[n])}` }));
  const box = make("button", { type: "button", className: "card", onclick: () => openDetails(index) }, make("span", { className: "picture" }, picture(row)), caption, ...values);
  box.dataset.row = index;
  box.dataset.key = `${row.shard || ""}/${row.key || ""}`;
  return box;
}

function fill(element, rows, axes) {
  element.replaceChildren(...rows.map((row) => card(row, axes)));
  if (!rows.length) element.append(make("p", { className: "note", text: "No such pair on this page." }));
}

// The share of the pool with a smaller value, to the nearest edge.
function quantile(axis, value) {
  if (value === null) return null;
  const total = sums(axis).atLeast[0] + axis.lessThan[0];
  let bin = 0;
  for (const edge of edges(axis)) if (edge <= value) bin++;
  const below = bin ? axis.lessThan[bin - 1] : 0;
  return total ? (below + axis.pool[bin] / 2) / total : null;
}

function scoresTable(row) {
  const lines = DATA.axes.map((axis, n) => {
    const at = quantile(axis, row.values[n]);
    const cells = [make("th", { scope: "row", text: axis.label }), make("td", { className: "n", text: number(row.values[n]) }), make("td", { text: axis.unit })];
    const meter = make("td");
    if (at !== null) meter.append(make("meter", { min: 0, max: 1, value: at, title: `above ${share(at, 1)} of the pool` }), ` above ${share(at, 1)}`);
    const meaning = axis.meaning === axis.label ? "" : axis.meaning;
    return make("tr", {}, ...cells, meter, make("td", { text: meaning }));
  });
  return make("div", { className: "scroll" }, make("table", {}, make("tbody", {}, ...lines)));
}

function peers(index, given) {
  const at = DATA.samples.indexOf(index);
  const found = at < 0 || !DATA.peers[given] ? [] : DATA.peers[given][at];
  const items = found.map(([other, ratio]) => {
    const row = DATA.rows[other];
    const shown = given === "text" ? [picture(row), make("span", {}, make("bdi", { text: row.caption || "" }))] : [make("span", {}, make("bdi", { text: row.caption || row.key || "" }))];
    return make("li", {}, make("button", { type: "button", onclick: () => openDetails(other) }, ...shown, make("b", { text: number(ratio) })));
  });
  const title = given === "image" ? "Likeliest captions for this image" : "Likeliest images for this caption";
  return make("div", {}, make("h3", { text: title }), make("ul", { className: "peers" }, ...items));
}

function openDetails(index) {
  const row = DATA.rows[index];
  const name = [row.shard, row.key].filter(Boolean).join("/");
  const image = picture(row, "big");
  const facts = make("div", {}, make("p", { className: "caption" }, make("bdi", { text: row.caption || "" })));
  const copy = make("button", { type: "button", text: "Copy", onclick: () => copied(copy, name) });
  facts.append(make("p", {}, make("code", { text: name }), " ", copy));
  if (row.uid) facts.append(make("p", {}, make("code", { text: `uid ${row.uid}` })));
  if (row.blurred) {
    const show = make("button", { type: "button", text: "Show the image", onclick: () => { image.classList.toggle("blurred"); } });
    facts.append(show);
  }
  const known = [];
  if (DATA.samples.includes(index) && !DATA.problem) {
    const note = `Log ratios given the image, and given the caption, in nats, among ${DATA.searched.toLocaleString("en")} pairs of the pool.`;
    known.push(make("div", { className: "sides" }, peers(index, "image"), peers(index, "text")), make("p", { className: "note", text: note }));
  } else if (DATA.problem) {
    known.push(make("p", { className: "note", text: `No counterparts: ${DATA.problem}` }));
  }
  const body = document.getElementById("details-body");
  body.replaceChildren(make("div", { className: "top" }, image, facts), ...known, make("h3", { text: "Scores" }), scoresTable(row));
  const dialog = document.getElementById("details");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function copied(button, text) {
  const done = () => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
  const area = make("textarea", { value: text });
  (button.closest("dialog") || document.body).append(area);
  area.select();
  document.execCommand("copy"); // the clipboard's newer interface is not there in files
  area.remove();
  button.focus();
  done();
}
