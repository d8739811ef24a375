// One key's value: read with its version, and changed only if it still has that.

import { call, Problem } from "./api.js";
import { percent, show } from "./bytes.js";

const DATE_MS = 2000; // Date is in whole seconds: clocks that differ by less are taken for alike

/** Name a key's call. A browser takes `.` and `..` in a path for folders, whatever their escapes. */
function place(key) {
  const name = show(key);
  if (name === "." || name === "..") throw new Error(`A browser cannot ask for the key ${name}; kvctl get does`);
  return `/v1/kv/${percent(key)}`;
}

/** Read a key: its value, etag, content type, and when it expires (0 for never); null if it holds none. */
export async function get(key) {
  try {
    const answer = await call("GET", place(key));
    const expiresMs = expiry(answer);
    return {
      value: new Uint8Array(await answer.arrayBuffer()),
      etag: answer.headers.get("ETag"),
      contentType: answer.headers.get("Content-Type") || "",
      expiresMs,
    };
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return null;
    throw error;
  }
}

/** Write a key if it still holds the version `etag`, or nothing where that is null. Gives what it holds then. */
export async function put(key, etag, { value, contentType, ttl }) {
  if (/[^\x20-\x7e]/.test(contentType)) throw new Error("A content type is made of ASCII characters, such as text/plain");
  const query = ttl ? `?ttl=${encodeURIComponent(ttl)}` : "";
  const headers = { ...expecting(etag), "Content-Type": contentType || "application/octet-stream" };
  const answer = await call("PUT", place(key) + query, { headers, body: value });
  return { value, contentType, etag: answer.headers.get("ETag"), expiresMs: expiry(answer) };
}

/** Say when a value expires, by this machine's clock, which may be wrong: to be asked as soon as the answer is there. */
function expiry(answer) {
  const at = Number(answer.headers.get("KV-Expires-Ms"));
  const ahead = Date.now() - Date.parse(answer.headers.get("Date"));
  return at && Math.abs(ahead) > DATE_MS ? at + ahead : at;
}

/** Delete a key if it still holds a version. */
export async function remove(key, etag) {
  await call("DELETE", place(key), { headers: expecting(etag) });
}

export function isConflict(error) {
  return error instanceof Problem && error.status === 412;
}

function expecting(etag) {
  return etag === null ? { "If-None-Match": "*" } : { "If-Match": etag };
}
