// A key that is typed in lights up its owners.

import { read, sayable } from "./api.js";
import { parse, percent } from "./bytes.js";
import { coloured } from "./colours.js";
import { $, el, flag } from "./dom.js";
import { count } from "./format.js";
import { light, strip } from "./ring.js";

const PAUSE_MS = 250; // whoever hears the page is told once, and not at each letter

let timer = 0;
let asked = 0;
let found = null;

export function wireLocate() {
  $("locate-key").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  $("locate").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    look();
  });
  document.addEventListener("ring-drawn", look);
  show(null);
}

async function look() {
  const mine = ++asked;
  const field = $("locate-key");
  field.removeAttribute("aria-invalid");
  if (!field.value) return show(null);
  try {
    const located = await read(`/v1/ring/locate?key=${percent(parse(field.value))}`);
    if (mine === asked) show(located);
  } catch (error) {
    if (mine !== asked) return;
    field.setAttribute("aria-invalid", "true");
    show(null, sayable(error));
  }
}

function show(located, trouble = "") {
  found = located;
  light(located ? located.slot : 0, located ? located.owners.map((owner) => owner.id) : []);
  markRows();
  if (located === null) {
    $("located").replaceChildren(el("p", { class: trouble ? "error" : "aside" }, trouble || "Type a key, and its owners light up."));
    return;
  }
  $("located").replaceChildren(
    strip(located.slot, located.owners.map((owner) => owner.id)),
    el("p", { class: "aside" }, `Slot ${count(located.slot)}. Clockwise from there its owners are:`),
    el(
      "ol",
      {},
      ...located.owners.map((owner, at) =>
        el(
          "li",
          {},
          el("span", { class: "rank" }, String(at + 1)),
          el("span", { class: "swatch", ...coloured(owner.id) }),
          el("span", { class: "mono" }, owner.id),
          el("span", { class: "state", "data-state": owner.state }, owner.state),
        ),
      ),
    ),
  );
}

/** Mark the rows of the owners. The table calls it for new rows, too. */
export function markRows() {
  const owners = found ? found.owners.map((owner) => owner.id) : [];
  for (const row of $("members").rows) flag(row, "lit", owners.includes(row.dataset.id));
}
