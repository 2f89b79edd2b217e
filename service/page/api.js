// The four calls of the page. Every function returns parsed JSON or throws an Error that says what the service said.
// An API key, where one was entered, goes with each; it is kept in this tab's sessionStorage and nowhere else.

const KEPT = "api-key";

export const hasKey = () => sessionStorage.getItem(KEPT) !== null;

// Keep a key until the tab is closed; an empty one is forgotten.
export function keepKey(key) {
  if (/[^\x21-\x7e]/.test(key)) throw new KeyNeeded("A key has no spaces and no letters beyond a to z.");
  if (key) sessionStorage.setItem(KEPT, key);
  else sessionStorage.removeItem(KEPT);
}

// The service wants a key, another key, or one that may do more.
export class KeyNeeded extends Error {}

function refusal(status, text) {
  if (status === 401) {
    return new KeyNeeded(hasKey() ? "The service does not know this key. Is it complete, or was it revoked?" : "This service asks for an API key.");
  }
  return status === 403 ? new KeyNeeded(text) : new Error(text);
}

async function call(path, body) {
  const headers = hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEPT)}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service does not answer. Is it still running?");
  }
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`The service answered ${response.status} without JSON.`);
  }
  if (!response.ok && answer.error) {
    throw refusal(response.status, [answer.error.message, answer.error.hint].filter(Boolean).join(". "));
  }
  return answer;
}

export const retrieve = (request) => call("/v1/retrieve", request);
export const rank = (request) => call("/v1/rank", request);
export const status = () => call("/v1/status");

// Send events; returns the token for `after`. Throws if any of them was refused: the page never sends a bad one.
export async function send(...events) {
  const answer = await call("/v1/events", events);
  if (answer.rejected?.length) throw new Error(answer.rejected[0].message);
  return answer.token;
}

const known = new Map();

// The fields of these items by id, asked for once.
export async function details(ids) {
  const missing = ids.filter((id) => !known.has(id));
  if (missing.length) {
    const query = missing.map((id) => `ids=${encodeURIComponent(id)}`).join("&");
    const answer = await call(`/v1/items?${query}`);
    for (const item of answer.items) known.set(item.id, item.fields);
  }
  return new Map(ids.map((id) => [id, known.get(id) ?? {}]));
}

// An id of our own for events and visitors (crypto.randomUUID exists on secure origins only).
export function uniqueId(prefix) {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return prefix + [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
