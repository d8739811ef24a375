// Bytes as people see them and type them.

const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// Controls, what turns the order of letters round, what is not there at all, and spaces that look like none.
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

export function encode(text) {
  return utf8.encode(text);
}

/** Decode UTF-8, or give null where it is none. */
export function decode(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

/** How many bytes a character takes that begins with this one. */
function width(first) {
  if (first < 0x80) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}

function escaped(bytes) {
  return Array.from(bytes, (byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
}

/** Write bytes so that all of them are seen and none can pass for another: `\x00` for what is no visible character. */
export function show(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const slice = bytes.subarray(at, at + width(bytes[at]));
    const character = decode(slice);
    if (character === null || [...character].length !== 1) {
      text += escaped(bytes.subarray(at, at + 1));
      at += 1;
    } else {
      text += character === "\\" ? "\\\\" : UNSEEN.test(character) ? escaped(slice) : character;
      at += slice.length;
    }
  }
  return text;
}

/** Read what `show` has written, or somebody has typed. Throws an Error that says what is wrong. */
export function parse(text) {
  const parts = [];
  const token = /\\(?:x([0-9a-fA-F]{2})|(.?))|[^\\]+/gsu;
  for (const [whole, hex, other] of text.matchAll(token)) {
    if (hex !== undefined) parts.push([Number.parseInt(hex, 16)]);
    else if (!whole.startsWith("\\")) parts.push(utf8.encode(whole));
    else if (other === "\\") parts.push([0x5c]);
    else throw new Error("A backslash begins \\x and two hex digits, or another backslash: \\\\");
  }
  return joined(parts);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Take a key as a listing has it: a string, or base64 where it is no UTF-8. */
export function listed(key) {
  if (typeof key === "string") return utf8.encode(key);
  return Uint8Array.from(atob(key.b64), (character) => character.charCodeAt(0));
}

/** Escape bytes for a URL, all but RFC 3986's unreserved characters. */
export function percent(bytes) {
  return Array.from(bytes, (byte) => {
    const character = String.fromCharCode(byte);
    return /[A-Za-z0-9._~-]/.test(character) ? character : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }).join("");
}

/** Give a value as text if a text field gives it back unchanged, null if not. (A field would change line ends.) */
export function editable(bytes) {
  const text = decode(bytes);
  return text === null || /(?![\n\t])[\p{Cc}]/u.test(text) ? null : text;
}

const PER_LINE = 32;

export function hex(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += PER_LINE) {
    lines.push(Array.from(bytes.subarray(at, at + PER_LINE), (byte) => byte.toString(16).padStart(2, "0")).join(" "));
  }
  return lines.join("\n");
}

/** Read hex digits, with any white space between them. Throws an Error that says what is wrong. */
export function unhex(text) {
  const digits = text.replace(/\s+/g, "");
  if (/[^0-9a-fA-F]/.test(digits)) throw new Error("Bytes in hex are made of 0 to 9 and a to f");
  if (digits.length % 2) throw new Error("Bytes in hex have two digits each; there is one too many");
  return Uint8Array.from({ length: digits.length / 2 }, (_, at) => Number.parseInt(digits.slice(2 * at, 2 * at + 2), 16));
}

export function same(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}
