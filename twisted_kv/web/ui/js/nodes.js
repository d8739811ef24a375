// The members, a row each. Rows stay, and only what has changed in them is touched.

import { coloured } from "./colours.js";
import { $, el, say } from "./dom.js";
import { address, count, figure, share, size, span } from "./format.js";
import { markRows } from "./locate.js";

const rows = new Map();

class Row {
  constructor(member) {
    this.swatch = el("span", { class: "swatch" });
    this.at = el("span", { class: "at" });
    this.state = el("span", { class: "state" });
    this.why = el("span", { class: "why", hidden: true });
    this.meter = el("meter", { min: 0, max: 1, "aria-label": `Share of ${member.id}` });
    this.part = el("span");
    this.numbers = Array.from({ length: 6 }, () => el("td", { class: "number" }));
    const who = el("span", {}, el("span", { class: "id" }, member.id), this.at);
    this.element = el(
      "tr",
      { "data-id": member.id },
      el("th", { scope: "row" }, el("span", { class: "who" }, this.swatch, who)),
      el("td", {}, this.state, this.why),
      el("td", {}, el("span", { class: "share" }, this.meter, this.part)),
      ...this.numbers,
    );
  }

  show(member, most) {
    for (const coloured_ of [this.swatch, this.meter]) {
      coloured_.removeAttribute("data-node");
      for (const [name, value] of Object.entries(coloured(member.id))) coloured_.setAttribute(name, value);
    }
    say(this.at, [address(member.url), member.zone && `zone ${member.zone}`, member.weight !== 1 && `weight ${member.weight}`].filter(Boolean).join(" · "));
    this.state.dataset.state = member.state;
    say(this.state, member.state);
    say(this.why, (member.error || "").replace(`${member.url} `, "")); // the address stands beside it
    this.why.hidden = !member.error || member.state === "up";
    this.meter.max = most;
    this.meter.value = member.owned;
    say(this.part, share(member.owned));
    const trip = member.state === "down" ? null : member.round_trip_ms; // what it was says nothing any more
    [
      count(member.keys),
      size(member.bytes),
      trip ? `${figure(trip.p50)} / ${figure(trip.p99)}` : "–",
      count(member.hints),
      size(member.free_bytes),
      span(member.uptime_s),
    ].forEach((text, at) => say(this.numbers[at], text));
  }
}

export function showNodes(cluster) {
  const body = $("members");
  const most = Math.max(0.0001, ...cluster.members.map((member) => member.owned));
  const ids = new Set(cluster.members.map((member) => member.id));
  for (const [id, row] of rows) {
    if (!ids.has(id)) {
      row.element.remove();
      rows.delete(id);
    }
  }
  const sorted = [...cluster.members].sort((one, other) => one.url.localeCompare(other.url, "en", { numeric: true }));
  for (const [at, member] of sorted.entries()) {
    let row = rows.get(member.id);
    if (!row) rows.set(member.id, (row = new Row(member)));
    row.show(member, most);
    if (body.rows[at] !== row.element) body.insertBefore(row.element, body.rows[at] || null);
  }
  $("members-empty").hidden = cluster.members.length > 0;
  markRows();
}
