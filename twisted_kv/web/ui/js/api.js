// Calls to the proxy that has given this page.

import { askForToken, token } from "./token.js";

const PATIENCE_MS = 30000; // until an answer begins

/** What a call was refused with: a problem document (RFC 9457), or no answer at all (status 0). */
export class Problem extends Error {
  constructor(status, fields) {
    super(fields.detail || fields.title || `status ${status}`);
    this.status = status;
    this.fields = fields;
  }

  /** What happened, and what to do about it. */
  get sentence() {
    const { hint } = this.fields;
    const said = sentence(this.message);
    return hint ? `${said} ${sentence(hint)}` : said;
  }
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : whole + ".";
}

/** What to say of anything that was thrown. */
export function sayable(error) {
  return error instanceof Problem ? error.sentence : sentence(error.message || String(error));
}

/**
 * Make a call, and give its answer, which is a 2xx or 304. Asks for a token where one is wanted, and goes on then.
 * Throws a Problem.
 */
export async function call(method, path, { headers = {}, body, signal } = {}) {
  for (;;) {
    const shown = token();
    const authorization = shown === null ? {} : { Authorization: `Bearer ${shown}` };
    let answer;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), PATIENCE_MS);
    try {
      answer = await fetch(path, {
        method,
        body,
        signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
        headers: { ...headers, ...authorization },
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, { detail: `the proxy does not answer${method === "GET" ? "" : ", and this may have been done all the same"}`, hint: "whether it runs, and this machine reaches it, is to be seen there" });
    } finally {
      clearTimeout(timer);
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new Problem(answer.status, await fieldsOf(answer));
    await askForToken(shown);
  }
}

async function fieldsOf(answer) {
  try {
    return await answer.json();
  } catch {
    return {};
  }
}

export async function read(path) {
  const answer = await call("GET", path);
  try {
    return await answer.json();
  } catch {
    throw new Problem(0, { detail: "the proxy's answer was cut short", hint: "try it again" });
  }
}
