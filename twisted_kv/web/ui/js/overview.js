// The state in a word, and the figures that matter most.

import { $, el, say } from "./dom.js";
import { count, figure, NONE, plural } from "./format.js";

const TILES = [
  ["reads", "Reads", "/s"],
  ["writes", "Writes", "/s"],
  ["failed", "Failed or refused", "/s"],
  ["read99", "Reads, p99", "ms"],
  ["write99", "Writes, p99", "ms"],
  ["keys", "Keys, about", ""],
  ["hints", "Hints that wait", ""],
];

const figures = new Map();

export function wireOverview() {
  for (const [name, label, unit] of TILES) {
    const number = el("span", {}, NONE);
    const tile = el("div", { class: "tile" }, el("dt", {}, label), el("dd", {}, number, unit && el("span", { class: "unit" }, ` ${unit}`)));
    figures.set(name, { number, tile });
    $("tiles").append(tile);
  }
}

function set(name, text, state = "") {
  const { number, tile } = figures.get(name);
  say(number, text);
  tile.dataset.state = state;
}

export function showOverview({ cluster, rates, troubles, workers }) {
  const failed = rates && rates.failed_per_s + rates.refused_per_s;
  set("reads", rates ? figure(rates.per_s.read) : NONE);
  set("writes", rates ? figure(rates.per_s.write) : NONE);
  set("failed", rates ? figure(failed) : NONE, failed > 0 ? "bad" : "");
  set("read99", rates ? figure(rates.p99_ms.read) : NONE);
  set("write99", rates ? figure(rates.p99_ms.write) : NONE);
  set("keys", keysIn(cluster));
  const hints = cluster.members.reduce((sum, member) => sum + member.hints, 0);
  set("hints", count(hints), hints > 0 ? "warn" : "");
  showHealth(cluster, troubles);
  say($("covers"), covered(workers));
  say($("about"), `twisted_kv ${cluster.version} · cluster ${cluster.cluster_id} · level ${cluster.consistency} · ${cluster.replicas} replicas · ${cluster.vnodes} tokens for each unit of weight`);
}

/** Each key has as many copies as there are replicas, or nodes; a node that is down is not counted. */
function keysIn({ members, replicas }) {
  const known = members.filter((member) => member.keys !== null);
  const owned = known.reduce((sum, member) => sum + member.owned, 0);
  if (!owned) return NONE;
  const copies = known.reduce((sum, member) => sum + member.keys, 0);
  return count(Math.round(copies / owned / Math.min(replicas, members.length)));
}

function covered({ asked, answered }) {
  if (asked === 1) return "Figures are those of this proxy; other proxies of the cluster count for themselves.";
  const who = answered === asked ? `all ${asked} workers` : `${answered} of ${asked} workers, the others are silent`;
  return `Figures are those of this proxy, of ${who}; other proxies of the cluster count for themselves.`;
}

function showHealth({ members, change }, troubles) {
  const down = members.filter((member) => member.state === "down");
  const unsettled = members.filter((member) => member.state !== "down" && member.state !== "up");
  let state = "good";
  let text = members.length === 1 ? "The only node is up" : `All ${members.length} nodes are up`;
  if (!members.length) [state, text] = ["warn", "No node yet"];
  else if (down.length) [state, text] = [troubles.length ? "bad" : "warn", `${plural(down.length, "node")} down, ${members.length - down.length} up`];
  else if (change) [state, text] = ["warn", `Data is moving: ${change.kind}`];
  else if (unsettled.length) [state, text] = ["warn", `${plural(unsettled.length, "node")} ${unsettled[0].state}`];
  else if (troubles.length) [state, text] = ["bad", "Not every key can be served"];
  document.querySelector("#health .light").dataset.state = state;
  say($("health-text"), text);
  document.title = state === "good" ? "twisted_kv" : `${text} · twisted_kv`;
}
