// The page's thread: ask for a list, say what was shown, send what the visitor did, ask again with the token.

import { KeyNeeded, details, hasKey, keepKey, rank, retrieve, send, status, uniqueId } from "./api.js";
import { age, note, showAges, showStatus, showVersion } from "./panel.js";
import { activeItem, mark, move, nameOf, show } from "./results.js";
import { showWhy } from "./why.js";

const TOP = 20;
const IDEAS = ["lantern", "mug", "christmas", "hot water bottle", "alarm clock", "lunch bag"];
const SHOPPERS = [ // real customers of the sample data, by what they bought most
  ["17705", "buys clocks"], ["16438", "buys candles"], ["13183", "buys signs"], ["13576", "buys frames"], ["14911", "wholesaler"],
];
const DONE = { click: "looked at", cart: "in the basket", purchase: "bought" };
const DID = { click: "Looked at", cart: "Basket:", purchase: "Bought" };

const at = (id) => document.getElementById(id);
let shown = null; // {question, answer}: the list on the screen
let asking = 0; // the newest question wins when answers overtake each other

function actor() {
  const chosen = at("shopper").value;
  return chosen.startsWith("visit-") ? { session: chosen } : { user: chosen };
}

function question() {
  const query = at("query").value.trim();
  return { ...actor(), ...(query && { query }), ...(at("objective").value && { objective: at("objective").value }) };
}

function problem(error) {
  at("problem").hidden = !error;
  at("problem").textContent = error ? error.message : "";
  at("key-form").hidden = !(error instanceof KeyNeeded);
  at("forget").hidden = !hasKey();
}

async function useKey(event) {
  event.preventDefault();
  try {
    keepKey(at("key").value.trim());
    at("key").value = "";
    await look();
    await search();
  } catch (error) {
    problem(error);
  }
}

// What was shown goes with the key.
function forgetKey() {
  keepKey("");
  location.reload();
}

// Ask for a list and show it; with `after`, wait until the service has seen our events. Returns the places gained.
async function ask(after = null) {
  const turn = ++asking;
  const asked = question();
  const answer = await retrieve({ ...asked, top_k: TOP, ...(after && { after }) });
  const fields = await details(answer.ids);
  if (turn !== asking) return new Map();
  const compare = shown !== null && JSON.stringify(asked) === JSON.stringify(shown.question);
  shown = { question: asked, answer };
  const changes = show(at("results"), answer, fields, { compare, act });
  at("results-heading").textContent = asked.query ? `“${asked.query}”` : "Recommended";
  showVersion(answer.version);
  showAges(answer.ages_ms);
  const arm = answer.arm === "control" ? ", control arm (frozen base)" : "";
  const span = age(answer.ages_ms.weights);
  const old = span === "–" ? ", as trained" : `, ${span} old`;
  at("served").textContent = `weights version ${answer.version}${old}${arm}${answer.stale ? ", stale" : ""}`;
  await sayWhatWasShown(asked, answer);
  return changes;
}

// Answered is not shown: this event tells the service what really was.
async function sayWhatWasShown(asked, answer) {
  if (!answer.ids.length) return;
  const { query } = asked;
  await send({
    id: answer.request_id, timestamp: Date.now(), event: "ranking", ...actor(),
    items: answer.ids.map((id, place) => ({ id, position: place + 1 })),
    fields: { surface: query ? "search" : "recommendation", ...(query && { query }) },
  });
}

async function act(kind, id) {
  problem(null);
  try {
    if (kind === "why") return await explain(id);
    const name = nameOf(id);
    const token = await send({
      id: uniqueId("page-"), timestamp: Date.now(), event: "interaction", type: kind, item: id, ...actor(),
      ranking: shown.answer.request_id,
    });
    const changes = await ask(token);
    mark(id, DONE[kind]);
    tell(kind, id, name, changes);
  } catch (error) {
    problem(error);
  }
  return undefined;
}

function tell(kind, id, name, changes) {
  const place = shown.answer.ids.indexOf(id) + 1;
  const moved = [...changes.values()].filter((change) => change !== 0).length;
  const change = changes.get(id);
  const itself = !place ? "left the list" : change ? `${change > 0 ? "▲" : "▼"}${Math.abs(change)} to ${place}` : `stays ${place}`;
  note(`${DID[kind]} ${name}`, itself);
  at("live").textContent = `${DID[kind]} ${name}: now ${place ? `rank ${place}` : "not in the list"}. ${moved} of ${changes.size} items moved. Weights version ${shown.answer.version}.`;
}

async function explain(id) {
  const answer = await rank({ ...shown.question, items: [id], explain: true });
  showWhy(nameOf(id), answer.explain[0], answer.click[0]);
}

async function search(event) {
  event?.preventDefault();
  problem(null);
  try {
    await ask();
    at("live").textContent = `${shown.answer.ids.length} results. Weights version ${shown.answer.version}.`;
  } catch (error) {
    problem(error);
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || at("why").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) { event.preventDefault(); at("query").focus(); return; }
  if (!at("results").contains(event.target)) {
    if (event.key === "ArrowDown" && event.target === at("query")) { event.preventDefault(); move(0); }
    return;
  }
  const steps = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
  if (steps !== undefined) { event.preventDefault(); move(steps); return; }
  const kind = { b: "cart", p: "purchase", w: "why" }[event.key] ?? (event.key === "Enter" && event.target.matches(".row") ? "click" : null);
  if (kind && activeItem()) { event.preventDefault(); act(kind, activeItem()); }
}

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function fillShoppers() {
  const fresh = sessionStorage.getItem("visit") ?? uniqueId("visit-");
  sessionStorage.setItem("visit", fresh);
  at("shopper").append(option(fresh, "You, a new visitor"), ...SHOPPERS.map(([id, text]) => option(id, `${id}, ${text}`)), option("again", "Start afresh …"));
  at("shopper").addEventListener("change", () => {
    if (at("shopper").value === "again") {
      const visit = uniqueId("visit-");
      sessionStorage.setItem("visit", visit);
      at("shopper").options[0].value = visit;
      at("shopper").selectedIndex = 0;
    }
    search();
  });
}

function fillIdeas() {
  at("ideas").append(...IDEAS.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => { at("query").value = text; search(); });
    return button;
  }));
}

function fillObjectives(names) {
  if (at("objective").options.length) return;
  at("objective").append(...names.map((name) => option(name, name)));
}

async function look() {
  const answer = await status();
  fillObjectives(answer.objectives ?? []);
  showStatus(answer);
}

async function poll() {
  try {
    if (document.visibilityState === "visible" && at("key-form").hidden) await look();
  } catch (error) {
    problem(error);
  }
  setTimeout(poll, 1000);
}

fillShoppers();
fillIdeas();
at("search").addEventListener("submit", search);
at("key-form").addEventListener("submit", useKey);
at("forget").addEventListener("click", forgetKey);
at("objective").addEventListener("change", search);
at("query").addEventListener("input", () => { if (!at("query").value) search(); }); // the box was cleared
document.addEventListener("keydown", onKey);
await poll();
if (at("key-form").hidden) await search();
