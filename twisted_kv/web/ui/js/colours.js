// Which colour a node has: the same in the ring, the table and everywhere else.

const COLOURS = 10;
let order = [];

/** Take the ids of the ring's nodes, in its order. */
export function colourNodes(ids) {
  order = ids;
}

/** Give the attribute that colours what belongs to a node; one that is not in the ring has none. */
export function coloured(id) {
  const at = order.indexOf(id);
  return at < 0 ? {} : { "data-node": at % COLOURS };
}
