// The list: one row an item, kept in the document while it stays in the answer, so that it can be seen to move.
// It sends nothing; what a person does in a row is told to `act(kind, id)`.

const rows = new Map();
let order = [];
let active = null;

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};

export const readable = (title, id) => {
  if (!title) return `Item ${id}`;
  const text = title === title.toUpperCase() ? title.toLowerCase() : title;
  return text.charAt(0).toUpperCase() + text.slice(1);
};

const money = new Intl.NumberFormat("en-GB", { style: "currency", currency: "GBP" });
const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`);

function hash(text) {
  let value = 2166136261;
  for (const char of text) value = Math.imul(value ^ char.codePointAt(0), 16777619);
  value = Math.imul(value ^ (value >>> 15), 2246822507);
  return (value ^ (value >>> 13)) >>> 0;
}

// A picture for a shop without pictures: the category gives the colour, the item the pattern.
function tile(id, category) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 46 46");
  picture.setAttribute("class", "tile");
  picture.setAttribute("aria-hidden", "true");
  const hue = hash(category || "none") % 360;
  const paint = (tag, values) => {
    const shape = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(values)) shape.setAttribute(name, value);
    picture.append(shape);
  };
  paint("rect", { width: 46, height: 46, fill: `hsl(${hue} 34% 84%)` });
  const seed = hash(id);
  for (let place = 0; place < 6; place += 1) {
    const kind = (seed >>> (place * 3)) & 7;
    const [x, y] = [9 + (place % 2) * 14, 9 + Math.floor(place / 2) * 14];
    const fill = `hsl(${(hue + (kind & 1) * 24) % 360} ${38 + kind}% ${40 + kind * 3}%)`;
    for (const mirrored of place % 2 ? [x] : [x, 46 - x]) {
      if (kind < 3) paint("circle", { cx: mirrored, cy: y, r: 3 + kind * 1.4, fill });
      else if (kind < 5) paint("rect", { x: mirrored - 4, y: y - 4, width: 8, height: 8, rx: kind - 2, fill });
    }
  }
  return picture;
}

function makeRow(id, fields, act) {
  const place = element("div", { class: "place" }, element("span"), element("small"));
  const title = element("div", { class: "title" }, readable(fields.title, id));
  const meta = element("div", { class: "meta" });
  if (fields.price !== undefined) meta.append(element("span", { class: "price" }, money.format(fields.price)));
  if (fields.category) meta.append(element("span", {}, fields.category));
  const did = element("span", { class: "did" });
  meta.append(did);
  const score = element("div", { class: "score" });
  const buttons = element("div", { class: "do" });
  for (const [kind, text, about] of [
    ["click", "Look", "Look at"], ["cart", "Basket", "Put into the basket:"], ["purchase", "Buy", "Buy"], ["why", "Why?", "Why it stands here:"],
  ]) {
    const button = element("button", { type: "button", "data-do": kind, "aria-label": `${about} ${readable(fields.title, id)}` }, text);
    if (kind === "why") button.className = "ask";
    button.addEventListener("click", () => { makeActive(id); act(kind, id); });
    buttons.append(button);
  }
  const row = element("li", { class: "row", tabindex: "-1", "data-id": id }, place, tile(id, fields.category),
    element("div", { class: "what" }, title, meta), score, buttons);
  row.addEventListener("focus", () => makeActive(id));
  return { row, place, did, score, name: readable(fields.title, id), done: [] };
}

// Only the active row and its buttons are in the tab order; arrow keys move between rows.
function makeActive(id) {
  active = id;
  for (const [other, { row }] of rows) {
    const here = other === id;
    row.tabIndex = here ? 0 : -1;
    for (const button of row.querySelectorAll("button")) button.tabIndex = here ? 0 : -1;
  }
}

function showChange(small, change) {
  small.className = change === null ? "new on" : change > 0 ? "up on" : change < 0 ? "down on" : "";
  small.textContent = change === null ? "new" : change > 0 ? `▲${change}` : change < 0 ? `▼${-change}` : "";
}

// Show an answer. Returns id → places gained (null: was not in the list before). compare: false for another question.
export function show(list, answer, fields, { compare, act }) {
  const before = new Map([...rows].map(([id, { row }]) => [id, row.getBoundingClientRect().top]));
  const places = new Map(order.map((id, place) => [id, place]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  if (!compare) rows.clear();
  const changes = new Map();
  const best = Math.max(...answer.click, 1e-9);
  answer.ids.forEach((id, place) => {
    if (!rows.has(id)) rows.set(id, makeRow(id, fields.get(id) ?? {}, act));
    const known = rows.get(id);
    const change = !compare ? 0 : places.has(id) ? places.get(id) - place : null;
    changes.set(id, change);
    known.place.firstChild.textContent = place + 1;
    showChange(known.place.lastChild, change);
    const length = element("i");
    length.style.width = `${((answer.click[place] / best) * 100).toFixed(1)}%`;
    const meter = element("span", { class: "length", "aria-hidden": "true" }, length);
    known.score.replaceChildren(
      element("span", { title: "P(click)" }, element("b", {}, percent(answer.click[place])), " click"), meter,
      element("span", { title: "P(purchase | click)" }, element("b", {}, percent(answer.purchase[place])), " then buy"),
    );
    known.row.setAttribute("aria-label", `Rank ${place + 1}: ${known.name}`);
  });
  for (const id of [...rows.keys()]) if (!changes.has(id)) rows.delete(id);
  order = answer.ids;
  list.replaceChildren(...order.map((id) => rows.get(id).row));
  if (!order.length) list.append(element("li", { class: "none" }, "Nothing found. Try another word."));
  if (order.length) makeActive(rows.has(active) ? active : order[0]);
  if (focused) (focused.isConnected ? focused : rows.get(order[0])?.row)?.focus({ preventScroll: true });
  if (compare) animate(before);
  return changes;
}

function animate(before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const [id, { row }] of rows) {
    const shift = before.has(id) ? before.get(id) - row.getBoundingClientRect().top : null;
    if (shift === 0) continue;
    row.classList.add("moving");
    const from = shift === null ? { opacity: 0 } : { transform: `translateY(${shift}px)` };
    row.animate([from, { opacity: 1, transform: "none" }], { duration: 520, easing: "cubic-bezier(.2, .8, .2, 1)" })
      .finished.then(() => row.classList.remove("moving"), () => {});
  }
}

// Mark what was done with an item, in its row, and bring that into view.
export function mark(id, word) {
  const known = rows.get(id);
  if (!known) return;
  known.done = [...known.done.filter((old) => old !== word), word];
  known.did.textContent = known.done.join(", ");
  for (const { row } of rows.values()) row.classList.toggle("touched", row === known.row);
  const top = known.row.offsetTop - 12; // where it will stand: an animation under way does not count
  if (top < scrollY || top + known.row.offsetHeight > scrollY + innerHeight) scrollTo({ top, behavior: "smooth" });
}

export const nameOf = (id) => rows.get(id)?.name ?? id;
export const activeItem = () => active;

// Move the focus by so many rows, or to the first (-Infinity) or the last (Infinity).
export function move(steps) {
  const place = order.indexOf(active) + steps;
  const id = order[Math.max(0, Math.min(order.length - 1, place))];
  const row = rows.get(id)?.row;
  if (row) { row.focus({ preventScroll: true }); row.scrollIntoView({ block: "nearest" }); }
}
