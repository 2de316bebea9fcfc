// What every part of the page needs to build itself and to write numbers.

export const byId = (id) => document.getElementById(id);
export const percent = (share) => (100 * share).toFixed(1) + "%";
export const words = (name) => name.replace(/([a-z0-9])([A-Z])/g, "$1 $2").replace(/_/g, " ").toLowerCase();
export const number = (value) => (value == null ? "n/a" : String(+value.toPrecision(4)));

/** An element; texts among the children stay texts, whatever they look like. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** An element of an SVG. */
export function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A row of a table: its head, then its cells. */
export function row(head, ...cells) {
  const first = make("th", "", head);
  first.scope = "row";
  return make("tr", "", first, ...cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : make("td", "", cell))));
}

/** Tell screen readers. */
export function say(text) {
  byId("said").textContent = text;
}
