// The ring as a picture: for each node the arcs of which it is the first owner. It changes with the epoch only.

import { read } from "./api.js";
import { colourNodes, coloured } from "./colours.js";
import { $, flag, say, svg } from "./dom.js";
import { plural } from "./format.js";

const OUTER = 140;
const INNER = 104;
const SIZE = 300;

let shown = "";
let slots = 65536;
let arcsByNode = new Map();
let ring = { nodes: [], arcs: [] };
let pin = null;

function place(slot, radius) {
  const angle = (2 * Math.PI * slot) / slots - Math.PI / 2;
  return `${(radius * Math.cos(angle)).toFixed(2)} ${(radius * Math.sin(angle)).toFixed(2)}`;
}

function wedge(first, end) {
  if (end - first >= slots) return wedge(0, slots / 2) + wedge(slots / 2, slots);
  const large = end - first > slots / 2 ? 1 : 0;
  return `M${place(first, OUTER)}A${OUTER} ${OUTER} 0 ${large} 1 ${place(end, OUTER)}L${place(end, INNER)}A${INNER} ${INNER} 0 ${large} 0 ${place(first, INNER)}Z`;
}

/** Draw the ring anew if the cluster or its epoch is another one. */
export async function followRing(cluster) {
  const wanted = `${cluster.cluster_id} ${cluster.epoch}`;
  if (wanted === shown) return;
  const before = shown;
  shown = wanted;
  try {
    const found = await read("/v1/ring");
    if (shown === wanted) draw(found, cluster);
  } catch {
    if (shown === wanted) shown = before; // with the next snapshot it is tried again
  }
}

function draw(found, cluster) {
  ring = found;
  slots = ring.slots;
  colourNodes(ring.nodes);
  const paths = ring.nodes.map(() => []);
  ring.arcs.forEach(([first, node], at) => {
    const end = at + 1 < ring.arcs.length ? ring.arcs[at + 1][0] : slots;
    paths[node].push(wedge(first, end));
  });
  arcsByNode = new Map(
    ring.nodes.map((id, at) => [id, svg("path", { class: "arc", d: paths[at].join(""), ...coloured(id) }, svg("title", {}, id))]),
  );
  pin = svg("g");
  const ticks = [0, 1, 2, 3].map((quarter) => {
    const [x1, y1] = place((quarter * slots) / 4, OUTER + 3).split(" ");
    const [x2, y2] = place((quarter * slots) / 4, OUTER + 8).split(" ");
    return svg("line", { class: "tick", x1, y1, x2, y2 });
  });
  const empty = svg("path", { d: ring.nodes.length ? "" : wedge(0, slots), fill: "none", class: "tick" });
  $("ring").replaceChildren(
    svg(
      "svg",
      { viewBox: `${-SIZE / 2} ${-SIZE / 2} ${SIZE} ${SIZE}`, role: "img", "aria-label": `The ring of ${plural(ring.nodes.length, "node")} in epoch ${ring.epoch}` },
      empty,
      ...ticks,
      ...arcsByNode.values(),
      svg("text", { class: "hub", y: -2 }, plural(ring.nodes.length, "node")),
      svg("text", { class: "hub-small", y: 18 }, `${plural(Math.min(cluster.replicas, ring.nodes.length), "copy", "copies")} of each key`),
      pin,
    ),
  );
  say($("ring-about"), `Epoch ${ring.epoch}. An arc has the colour of the first owner of its slots; the next nodes clockwise have the other copies.`);
  document.dispatchEvent(new Event("ring-drawn"));
}

/** Fade the arcs of nodes that are down. */
export function fadeDown(members) {
  for (const member of members) {
    const arc = arcsByNode.get(member.id);
    if (arc) flag(arc, "down", member.state === "down");
  }
}

/** Light up the owners of a slot, in their order; none for an empty list. */
export function light(slot, owners) {
  flag($("ring"), "lit", owners.length);
  for (const [id, arc] of arcsByNode) flag(arc, "lit", owners.includes(id));
  if (pin === null) return;
  pin.replaceChildren();
  if (!owners.length) return;
  const [x1, y1] = place(slot, INNER - 24).split(" ");
  const [x2, y2] = place(slot, OUTER + 4).split(" ");
  pin.append(svg("line", { class: "spoke", x1, y1, x2, y2 }), svg("circle", { class: "pin", cx: x2, cy: y2, r: 5 }));
}

const STRIP = 300;
const ARCS_MAX = 40;

/**
 * Draw the ring's arcs from a slot on, clockwise, until all of its owners were met: where the copies of a key lie.
 * The first arc of each owner has its number.
 */
export function strip(slot, owners) {
  const { nodes, arcs } = ring;
  if (!arcs.length) return "";
  const end = (at) => (at + 1 < arcs.length ? arcs[at + 1][0] : slots);
  let at = arcs.findLastIndex(([first]) => first <= slot);
  const met = [];
  const pieces = [];
  let length = 0;
  while (met.length < owners.length && pieces.length < ARCS_MAX) {
    const id = nodes[arcs[at][1]];
    const isNew = owners.includes(id) && !met.includes(id);
    if (isNew) met.push(id);
    pieces.push({ id, from: length, size: end(at) - arcs[at][0], number: isNew ? owners.indexOf(id) + 1 : 0, arc: at });
    length += end(at) - arcs[at][0];
    at = (at + 1) % arcs.length;
  }
  const scale = STRIP / length;
  const key = ((slot - arcs[pieces[0].arc][0]) * scale).toFixed(1);
  return svg(
    "svg",
    { class: "strip", viewBox: `0 0 ${STRIP} 40`, role: "img", "aria-label": "The ring from the key on, clockwise, until each owner was met" },
    svg("path", { d: `M${key} 9l-4 -7h8Z` }),
    ...pieces.map(({ id, from, size, number }) =>
      svg("rect", { x: (from * scale).toFixed(1), y: 10, width: Math.max(1, size * scale).toFixed(1), height: 14, "data-lit": number > 0, ...coloured(id) }),
    ),
    ...pieces
      .filter(({ number }) => number)
      .map(({ from, size, number }) => svg("text", { x: Math.min(STRIP - 4, Math.max(4, (from + size / 2) * scale)).toFixed(1), y: 37 }, String(number))),
  );
}
