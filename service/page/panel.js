// The panel: version, three ages, events a second, learning curves, what the visitor did. It asks the service nothing.

const at = (id) => document.getElementById(id);
const space = "http://www.w3.org/2000/svg";

const NEVER = 40 * 365 * 86_400_000; // weights that learned nothing yet are as old as the epoch

// A time span in words; a dash where there is none.
export function age(ms) {
  if (ms === null || ms === undefined || ms > NEVER) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 90_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 5_400_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}

let shownVersion = null;

export function showVersion(version) {
  if (version === undefined || version === shownVersion) return;
  at("version").textContent = version.toLocaleString("en");
  if (shownVersion !== null) {
    const figure = at("version").parentElement;
    figure.classList.remove("fresh");
    void figure.offsetWidth; // starts the animation anew
    figure.classList.add("fresh");
  }
  shownVersion = version;
}

export function showAges(ages) {
  for (const place of document.querySelectorAll("[data-age]")) place.textContent = age(ages?.[place.dataset.age]);
}

export function showStatus(status) {
  showVersion(status.version);
  showAges(status.ages_ms);
  at("rate").textContent = (status.events_per_second ?? 0).toLocaleString("en", { maximumFractionDigits: 1 });
  const held = status.trainer?.gate?.held ?? null;
  at("held").hidden = !held;
  if (held) at("held").textContent = `The gate holds the weights: ${held}`;
  const shift = status.import_shift_ms;
  at("shift").textContent = shift
    ? `Every time was moved by one constant, ${(shift / 86_400_000).toFixed(1)} days, so that the last purchase fell on the moment of the import.`
    : "";
  showCurves(status.trainer);
}

const seen = []; // what the trainer said while this page was open: finer than its own point a minute
const SEEN = 240;

// Points {auc_live, auc_frozen, loss_live, loss_frozen}: the trainer's curve, then what was seen here.
function pointsOf(trainer) {
  const now = trainer?.progressive?.["10m"];
  const last = seen.at(-1);
  if (now?.examples >= 1 && Math.abs(now.examples - (last?.examples ?? 0)) >= 0.5) seen.push({ ...now, t: Date.now() });
  if (seen.length > SEEN) seen.shift();
  const columns = trainer?.curve_columns ?? [];
  const from = seen[0]?.t ?? Infinity;
  const past = (trainer?.curve ?? [])
    .map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place] < 0 ? null : row[place]])))
    .filter((point) => point.t < from);
  return [...past, ...seen];
}

function showCurves(trainer) {
  const points = pointsOf(trainer);
  at("curves").replaceChildren(
    curve("AUC", points, "auc_live", "auc_frozen", "higher is better"),
    curve("Log loss", points, "loss_live", "loss_frozen", "lower is better"),
  );
}

function curve(name, points, live, frozen, better) {
  const figure = document.createElement("figure");
  figure.className = "curve";
  const usable = points.filter((point) => Number.isFinite(point[live]) && Number.isFinite(point[frozen]));
  const caption = document.createElement("figcaption");
  const last = usable.at(-1);
  const words = document.createElement("span");
  words.textContent = `${name}, ${better}`;
  caption.append(words);
  if (last) {
    const numbers = document.createElement("span");
    for (const [kind, text, value] of [["key-live", "live", last[live]], ["key-frozen", "frozen", last[frozen]]]) {
      const part = document.createElement("span");
      part.className = kind;
      part.textContent = ` ${text} ${value.toFixed(3)}`;
      numbers.append(part);
    }
    caption.append(numbers);
  }
  figure.append(caption, drawing(usable, [[frozen, "frozen"], [live, "live"]], name));
  return figure;
}

function drawing(points, lines, name) {
  const [width, height] = [288, 64];
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("preserveAspectRatio", points.length > 1 ? "none" : "xMidYMid");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", points.length ? `${name} over time, live and frozen` : `${name}: no labels yet`);
  const add = (tag, values, text) => {
    const part = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(values)) part.setAttribute(key, value);
    if (text) part.textContent = text;
    picture.append(part);
  };
  add("path", { class: "base", d: `M0 ${height - 0.5}H${width}` });
  if (points.length < 2) {
    add("text", { class: "waiting", x: width / 2, y: height / 2, "text-anchor": "middle" }, "waiting for labels (a look; 30 s without one)");
    return picture;
  }
  const values = points.flatMap((point) => lines.map(([key]) => point[key]));
  const low = Math.min(...values);
  const span = Math.max(Math.max(...values) - low, 1e-6);
  const x = (place) => (place / (points.length - 1)) * width;
  const y = (value) => height - 6 - ((value - low) / span) * (height - 12);
  for (const [key, kind] of lines) {
    const d = points.map((point, place) => `${place ? "L" : "M"}${x(place).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("");
    add("path", { class: `line ${kind}`, d });
  }
  return picture;
}

// One line more in the list of what the visitor did, newest first.
export function note(text, effect) {
  const line = document.createElement("li");
  for (const part of [text, effect]) {
    const span = document.createElement("span");
    span.textContent = part;
    line.append(span);
  }
  const journal = at("journal");
  journal.querySelector(".empty")?.remove();
  journal.prepend(line);
  while (journal.children.length > 6) journal.lastElementChild.remove();
}
