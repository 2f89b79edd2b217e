// Why an item stands where it does: the terms of its logit as bars. They add up to the logit exactly.

const at = (id) => document.getElementById(id);
const space = "http://www.w3.org/2000/svg";
const SHOWN = 9;

const WORDS = { hidden: "the network (user, query, item)", intercept: "base level", category: "its category, brand and price band", position: "position" };

export const label = (name) => WORDS[name] ?? name.replace(/^(rt|field)\./, "").replace(/[._]/g, " ");

function bar(value, largest) {
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 150 12");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const length = Math.max(1, (Math.abs(value) / largest) * 74);
  const parts = [
    ["path", { class: "axis", d: "M75 0V12" }],
    ["rect", { class: value < 0 ? "minus" : "plus", x: value < 0 ? 75 - length : 75, y: 1.5, width: length, height: 9, rx: 2 }],
  ];
  for (const [tag, values] of parts) {
    const part = document.createElementNS(space, tag);
    for (const [key, text] of Object.entries(values)) part.setAttribute(key, text);
    picture.append(part);
  }
  return picture;
}

function line(name, value, largest, kind = "") {
  const row = document.createElement("li");
  row.className = kind;
  const words = document.createElement("span");
  words.textContent = name;
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  row.append(words, bar(value, largest), number);
  return row;
}

export function showWhy(name, explanation, click) {
  const terms = [...explanation.terms].sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
  const top = terms.slice(0, SHOWN).filter((term) => term.contribution !== 0);
  const rest = terms.slice(top.length).reduce((sum, term) => sum + term.contribution, 0);
  const largest = Math.max(...top.map((term) => Math.abs(term.contribution)), Math.abs(explanation.logit), 1e-9);
  const bars = top.map((term) => line(label(term.name), term.contribution, largest));
  if (terms.length > top.length) bars.push(line(`${terms.length - top.length} smaller terms`, rest, largest));
  bars.push(line("logit", explanation.logit, largest, "sum"));
  at("why-title").textContent = name;
  at("why-sum").textContent = `P(click) ${(click * 100).toFixed(2)} %`;
  at("why-bars").replaceChildren(...bars);
  at("why").showModal();
}
