// Figures as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const NONE = "–";

export function count(number) {
  return number === null || number === undefined ? NONE : whole.format(number);
}

/** A figure with three digits that mean something, and all of them before the point. */
export function figure(number) {
  if (number === null || number === undefined) return NONE;
  if (number === 0) return "0";
  return Math.abs(number) >= 100 ? whole.format(number) : short.format(Math.abs(number) < 0.01 ? 0.01 : number);
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) {
    bytes /= 1024;
    step += 1;
  }
  return `${short.format(bytes)} ${units[step]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${whole.format(Math.floor(seconds / length))} ${unit}`;
  }
  return `${whole.format(Math.floor(seconds))} s`;
}

export function share(part) {
  return `${(100 * part).toFixed(1)} %`;
}

export function plural(number, one, many = one + "s") {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** The address in a URL, without what is the same everywhere. */
export function address(url) {
  return url.replace(/^http:\/\//, "");
}

/** A ballot or version, short: its beginning is its time, its end who drew it. */
export function ballot(hex) {
  return hex ? `${hex.slice(0, 16)}…${hex.slice(-4)}` : NONE;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}
