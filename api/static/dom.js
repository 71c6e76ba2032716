// Elements, icons, and what is said aloud. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";

// Strokes on a field of 24 by 24.
const ICONS = {
  cancel: "M6 6l12 12M18 6L6 18",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5M13.5 5l-3 14",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  dice: "M4 4h16v16H4zM8.5 8.5h.01M15.5 8.5h.01M12 12h.01M8.5 15.5h.01M15.5 15.5h.01",
  download: "M12 4v11M7 11l5 5 5-5M4 20h16",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  left: "M15 5l-7 7 7 7",
  link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  remove: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  retry: "M5 12a7 7 0 1 1 2 5M5 20v-4h4",
  right: "M9 5l7 7-7 7",
  warning: "M12 4L2.5 20h19zM12 10v4M12 17h.01",
};

export const find = (id) => document.getElementById(id);

/** An element. `on…` properties are listeners, `false` and `undefined` leave an attribute out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon only; `label` is its name for everybody who does not see it. */
export function iconButton(name, label, onclick, properties = {}) {
  const attributes = { type: "button", class: "icon", "aria-label": label, title: label };
  return el("button", { ...attributes, onclick, "data-action": name, ...properties }, icon(name));
}

/** Say something to screen readers, and with `shown` to eyes as well. */
export function say(text, { shown = false } = {}) {
  find("said").textContent = text;
  if (!shown) return;
  const toast = find("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (toast.hidden = true), 2500);
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard but for this.
    const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return say("The browser does not let this page copy.", { shown: true });
  }
  say(`${what} copied`, { shown: true });
}

/** A dialog that closes by its button, by Esc, and by a click beside it. */
export function closable(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) {
    button.append(icon("cancel"));
    button.addEventListener("click", () => dialog.close());
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
