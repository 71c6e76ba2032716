// Tables that are told again and again: what has not changed is not touched, so that whoever reads
// or is about to press something is not disturbed.

import { el } from "./dom.js";

/** A cell whose content is made by `build` when `said`, a text that says what it shows, is new. */
export const cell = (said, build) => ({ said: String(said), build: build ?? (() => [String(said)]) });

/** A button of a row; `action` tells it from the others there. */
export const button = (action, text, onclick, properties = {}) =>
  el("button", { type: "button", "data-action": action, onclick, ...properties }, text);

/**
 * Show `rows` in a table: `{key, cells, group}` each, the first cell heading the row. A cell is a
 * text or what `cell` makes.
 */
export function fill(table, rows) {
  const body = table.tBodies[0];
  const labels = [...table.tHead.rows[0].cells].map((head) => (head.querySelector(".hidden") ? "" : head.textContent));
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  let before = null;
  for (const { key, cells, group = false } of rows) {
    const row = known.get(key) ?? el("tr", { "data-key": key, class: group && "group" });
    known.delete(key);
    cells.forEach((given, at) => {
      const { said, build } = typeof given === "object" ? given : cell(given);
      let node = row.cells[at];
      if (!node) {
        node = at ? el("td", { "data-label": labels[at] || false }) : el("th", { scope: "row" });
        row.append(node);
      }
      if (node.dataset.said === said) return;
      const focused = node.contains(document.activeElement) ? document.activeElement.dataset.action : null;
      node.dataset.said = said;
      node.replaceChildren(...build());
      if (focused) (node.querySelector(`[data-action="${focused}"]`) ?? node.querySelector("button"))?.focus();
    });
    const place = before ? before.nextElementSibling : body.firstElementChild;
    if (place !== row) body.insertBefore(row, place);
    before = row;
  }
  for (const row of known.values()) row.remove();
}
