// One key, open: read, written and deleted. It is never overwritten with what somebody else wrote meanwhile unseen.

import { sayable } from "./api.js";
import { editable, hex, parse, same, show } from "./bytes.js";
import { $, el, say, tell } from "./dom.js";
import { explain, unexplain } from "./explain.js";
import { ballot, size } from "./format.js";
import { list, markKey } from "./keys.js";
import { get, isConflict, put, remove } from "./store.js";
import { getValue, isTooLarge, setValue, wireValue } from "./value.js";

const SHOWN_MAX = 2048;

let key = null; // the open key's bytes
let held = null; // what it held when it was read: null for nothing
let asked = 0;
let edits = 0; // how often something was typed
let kept = 0; // up to which of those all is saved, or was let go
let timed = false; // whether somebody has typed how long the value is to live

export function wireEditor() {
  wireValue();
  $("opener").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = typedKey();
    if (typed) chooseKey(typed);
  });
  $("editor").addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  $("key").addEventListener("input", () => {
    $("key").removeAttribute("aria-invalid");
    if (key === null || $("key").value !== show(key)) close();
  });
  $("ttl").addEventListener("input", () => (timed = true));
  $("editor").addEventListener("input", (event) => {
    if (event.target.name !== "kind") edits += 1; // to look at a value in another way changes nothing
  });
  $("reread").addEventListener("click", () => chooseKey(key));
  $("remove").addEventListener("click", askToRemove);
  $("download").addEventListener("click", download);
  $("delete-dialog").addEventListener("click", (event) => {
    if (event.detail > 1) event.preventDefault(); // of a double click: it was meant for what lay there before
  });
  addEventListener("beforeunload", (event) => {
    if (edits !== kept) event.preventDefault();
  });
  showHeld();
}

function typedKey() {
  try {
    const typed = parse($("key").value);
    if (!typed.length) throw new Error("Type a key first");
    return typed;
  } catch (error) {
    $("key").setAttribute("aria-invalid", "true");
    fail(error);
    return null;
  }
}

/** Open a key that somebody has chosen, unless what is typed would be lost by it and that is not wanted. */
export function chooseKey(bytes) {
  if (edits === kept || confirm("What you have typed is not saved. Open a key in its place?")) openKey(bytes);
}

/** Open a key, and explain it. */
async function openKey(bytes) {
  const [mine, before] = [++asked, edits];
  quieten();
  say($("held"), "reading");
  try {
    const found = await get(bytes);
    if (mine !== asked) return;
    if (before !== edits) throw new Error(`${show(bytes)} was read, but you have typed meanwhile, and nothing of that was replaced. Open it again to see it`);
    show_(bytes, found);
    await explain(bytes);
  } catch (error) {
    if (mine !== asked) return;
    showHeld();
    fail(error);
  }
}

function show_(bytes, found) {
  key = bytes;
  held = found;
  $("key").value = show(bytes);
  $("key").removeAttribute("aria-invalid");
  setValue(found ? found.value : new Uint8Array());
  $("content-type").value = found ? found.contentType : "";
  kept = edits;
  showLeft();
  showHeld();
}

function showLeft() {
  timed = false;
  $("ttl").value = left();
}

/** Say how many seconds the open value still lives, so that saving it does not make it live for ever. */
function left() {
  return held?.expiresMs ? String(Math.max(1, Math.round((held.expiresMs - Date.now()) / 1000))) : "";
}

/** Forget what was read: what is typed now is for another key. */
function close() {
  asked += 1;
  key = held = null;
  if (!timed) showLeft();
  if (isTooLarge()) setValue(new Uint8Array());
  quieten();
  showHeld();
  unexplain();
}

function showHeld() {
  const chip = $("held");
  chip.dataset.held = key === null ? "none" : held ? "value" : "absent";
  say(chip, key === null ? "nothing open" : held ? `version ${ballot(held.etag.replaceAll('"', ""))}` : "holds no value");
  chip.title = held ? held.etag : "";
  say($("save"), held ? "Save" : "Create");
  $("save").disabled = isTooLarge();
  $("remove").disabled = $("reread").disabled = false;
  for (const id of ["reread", "remove", "download"]) $(id).hidden = !held;
  markKey(key);
}

/** What stands in the fields. Throws an Error where it is no bytes. */
function drafted() {
  return { value: getValue(), contentType: $("content-type").value.trim(), ttl: timed ? $("ttl").value.trim() : left() };
}

async function save() {
  quieten();
  const into = key ?? typedKey();
  if (into === null) return;
  let draft;
  try {
    draft = drafted();
  } catch (error) {
    fail(error);
    return;
  }
  const mine = ++asked; // whoever opens another key meanwhile has that one, and not what comes of this
  await change(mine, into, held ? held.etag : null, draft);
}

async function change(mine, into, etag, draft) {
  const [isNew, before] = [etag === null, edits];
  busy();
  try {
    const written = await put(into, etag, draft);
    kept = Math.max(kept, before);
    if (mine !== asked) {
      if (isNew) await list();
      return;
    }
    key = into;
    held = written;
    tell($("conflict"), "");
    say($("done"), `${isNew ? "Created" : "Saved"}: ${size(draft.value.length)} under version ${ballot(written.etag.replaceAll('"', ""))}.`);
    if (!timed || $("ttl").value.trim() === draft.ttl) showLeft();
    showHeld();
    if (isNew) await list();
    if (mine === asked) await explain(into);
  } catch (error) {
    await failed(mine, into, draft, error);
  }
}

/** Say why a change was not made, and of which key if another one is open by now. */
async function failed(mine, into, draft, error) {
  if (mine !== asked) {
    tell($("editor-error"), `${show(into)}: ${sayable(error)}`);
    return;
  }
  showHeld();
  if (isConflict(error)) await showConflict(into, draft);
  else fail(error);
}

/** Somebody else was faster: show theirs, and let the person choose. */
async function showConflict(into, draft) {
  const then = asked;
  let theirs;
  try {
    theirs = await get(into);
  } catch (error) {
    if (then === asked) fail(error);
    return;
  }
  if (then !== asked) return;
  const mine = draft && el("button", { type: "button", class: "danger", onclick: () => keepMine(into, theirs) }, theirs ? "Overwrite theirs" : "Write mine again");
  const said = theirs === null ? "Somebody else has deleted this key" : "Somebody else has changed this key";
  $("conflict").replaceChildren(
    el("p", {}, el("b", {}, `${said} since you read it. Nothing was overwritten.`)),
    theirs === null ? "" : el("p", {}, draft && same(theirs.value, draft.value) ? "It holds what you wanted to write:" : "It holds now:"),
    theirs === null ? "" : el("pre", { tabindex: 0, "aria-label": "What the key holds now" }, preview(theirs.value)),
    el("div", { class: "actions" }, el("button", { type: "button", class: "strong", onclick: () => takeTheirs(into) }, theirs ? "Take theirs" : "Let it be deleted"), mine || ""),
  );
  $("conflict").hidden = false;
  if (document.activeElement === document.body) $("conflict").querySelector("button").focus();
}

function preview(bytes) {
  const text = editable(bytes.subarray(0, SHOWN_MAX));
  return (text === null ? hex(bytes.subarray(0, SHOWN_MAX)) : text) + (bytes.length > SHOWN_MAX ? "\n…" : "");
}

function takeTheirs(into) {
  openKey(into);
  $("value").focus();
}

/** Write over what was just shown; if that is another one again, it is shown in its turn. */
function keepMine(into, theirs) {
  key = into;
  held = theirs;
  if (!timed) showLeft();
  let draft;
  try {
    draft = drafted(); // both may have been put together meanwhile
  } catch (error) {
    fail(error);
    return;
  }
  quieten();
  $("value").focus();
  change(++asked, into, theirs ? theirs.etag : null, draft);
}

/** Ask whether to delete what is open; another key that comes while the question stands is not what was meant. */
function askToRemove() {
  const [gone, etag] = [key, held.etag];
  say($("delete-key"), show(gone));
  // The dialog's own "close" comes later, when somebody may be at another key.
  $("delete-form").onsubmit = (event) => {
    if (event.submitter?.value === "yes") removeKey(gone, etag);
  };
  $("delete-dialog").showModal();
}

async function removeKey(gone, etag) {
  const mine = key !== null && same(key, gone) ? ++asked : null;
  const before = edits;
  quieten();
  if (mine !== null) busy();
  try {
    await remove(gone, etag);
    if (mine !== asked) {
      await list();
      return;
    }
    held = null;
    say($("done"), "Deleted.");
    if (before === edits) {
      setValue(new Uint8Array());
      kept = edits;
      showLeft();
      $("key").focus();
    }
    showHeld();
    await Promise.all([list(), explain(gone)]);
  } catch (error) {
    await failed(mine, gone, null, error);
  }
}

function download() {
  const url = URL.createObjectURL(new Blob([held.value], { type: "application/octet-stream" }));
  const link = el("a", { href: url, download: show(key).replace(/[^A-Za-z0-9._-]+/g, "_").slice(0, 80) || "value" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Have nothing begun while a change is under way; showHeld() ends that. */
function busy() {
  const from = document.activeElement;
  for (const id of ["save", "remove", "reread"]) $(id).disabled = true;
  if (from?.disabled) $("value").focus(); // what is disabled has no focus, and who types would be nowhere
}

function quieten() {
  tell($("editor-error"), "");
  tell($("conflict"), "");
  say($("done"), "");
}

function fail(error) {
  tell($("editor-error"), sayable(error));
}
