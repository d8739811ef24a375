// Shows /openapi.json and lets one try its calls. Whatever is shown is put in as text, never as markup.

const METHODS = ["get", "head", "put", "post", "delete", "x-query"];
const SAFE = new Set(["GET", "HEAD", "QUERY"]);
const SHOWN_MAX = 100_000; // characters of an answer: more would only make the page slow
const READ_MAX = 4 * 1024 * 1024; // bytes of an answer: a list of all keys may have any number

const at = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Text with `code` in it.
function prose(text, tag = "p", attributes = {}) {
  const parts = String(text).split("`");
  return make(tag, attributes, ...parts.map((part, place) => (place % 2 ? make("code", {}, part) : part)));
}

// ---- What the document says.

let doc = null;

function resolved(one) {
  return one && one.$ref ? one.$ref.split("/").slice(1).reduce((found, name) => found[name], doc) : one;
}

function bounds(schema) {
  const said = [];
  if (schema.maxLength != null) said.push(`${schema.minLength ? `${schema.minLength} to` : "at most"} ${schema.maxLength} characters`);
  const low = schema.minimum ?? (schema.exclusiveMinimum != null ? `more than ${schema.exclusiveMinimum}` : null);
  if (low != null && schema.maximum != null) said.push(`${low} to ${schema.maximum}`);
  else if (low != null) said.push(schema.minimum != null ? `from ${low}` : low);
  else if (schema.maximum != null) said.push(`at most ${schema.maximum}`);
  if (schema.default != null && typeof schema.default !== "object") said.push(`${JSON.stringify(schema.default)} by default`);
  return said.join(", ");
}

// A type in a few words.
function kindOf(schema) {
  if (!schema || !Object.keys(schema).length) return "anything";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const either = schema.anyOf || schema.oneOf;
  if (either) return either.map(kindOf).join(" | ");
  if (schema.allOf) return schema.allOf.map(kindOf).filter((one) => one !== "object").join(" & ");
  if (schema.type === "array") return `${kindOf(schema.items)}[]`;
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "object" && schema.additionalProperties && !schema.properties)
    return `{ [name]: ${kindOf(schema.additionalProperties)} }`;
  return schema.type || "object";
}

// The names of the components that a type is made of, in the order in which they are met.
function named(schema, found = []) {
  if (Array.isArray(schema)) schema.forEach((one) => named(one, found));
  else if (schema && typeof schema === "object") {
    const name = schema.$ref && schema.$ref.split("/").pop();
    if (name && !found.includes(name)) {
      found.push(name);
      named(resolved(schema), found);
    } else if (!name) Object.values(schema).forEach((one) => named(one, found));
  }
  return found;
}

function fields(name) {
  const schema = doc.components.schemas[name];
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([field, one]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, field), required.has(field) ? null : make("span", { class: "muted" }, " ?")),
      make("td", {}, make("code", {}, kindOf(one)), ...[bounds(one), one.description].filter(Boolean).map((text) => prose(text, "span", { class: "note" }))),
    ),
  );
  return make(
    "div",
    { class: "shape" },
    make("h5", {}, name),
    schema.description ? prose(schema.description, "p", { class: "muted" }) : null,
    make("div", { class: "scroll" }, make("table", { class: "fields" }, make("tbody", {}, ...rows))),
  );
}

function contentOf(content) {
  const parts = [];
  const components = [];
  for (const [type, one] of Object.entries(content || {})) {
    const lines = one["x-itemSchema"] && type.includes("ndjson");
    const kind = one.schema ? (lines ? `${kindOf(one["x-itemSchema"])}, one a line` : kindOf(one.schema)) : "bytes";
    parts.push(make("div", { class: "content" }, make("code", { class: "type" }, type), " ", make("span", {}, kind)));
    for (const name of named(one.schema || {})) if (name !== "Problem" && !components.includes(name)) components.push(name);
  }
  return [...parts, ...components.map(fields)];
}

// ---- One call.

function parameterRows(operation) {
  return (operation.parameters || []).map((one) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, one.name), make("span", { class: "where" }, one.in, one.required ? ", needed" : "")),
      make("td", {}, make("code", {}, kindOf(one.schema)), ...[bounds(one.schema), one.description].filter(Boolean).map((text) => prose(text, "span", { class: "note" }))),
    ),
  );
}

function answersOf(operation) {
  return Object.entries(operation.responses).map(([status, given]) => {
    const answer = resolved(given);
    const good = status < 400;
    const heads = Object.entries(answer.headers || {}).map(([name, one]) => [name, resolved(one)]);
    const types = Object.keys(answer.content || {});
    const problem = types.length === 1 && types[0] === "application/problem+json";
    return make(
      "details",
      { class: "answer" },
      make("summary", {}, make("span", { class: `status ${good ? "good" : "bad"}` }, status), prose(answer.description, "span")),
      make(
        "div",
        { class: "inner" },
        ...heads.map(([name, one]) => make("div", { class: "head" }, make("code", {}, name), " ", prose(one.description || "", "span", { class: "muted" }))),
        ...(problem ? [make("div", { class: "content" }, make("code", { class: "type" }, types[0]), " ", make("span", {}, "Problem"))] : contentOf(answer.content)),
      ),
    );
  });
}

function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function exampleBody(content) {
  const [type, one] = Object.entries(content)[0];
  const example = one.example;
  if (example === undefined) return "";
  if (type.includes("ndjson")) return example.map((line) => JSON.stringify(line)).join("\n") + "\n";
  return typeof example === "string" ? example : JSON.stringify(example, null, 2);
}

function tryOut(path, method, operation) {
  const inputs = (operation.parameters || []).map((one) => {
    const usual = one.in === "path" || one.required ? one.example : "";
    const id = `${operation.operationId}-${one.in}-${one.name}`;
    const words = one.schema.enum;
    const input = words
      ? make("select", { id }, make("option", { value: "" }, ""), ...words.map((word) => make("option", { value: word }, word)))
      : make("input", { id, type: "text", placeholder: one.example ?? "", autocomplete: "off", spellcheck: "false" });
    input.value = usual ?? "";
    return { one, input, row: make("div", { class: "row" }, make("label", { for: id }, one.name), input) };
  });
  const content = operation.requestBody && operation.requestBody.content;
  const sendsBody = content && method !== "GET" && method !== "HEAD"; // what browsers do not send with these
  const type = sendsBody ? make("select", { "aria-label": "Content type" }, ...Object.keys(content).filter((name) => !name.includes("msgpack")).map((name) => make("option", { value: name }, name))) : null;
  const body = sendsBody ? make("textarea", { rows: "4", spellcheck: "false", "aria-label": "Body" }) : null;
  if (body) body.value = exampleBody(content);

  const curl = make("pre", { class: "curl" });
  const send = make("button", { type: "button", class: SAFE.has(method) ? "" : "changes" }, "Send");
  const copy = make("button", { type: "button", class: "quiet" }, "Copy curl");
  const shown = make("div", { class: "result", "aria-live": "polite" });

  function request() {
    let target = path;
    const query = new URLSearchParams();
    const headers = [];
    for (const { one, input } of inputs) {
      const value = input.value;
      if (one.in === "path") target = target.replace(`{${one.name}}`, encodeURIComponent(value));
      else if (value !== "" && one.in === "query") (one.schema.type === "array" ? value.split(",") : [value]).forEach((each) => query.append(one.name, each));
      else if (value !== "") headers.push([one.name, value]);
    }
    if (query.size) target += `?${query}`;
    if (body && body.value !== "") headers.push(["Content-Type", type.value]);
    return { target, headers, body: body && body.value !== "" ? body.value : undefined };
  }

  function refresh() {
    const { target, headers, body: sent } = request();
    const words = ["curl", method === "HEAD" ? "-I" : `-X ${method}`, shell(location.origin + target)];
    if (at("token").value) words.push("-H", '"Authorization: Bearer $TOKEN"');
    for (const [name, value] of headers) words.push("-H", shell(`${name}: ${value}`));
    if (sent !== undefined) words.push("--data-raw", shell(sent));
    curl.textContent = words.join(" ");
  }

  send.addEventListener("click", async () => {
    const { target, headers, body: sent } = request();
    send.disabled = true;
    shown.replaceChildren(make("p", { class: "muted" }, "Waiting …"));
    try {
      const began = performance.now();
      const answer = await fetch(target, { method, headers: [...headers, ...tokenHeads()], body: sent, cache: "no-store", redirect: "manual" });
      const { bytes, whole } = await beginningOf(answer);
      showAnswer(shown, answer, bytes, whole, performance.now() - began);
    } catch (error) {
      shown.replaceChildren(make("p", { class: "trouble" }, `The call could not be made: ${error.message}`));
    } finally {
      send.disabled = false;
    }
  });
  copy.addEventListener("click", async () => {
    refresh();
    try {
      await navigator.clipboard.writeText(curl.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(curl); // no clipboard here: it is selected, at least
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy curl"), 1500);
  });

  const form = make(
    "div",
    { class: "try" },
    make("h4", {}, "Try it"),
    ...inputs.map((one) => one.row),
    content && !sendsBody ? make("p", { class: "muted" }, "Browsers send no body with this method; curl does.") : null,
    sendsBody ? make("div", { class: "row body" }, type, body) : null,
    curl,
    make("div", { class: "actions" }, send, copy, SAFE.has(method) ? null : make("span", { class: "muted" }, "This call may change something.")),
    shown,
  );
  form.addEventListener("input", refresh);
  refresh();
  return form;
}

function tokenHeads() {
  const token = at("token").value.trim();
  return token ? [["Authorization", `Bearer ${token}`]] : [];
}

// Read an answer's body; of one that is very large, or has no end, only its beginning.
async function beginningOf(answer) {
  const endless = (answer.headers.get("content-type") || "").startsWith("text/event-stream");
  const reader = answer.body?.getReader();
  const parts = [];
  let length = 0;
  let whole = true;
  while (reader && whole) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    length += value.length;
    whole = length < READ_MAX && !(endless && hasEvent(parts));
  }
  if (!whole) await reader.cancel();
  return { bytes: new Uint8Array(await new Blob(parts).arrayBuffer()), whole };
}

function hasEvent(parts) {
  const decoder = new TextDecoder();
  return /^data:.*\n\n$/ms.test(parts.map((part) => decoder.decode(part, { stream: true })).join(""));
}

function readable(bytes, type, whole) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !whole });
    return /[\/+]json/.test(type) && !type.includes("ndjson") ? JSON.stringify(JSON.parse(text), null, 2) : text;
  } catch {
    return [...bytes.slice(0, 4096)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
}

function showAnswer(place, answer, bytes, whole, took) {
  const type = answer.headers.get("content-type") || "";
  const heads = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
  const text = readable(bytes, type, whole);
  const parts = [
    make("p", {}, make("span", { class: `status ${answer.status < 400 ? "good" : "bad"}` }, String(answer.status)), ` ${answer.statusText}, ${whole ? "" : "the first "}${bytes.length} bytes in ${took.toFixed(0)} ms`),
    make("pre", { class: "heads" }, heads),
    text ? make("pre", { class: "answer-body", tabindex: "0" }, text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}\n… and more` : text) : "",
  ];
  place.replaceChildren(...parts);
}

function callOf(path, field, operation, hasHead) {
  const method = field.replace("x-", "").toUpperCase();
  const rows = parameterRows(operation);
  const body = operation.requestBody;
  const inside = make("div", { class: "inside" });
  const details = make(
    "details",
    { class: "call", id: operation.operationId },
    make("summary", {}, make("span", { class: `method ${method.toLowerCase()}` }, method), make("code", { class: "path" }, path), make("span", { class: "title" }, operation.summary)),
    inside,
  );
  // Built when it is opened: thirty forms at once would be slow.
  details.addEventListener("toggle", () => {
    if (!details.open || inside.childElementCount) return;
    inside.append(
      make(
        "div",
        { class: "told" },
        operation.description ? prose(operation.description) : "",
        hasHead ? prose("`HEAD` gives the same without a body.", "p", { class: "muted" }) : "",
        rows.length ? make("h4", {}, "Parameters") : "",
        rows.length ? make("div", { class: "scroll" }, make("table", { class: "fields" }, make("tbody", {}, ...rows))) : "",
        body ? make("h4", {}, body.required ? "Body" : "Body, which may be left out") : "",
        body ? prose(body.description, "p") : "",
        ...(body ? contentOf(body.content) : []),
        make("h4", {}, "Answers"),
        ...answersOf(operation),
      ),
      tryOut(path, method, operation),
    );
  });
  return details;
}

// ---- The page.

function show() {
  at("version").textContent = doc.info.version;
  at("intro").replaceChildren(...doc.info.description.split("\n\n").map((one) => prose(one)));
  const sections = [];
  const entries = [];
  for (const tag of doc.tags) {
    const calls = [];
    const list = [];
    for (const [path, item] of Object.entries(doc.paths)) {
      for (const field of METHODS) {
        const operation = item[field];
        if (!operation || !operation.tags.includes(tag.name) || (field === "head" && item.get)) continue;
        const call = callOf(path, field, operation, field === "get" && "head" in item);
        const method = field.replace("x-", "").toUpperCase();
        const link = make("a", { href: `#${operation.operationId}` }, make("span", { class: `method ${method.toLowerCase()}` }, method), make("span", { class: "path" }, path));
        const entry = make("li", {}, link);
        calls.push(call);
        list.push(entry);
        entries.push({ text: `${method} ${path} ${operation.summary} ${tag.name}`.toLowerCase(), call, entry });
      }
    }
    sections.push(make("section", {}, make("h2", {}, tag.name), prose(tag.description || "", "p", { class: "muted" }), ...calls));
    at("nav").append(make("div", {}, make("h3", {}, tag.name), make("ul", {}, ...list)));
  }
  at("calls").replaceChildren(...sections);
  at("calls").removeAttribute("aria-busy");
  at("filter").addEventListener("input", () => {
    const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { text, call, entry } of entries) call.hidden = entry.hidden = !words.every((word) => text.includes(word));
    for (const group of [...at("calls").children, ...at("nav").children])
      group.hidden = ![...group.querySelectorAll(".call, li")].some((one) => !one.hidden);
  });
  at("token").addEventListener("input", () => document.querySelectorAll(".try").forEach((one) => one.dispatchEvent(new Event("input"))));
  addEventListener("hashchange", open);
  open();
}

function open() {
  const call = at(location.hash.slice(1)); // ids are letters
  if (call && call.classList.contains("call")) {
    call.open = true;
    call.scrollIntoView();
  }
}

async function load() {
  const trouble = at("trouble");
  try {
    const answer = await fetch("/openapi.json", { headers: tokenHeads() });
    const told = await answer.json();
    if (!answer.ok) throw new Error(`${told.title}: ${told.detail} (${told.hint})`);
    doc = told;
    trouble.hidden = true;
    show();
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
    at("calls").replaceChildren(make("p", { class: "muted" }, "With a token in the field above, the document is asked for again."));
  }
}

at("auth").addEventListener("submit", (event) => event.preventDefault());
at("token").addEventListener("change", () => doc || load()); // Enter is a change, too
load();
