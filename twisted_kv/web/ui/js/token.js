// The token that the person typed in: in this tab's session storage, never in a URL.

import { $, tell } from "./dom.js";

const KEY = "twisted_kv token";

let held = read();
let asking = null;

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(token) {
  held = token;
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch {
    // It holds until this page is left.
  }
  $("token-forget").hidden = token === null;
}

export function token() {
  return held;
}

/** Ask the person for another token than `refused`; everybody who asks meanwhile waits for the same answer. */
export function askForToken(refused) {
  if (held !== refused) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    const dialog = $("token-dialog");
    tell($("token-error"), refused === null ? "" : "The proxy does not know this token.");
    $("token").value = "";
    $("token-form").onsubmit = (event) => {
      const typed = $("token").value.trim();
      if (/[^\x21-\x7e]/.test(typed)) {
        event.preventDefault();
        tell($("token-error"), "This is no token: it has a character that none has.");
        return;
      }
      keep(typed);
      asking = null;
      resolve();
    };
    // Without a token there is nothing to see: Escape asks again.
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = () => asking && dialog.showModal();
    dialog.showModal();
  });
  return asking;
}

export function wireToken() {
  $("token-forget").hidden = held === null;
  $("token-forget").addEventListener("click", () => {
    keep(null);
    location.reload();
  });
}
