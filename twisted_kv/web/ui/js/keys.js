// The list of keys: by prefix, page by page.

import { read, sayable } from "./api.js";
import { listed, parse, percent, show } from "./bytes.js";
import { $, el, say, tell } from "./dom.js";
import { plural } from "./format.js";

const PAGE = 100;

let prefix = new Uint8Array();
let cursor = null;
let asked = 0;
let marked = null;
let open = () => {};

/** opened: told the bytes of a key that was chosen. */
export function wireKeys(opened) {
  open = opened;
  $("browse").addEventListener("submit", (event) => {
    event.preventDefault();
    list();
  });
  $("more").addEventListener("click", () => page(true, prefix));
}

export function list() {
  let wanted;
  try {
    wanted = parse($("prefix").value);
  } catch (error) {
    tell($("browse-error"), sayable(error));
    return Promise.resolve();
  }
  return page(false, wanted);
}

async function page(more, wanted) {
  const mine = ++asked;
  const query = new URLSearchParams({ limit: PAGE });
  const begins = wanted.length ? `&prefix=${percent(wanted)}` : "";
  if (more && cursor) query.set("cursor", cursor);
  const hadFocus = document.activeElement === $("more");
  $("more").disabled = true;
  try {
    const found = await read(`/v1/keys?${query}${begins}`);
    if (mine !== asked) return;
    tell($("browse-error"), "");
    prefix = wanted; // that of the cursor
    showPage(found, more);
  } catch (error) {
    if (mine === asked) tell($("browse-error"), sayable(error));
  } finally {
    if (mine === asked) $("more").disabled = false;
    if (hadFocus && document.activeElement === document.body) ($("more").hidden ? $("key-list").lastElementChild?.firstChild : $("more"))?.focus();
  }
}

function showPage(found, more) {
  const place = $("key-list");
  const items = found.keys.map((key) => {
    const bytes = listed(key);
    const text = show(bytes);
    return el("li", {}, el("button", { type: "button", "data-key": text, onclick: () => open(bytes) }, text));
  });
  if (more) place.append(...items);
  else place.replaceChildren(...items);
  cursor = found.cursor;
  $("more").hidden = cursor === null;
  markKey(marked);
  const count = place.children.length;
  say($("listed"), count ? plural(count, "key") + (cursor ? " so far" : "") : "");
  const none = prefix.length ? `No key begins with ${show(prefix)}` : "The store holds no key yet. Write the first one beside this.";
  tell($("browse-empty"), count || cursor ? "" : none);
}

/** Mark the key that is open. */
export function markKey(bytes) {
  marked = bytes;
  const text = bytes && show(bytes);
  for (const button of $("key-list").querySelectorAll("button")) {
    if (button.dataset.key === text) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}
