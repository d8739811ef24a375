// The value's field: as text where a field gives it back unchanged, in hex where it does not, read-only where it is large.

import { editable, encode, hex, unhex } from "./bytes.js";
import { $, say } from "./dom.js";
import { plural, size } from "./format.js";

const EDITED_MAX = 128 * 1024;

let whole = null; // what is too large to be edited here

const kinds = () => document.querySelectorAll('input[name="kind"]');

function kind() {
  return document.querySelector('input[name="kind"]:checked').value;
}

function choose(name) {
  for (const radio of kinds()) radio.checked = radio.value === name;
}

export function wireValue() {
  for (const radio of kinds()) radio.addEventListener("change", () => change(radio.value));
  $("value").addEventListener("input", describe);
  setValue(new Uint8Array());
}

/** Show the same value in the other way. */
function change(to) {
  const bytes = read(to === "hex" ? "text" : "hex");
  if (bytes === null) {
    choose("hex");
    return;
  }
  const text = editable(bytes);
  if (to === "text" && text === null) {
    choose("hex");
    say($("value-note"), "This is no plain text: it is shown as bytes, so that nothing of it is changed unseen.");
    return;
  }
  $("value").value = to === "hex" ? hex(bytes) : text;
  describe();
}

function read(as) {
  try {
    return as === "text" ? encode($("value").value) : unhex($("value").value);
  } catch (error) {
    say($("value-note"), error.message);
    return null;
  }
}

export function setValue(bytes) {
  whole = bytes.length > EDITED_MAX ? bytes : null;
  const shown = whole ? bytes.subarray(0, 4096) : bytes;
  const text = editable(shown);
  choose(text === null ? "hex" : "text");
  $("value").value = text === null ? hex(shown) : text;
  $("value").readOnly = whole !== null;
  for (const radio of kinds()) radio.disabled = whole !== null;
  describe();
}

/** Give the value as it was typed. Throws an Error where it is no bytes. */
export function getValue() {
  if (whole) return whole;
  return kind() === "text" ? encode($("value").value) : unhex($("value").value);
}

export function isTooLarge() {
  return whole !== null;
}

function describe() {
  if (whole) {
    say($("value-note"), `${size(whole.length)}: too large to be edited here. Its beginning is shown; Download gives all of it.`);
    return;
  }
  try {
    const { length } = getValue();
    say($("value-note"), plural(length, "byte"));
  } catch (error) {
    say($("value-note"), error.message);
  }
}
