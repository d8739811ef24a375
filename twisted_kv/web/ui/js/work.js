// What goes on in the background: data on the move, hints, repair.

import { coloured } from "./colours.js";
import { $, el } from "./dom.js";
import { count, figure, plural, share, size, span } from "./format.js";

const WHAT = {
  join: "A node joins",
  leave: "A node leaves",
  weight: "A weight changes",
  rebuild: "A node is rebuilt",
};

export function showWork({ cluster, rates, tasks }) {
  const moves = tasks.filter((task) => task.kind !== "repair");
  put("moves", moves.length ? moves.map(task) : [el("p", { class: "empty" }, "Nothing moves. Nodes that join or leave, and backups, show here.")]);
  put("hints", hints(cluster.members, rates));
  put("repair", repair(tasks.find((one) => one.kind === "repair"), rates));
}

/** Replace what is there, but only by something else: nothing flickers, and a selection stays. */
function put(id, children) {
  const fresh = el("div", {}, ...children);
  const place = $(id);
  if (place.firstElementChild?.isEqualNode(fresh)) return;
  place.replaceChildren(fresh);
}

function task(one) {
  const bytes = one.kind === "backup";
  const amount = bytes ? size : count;
  const name = bytes ? `Backup ${one.id.replace(/^backup-/, "")}` : WHAT[one.what] || one.what || one.kind;
  const part = one.total ? one.done / one.total : 0;
  const figures = [
    one.total ? `${amount(one.done)} of ${amount(one.total)}${bytes ? "" : " slots"}` : "waits for its turn",
    one.state === "running" && one.rate ? `${bytes ? size(one.rate) : figure(one.rate)}${bytes ? "" : " slots"}/s` : "",
    one.eta_s ? `about ${span(one.eta_s)} left` : "",
    one.trouble || "",
  ];
  return el(
    "div",
    { class: "task" },
    el("p", { class: "task-head" }, el("span", { class: "name" }, name), el("span", {}, one.state === "running" ? share(part) : one.state)),
    el("progress", { max: one.total || 1, value: one.done, "aria-label": name }),
    el("p", { class: "aside" }, figures.filter(Boolean).join(" · ")),
  );
}

function hints(members, rates) {
  const waiting = members.filter((member) => member.hints > 0);
  const list = waiting.map((member) =>
    el("li", {}, el("span", { class: "swatch", ...coloured(member.id) }), el("span", { class: "mono" }, member.id), el("b", {}, count(member.hints))),
  );
  const moved = rates && (rates.hints_left_per_s || rates.hints_replayed_per_s);
  return [
    list.length ? el("ul", { class: "waits" }, ...list) : el("p", { class: "empty" }, "None wait: no node has missed a write that it did not get."),
    moved ? el("p", { class: "aside" }, `${figure(rates.hints_left_per_s)}/s left, ${figure(rates.hints_replayed_per_s)}/s brought`) : null,
  ];
}

function repair(round, rates) {
  if (!round) return [el("p", { class: "empty" }, "This proxy has not compared owners yet; of several proxies one does.")];
  const running = round.state === "running";
  const said = running
    ? `${count(round.done)} of ${plural(round.total, "slot")}`
    : `Round ${round.id.replace("repair-", "")} ${round.state === "done" ? "has ended" : "was broken off"} at ${count(round.done)} of ${plural(round.total, "slot")}`;
  return [
    el(
      "div",
      { class: "task" },
      el("p", { class: "task-head" }, el("span", { class: "name" }, running ? "Owners are compared" : "Owners were compared"), el("span", {}, running ? share(round.done / round.total) : round.state)),
      el("progress", { max: round.total, value: round.done, "aria-label": "Repair" }),
      el("p", { class: "aside" }, said + (rates && rates.repaired_per_s ? ` · ${figure(rates.repaired_per_s)} keys/s made alike` : "")),
    ),
  ];
}
