// The stream of events. It is read by fetch(): EventSource could not show a token.

import { call, sayable } from "./api.js";

const PAUSE_MS = 1000;
const PAUSE_MS_MAX = 15000;
const SILENCE_MS = 12000; // the proxy says something every few seconds
const HIDDEN_MS = 60000; // a page that nobody has looked at for so long does not keep its stream

/** Puts events together from text that comes in any pieces (HTML Living Standard, section 9.2.6). */
export class EventReader {
  #rest = "";
  #name = "";
  #data = [];

  /** Take some text, and give the events that are whole, as pairs of name and data. */
  feed(text) {
    const found = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) found.push([this.#name || "message", this.#data.join("\n")]);
        this.#name = "";
        this.#data = [];
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") this.#name = value;
      else if (field === "data") this.#data.push(value);
    }
    return found;
  }
}

/**
 * Follow the stream for as long as the page is there, through everything.
 *
 * heard(name, value) is told of each event; state(name, why) of "live" and "lost".
 */
export async function follow(heard, state) {
  let pause = PAUSE_MS;
  for (;;) {
    await visible();
    const reading = new AbortController();
    const quits = whenHidden(() => reading.abort());
    let why = "The stream of events ended.";
    try {
      await readAll(reading, (name, value) => {
        pause = PAUSE_MS;
        state("live", "");
        heard(name, value);
      });
    } catch (error) {
      why = error.name === "AbortError" ? "Nothing was heard from the proxy." : sayable(error);
    }
    quits();
    reading.abort(); // where what was heard could not be shown, the stream would go on unread
    if (document.hidden) continue;
    state("lost", why);
    await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
    pause = Math.min(2 * pause, PAUSE_MS_MAX);
  }
}

async function readAll(reading, heard) {
  const answer = await call("GET", "/v1/events", { headers: { Accept: "text/event-stream" }, signal: reading.signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  for (;;) {
    const silence = setTimeout(() => reading.abort(), SILENCE_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    for (const [name, data] of events.feed(value)) heard(name, JSON.parse(data));
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true }));
}

/** Do something when the page has been hidden for a while. Gives a function that ends that. */
function whenHidden(act) {
  let timer = 0;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
}
