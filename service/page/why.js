// Why an item stands where it does: the terms of its logit as bars. They add up to the logit exactly.

const at = (id) => document.getElementById(id);
const space = "http://www.w3.org/2000/svg";
const SHOWN = 9;

const WHOLE = {
  hidden: "the network: who, query, item",
  intercept: "base level",
  pos: "position",
  cat: "its category, brand and price band",
  "new.share": "share of new things bought",
};
const TIMES = {
  "1m": "1 minute", "10m": "10 minutes", "1h": "1 hour", "2h": "2 hours", "6h": "6 hours", "1d": "1 day", "7d": "7 days", "30d": "30 days", "90d": "90 days",
};
const PARTS = {
  item: {
    click: "all looked at it", cart: "all put it into baskets", buy: "all bought it", share: "its share of everything",
    rate: "its clicks against those expected", conversion: "bought after a look", trend: "its trend",
  },
  category: { share: "share of its category", rate: "its category’s clicks against those expected" },
  own: {
    click: "you looked at it", favourite: "you marked it", cart: "you have it in the basket", buy: "you bought it", refund: "you gave it back",
    count: "how often you met it", age: "you met it", open: "looked at, not bought", bought: "you bought it", buys: "how often you bought it",
    due: "time to buy it again", last: "what you touched last", last_bought: "your last purchase", rank: "how recently you met it", rank_slow: "how recently you met it, slowly fading",
  },
  taste: { price: "in your range of prices" },
  own_category: { share: "your share of its category", count: "you in its category", age: "you were in its category", bought: "you bought in its category" },
};
const NEAR = { last1: "goes with your last item", last5: "goes with your last 5 items", last20: "goes with your last 20 items", given20: "likely after your last 20 items", lift20: "likelier after your last 20 items than by chance" };

// A term's name in the words of a shopper; one without words keeps its own name.
export function label(name) {
  const [first, group, part, time] = name.split(".");
  const whole = WHOLE[name.replace(/^rt\./, "")];
  if (whole) return whole;
  if (first === "field") return name.slice(6);
  const words = group === "i2i" ? NEAR[part] : PARTS[group]?.[part];
  if (!words) return name.replace(/^rt\./, "");
  return time ? `${words}, ${TIMES[time] ?? time}` : words;
}

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
