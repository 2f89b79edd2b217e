// The routes of /openapi.json as a page: what each takes and answers, with examples and schemas. It sends nothing else.

const make = (tag, text, ...children) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
};
const code = (value) => make("pre", JSON.stringify(value, null, 1));

// A schema with the structs it names put in their place, once each.
function whole(schema, parts, seen = []) {
  if (Array.isArray(schema)) return schema.map((one) => whole(one, parts, seen));
  if (schema === null || typeof schema !== "object") return schema;
  const name = schema.$ref?.split("/").at(-1);
  if (name) return seen.includes(name) ? name : whole(parts[name], parts, [...seen, name]);
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, whole(value, parts, seen)]));
}

function content(title, found, parts) {
  const nodes = [];
  for (const [type, { schema, example }] of Object.entries(found ?? {})) {
    nodes.push(make("h3", `${title}, ${type}`));
    if (example !== undefined) nodes.push(code(example));
    const shape = make("details", "", make("summary", "schema"));
    shape.addEventListener("toggle", () => { if (shape.children.length === 1) shape.append(code(whole(schema, parts))); });
    nodes.push(shape);
  }
  return nodes;
}

function route(path, method, operation, parts) {
  const name = make("summary", "", make("span", method.toUpperCase()), make("b", path), ` ${operation.summary ?? ""}`);
  name.firstChild.className = "method";
  const inside = make("div", "", make("p", operation.description ?? ""));
  inside.className = "inside";
  for (const one of operation.parameters ?? []) inside.append(make("p", `${one.in} ${one.name}: ${JSON.stringify(one.schema)}`));
  inside.append(...content("Request", operation.requestBody?.content, parts));
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (status.startsWith("2")) inside.append(...content(`Answer ${status}`, answer.content, parts));
    else inside.append(make("p", `${status}: ${answer.description}`));
  }
  return make("details", "", name, inside);
}

const api = await (await fetch("/openapi.json")).json();
const groups = new Map();
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const group = operation.tags?.[0] ?? "other";
    groups.set(group, [...(groups.get(group) ?? []), route(path, method, operation, api.components.schemas)]);
  }
}
for (const [group, routes] of groups) document.getElementById("routes").append(make("h2", group), ...routes);
