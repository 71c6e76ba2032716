// The large picture, and the request as code: the two dialogs.

import { download, pictureAddress } from "./api.js";
import { closable, copy, el, find, icon, iconButton, say } from "./dom.js";
import { fileName, promptOf } from "./gallery.js";
import { LANGUAGES } from "./snippets.js";
import { duration, money, size } from "./words.js";

export class Viewer {
  #dialog = find("viewer");
  #pictures = [];
  #at = 0;
  #actions;
  #fieldsOf;

  /** `actions`: code, edit, called with a task's id; `fieldsOf(id)` gives its request. */
  constructor(actions, fieldsOf) {
    this.#actions = actions;
    this.#fieldsOf = fieldsOf;
    closable(this.#dialog);
    for (const button of this.#dialog.querySelectorAll("[data-turn]")) {
      button.append(icon(button.dataset.turn === "1" ? "right" : "left"));
      button.addEventListener("click", () => this.#turn(Number(button.dataset.turn)));
    }
    // On the document: a click beside all controls leaves the focus outside of the dialog.
    document.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined || !this.#dialog.open) return;
      event.preventDefault();
      this.#turn(step);
    });
    this.#dialog.addEventListener("close", () => find("viewer-picture").removeAttribute("src"));
  }

  open(pictures, id, index) {
    this.#pictures = pictures;
    this.#at = Math.max(0, pictures.findIndex((p) => p.task.id === id && p.index === index));
    this.#show();
    this.#dialog.showModal();
  }

  #turn(step) {
    const to = this.#at + step;
    if (to < 0 || to >= this.#pictures.length) return;
    this.#at = to;
    this.#show();
    say(`Picture ${to + 1} of ${this.#pictures.length}`);
  }

  #show() {
    const { task, index } = this.#pictures[this.#at];
    const image = task.data[index];
    const fields = this.#fieldsOf(task.id);
    const prompt = promptOf(task, fields);
    const address = pictureAddress(image);
    const picture = find("viewer-picture");
    picture.src = address;
    picture.alt = prompt;
    picture.width = image.width ?? 1024;
    picture.height = image.height ?? 1024;
    find("viewer-title").textContent = prompt;
    const revised = image.revised_prompt && image.revised_prompt !== prompt ? image.revised_prompt : "";
    find("viewer-revised").textContent = revised && `Drawn as: ${revised}`;
    find("viewer-revised").hidden = !revised;

    const facts = [
      ["Model", task.model],
      ["Size", image.width && size(`${image.width}x${image.height}`)],
      ["Quality", task.quality],
      ["Style", task.style],
      ["Seed", fields?.seed],
      ["Left out", fields?.negative_prompt],
      ["Made by", task.provider_model && `${task.provider}, ${task.provider_model}`],
      ["Cost", typeof task.usage?.cost_usd === "number" && money(task.usage.cost_usd)],
      ["Took", task.completed_at && task.started && duration(task.completed_at - task.started)],
      ["Made", new Date(task.created * 1000).toLocaleString()],
      ["Kept until", task.expires_at && new Date(task.expires_at * 1000).toLocaleString()],
    ].filter(([, value]) => value || value === 0);
    find("viewer-facts").replaceChildren(
      ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]),
    );

    const leave = (name) => () => (this.#dialog.close(), this.#actions[name](task.id));
    const labelled = (name, label, act) => {
      const button = iconButton(name, label, act, { class: "labelled" });
      button.append(label);
      return button;
    };
    find("viewer-actions").replaceChildren(
      el(
        "a",
        { class: "labelled", href: download(image), download: fileName(task, index), "data-action": "download" },
        icon("download"),
        "Download",
      ),
      ...[
        image.url && labelled("link", "Copy address", () => copy(image.url, "Address")),
        fields && labelled("code", "Show as code", leave("code")),
        fields && labelled("edit", "Use these settings", leave("edit")),
      ].filter(Boolean),
    );
    for (const button of this.#dialog.querySelectorAll("[data-turn]")) {
      const to = this.#at + Number(button.dataset.turn);
      const end = to < 0 || to >= this.#pictures.length;
      // A button that is disabled under the focus would swallow every key.
      if (end && button === document.activeElement) this.#dialog.querySelector("[data-close]").focus();
      button.disabled = end;
    }
  }
}

export class CodeDialog {
  #dialog = find("code");
  #fields = {};
  #language = LANGUAGES[0];
  #keyOf;

  /** `keyOf()` gives the key that the snippet may hold. */
  constructor(keyOf) {
    this.#keyOf = keyOf;
    closable(this.#dialog);
    const tabs = LANGUAGES.map((language) =>
      el(
        "button",
        {
          type: "button",
          role: "tab",
          id: `code-tab-${language.id}`,
          "aria-controls": "code-panel",
          onclick: () => this.#choose(language),
        },
        language.name,
      ),
    );
    find("code-tabs").replaceChildren(...tabs);
    find("code-tabs").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined) return;
      const to = (LANGUAGES.indexOf(this.#language) + step + LANGUAGES.length) % LANGUAGES.length;
      this.#choose(LANGUAGES[to]);
      tabs[to].focus();
    });
    find("code-key").addEventListener("change", () => this.#write());
    find("code-copy").addEventListener("click", () =>
      copy(find("code-text").textContent, this.#language.name),
    );
  }

  open(fields) {
    this.#fields = fields;
    find("code-key").checked = false;
    find("code-key").disabled = !this.#keyOf();
    this.#choose(this.#language);
    this.#dialog.showModal();
    find(`code-tab-${this.#language.id}`).focus();
  }

  #choose(language) {
    this.#language = language;
    for (const tab of find("code-tabs").children) {
      const chosen = tab.id === `code-tab-${language.id}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    find("code-panel").setAttribute("aria-labelledby", `code-tab-${language.id}`);
    this.#write();
  }

  #write() {
    const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const key = find("code-key").checked ? this.#keyOf() : "";
    find("code-text").textContent = this.#language.write(this.#fields, base, key);
  }
}
