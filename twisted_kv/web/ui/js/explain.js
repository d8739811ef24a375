// All that is known about a key: what a read would answer, and what each owner holds.

import { read, sayable } from "./api.js";
import { percent } from "./bytes.js";
import { coloured } from "./colours.js";
import { $, el, say } from "./dom.js";
import { ballot, count, NONE, plural, size, span } from "./format.js";

const ANSWERS = {
  value: "a value",
  deleted: "that it was deleted",
  expired: "that it has expired",
  absent: "that there is none",
  unreachable: "an error: too few owners answer",
};

let asked = 0;

/** Explain a key; gives what was found, null where there is nothing, which is shown then. */
export async function explain(key) {
  const mine = ++asked;
  try {
    const found = await read(`/v1/explain/${percent(key)}`);
    if (mine === asked) show(found);
    return found;
  } catch (error) {
    if (mine === asked) {
      say($("explain-slot"), "");
      $("explain").replaceChildren(el("p", { class: "error" }, sayable(error)));
    }
    return null;
  }
}

/** Forget what is shown: it is another key's. */
export function unexplain() {
  asked += 1;
  say($("explain-slot"), "");
  $("explain").replaceChildren();
}

function show(found) {
  say($("explain-slot"), `slot ${count(found.slot)}, epoch ${count(found.epoch)}`);
  const letters = lettered(found.owners);
  $("explain").replaceChildren(
    el("div", { class: "verdict", "data-answer": found.verdict.answer }, el("b", {}, `A strong read answers ${ANSWERS[found.verdict.answer] || found.verdict.answer}`), el("p", {}, sentence(found.verdict.why))),
    el("ul", { class: "owners" }, ...found.owners.map((owner, at) => card(owner, at, letters, found.verdict.winners))),
    facts(found),
  );
}

/** Name each accepted ballot by a letter, the newest A: who has the same letter holds the same. */
function lettered(owners) {
  const ballots = [...new Set(owners.map((owner) => owner.accepted).filter(Boolean))].sort().reverse();
  return new Map(ballots.map((one, at) => [one, String.fromCharCode(65 + (at % 26))]));
}

function card(owner, at, letters, winners) {
  const head = el(
    "div",
    { class: "owner-head" },
    el("span", { class: "swatch", ...coloured(owner.id) }),
    el("span", { class: "id" }, owner.id),
    owner.state === "good" ? null : el("span", { class: "chip" }, owner.state.replace("_", " ")),
    el("span", { class: "holds" }, owner.error ? "no answer" : held(owner)),
  );
  const given = { class: "owner", "data-wins": winners.includes(owner.id), "data-silent": Boolean(owner.error) };
  if (owner.error) return el("li", given, el("div", { class: "owner-in" }, head, el("p", { class: "error" }, owner.error)));
  return el("li", given, el("div", { class: "owner-in" }, head, el("dl", {}, ...rows(owner, letters))));
}

function held(owner) {
  if (owner.holds !== "value") return owner.holds === "tombstone" ? "a tombstone" : "nothing";
  return `${size(owner.bytes)}${owner.expired ? ", expired" : ""}`;
}

function rows(owner, letters) {
  const letter = letters.get(owner.accepted);
  const accepted = owner.accepted ? [el("span", { class: "letter" }, letter), el("span", { class: "mono", title: owner.accepted }, ballot(owner.accepted))] : [NONE];
  const promised = owner.promised && owner.promised !== owner.accepted ? [el("span", { class: "mono", title: owner.promised }, ballot(owner.promised))] : null;
  return [
    ["accepted", accepted],
    ["promised", promised],
    ["written", owner.age_ms === undefined ? null : [`${span(owner.age_ms / 1000)} ago`]],
    ["expires", owner.expires_ms ? [new Date(owner.expires_ms).toLocaleString("en-GB")] : null],
    ["on disk", owner.synced === undefined || owner.synced === null ? null : [owner.synced ? "for certain" : "not for certain"]],
  ]
    .filter(([, value]) => value)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, ...value)]);
}

function facts({ hints, purge, owners }) {
  const found = hints.map((hint) => `${hint.kept_by} keeps a hint of it for ${hint.for}.`);
  if (purge) {
    found.push(`${plural(purge.held_by.length, "owner")} of ${owners.length} ${purge.held_by.length === 1 ? "holds" : "hold"} a tombstone.`);
    found.push(...purge.blocked_by.map((block) => `The tombstone stays: ${block}.`));
  }
  return found.length ? el("ul", { class: "facts" }, ...found.map((fact) => el("li", {}, fact))) : "";
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + ".";
}
