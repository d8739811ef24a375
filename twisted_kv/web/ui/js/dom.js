// Builds elements. Text becomes text nodes and never markup: keys and values are anybody's.

const SVG = "http://www.w3.org/2000/svg";

/** Find an element that index.html has, by its id. */
export function $(id) {
  return document.getElementById(id);
}

/**
 * Make an element. `given` holds attributes; false and null leave one out, true sets it without a value. A function
 * under `onclick` and the like listens.
 */
export function el(name, given = {}, ...children) {
  return fill(document.createElement(name), given, children);
}

export function svg(name, given = {}, ...children) {
  return fill(document.createElementNS(SVG, name), given, children);
}

function fill(element, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text, and touch nothing where it is the same: what is announced is announced once. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a text in an element that is hidden without one. */
export function tell(element, text) {
  say(element, text);
  element.hidden = !text;
}

export function flag(element, name, on) {
  if (on) element.dataset[name] = "";
  else delete element.dataset[name];
}
