// The four calls of the page. Every function returns parsed JSON or throws an Error that says what the service said.

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
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
    throw new Error([answer.error.message, answer.error.hint].filter(Boolean).join(". "));
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
