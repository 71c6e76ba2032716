// The tasks as cards, the newest first.

import { download, pictureAddress, thumbnail } from "./api.js";
import { el, find, icon, iconButton } from "./dom.js";
import { ago, doing, duration, failure, isFinal, missing, money, plural, size } from "./words.js";

export const promptOf = (task, fields) => fields?.prompt ?? task.data?.[0]?.revised_prompt ?? "";

/** What is known of a task's request, also of one that was submitted elsewhere. */
export function fieldsOf(task, own) {
  if (own) return own;
  const prompt = promptOf(task);
  if (!prompt) return null;
  const { model, quality, style } = task;
  const known = { model, prompt, n: task.data.length, size: task.size, quality, style };
  return Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined));
}

const matches = (task, shown) =>
  shown === "" || (shown === "open" ? !isFinal(task) : task.status === shown);

export class Gallery {
  #cards = new Map(); // id -> Card, in no order; the order is that of the list
  #list = find("gallery");
  #actions;
  #shown = "";

  /** `actions`: open, code, retry, edit, cancel, remove; each is called with a task's id. */
  constructor(actions) {
    this.#actions = actions;
    find("filter").addEventListener("change", (event) => {
      this.#shown = event.target.value;
      this.settle();
    });
    setInterval(() => this.#tick(), 1000);
  }

  get tasks() {
    return [...this.#list.children].map((item) => this.#cards.get(item.dataset.id).task);
  }

  fieldsOf = (id) => this.#cards.get(id)?.fields ?? null;
  task = (id) => this.#cards.get(id)?.task;

  /** All pictures that are in sight, in order: `{task, index}`. */
  pictures() {
    return this.tasks
      .filter((task) => matches(task, this.#shown))
      .flatMap((task) => (task.status === "completed" ? task.data : []).map((_, index) => ({ task, index })))
      .filter(({ task, index }) => pictureAddress(task.data[index]));
  }

  show(task, fields) {
    const known = this.#cards.get(task.id);
    if (known) known.update(task);
    else {
      const card = new Card(task, fieldsOf(task, fields), this.#actions);
      this.#cards.set(task.id, card);
      const next = [...this.#list.children].find(
        (item) => this.#cards.get(item.dataset.id).task.created <= task.created,
      );
      this.#list.insertBefore(card.item, next ?? null);
    }
    this.settle();
  }

  note(id, text) {
    this.#cards.get(id)?.note(text);
  }

  remove(id) {
    const card = this.#cards.get(id);
    if (!card) return;
    const had = card.item.contains(document.activeElement);
    const next = card.item.nextElementSibling ?? card.item.previousElementSibling;
    card.item.remove();
    this.#cards.delete(id);
    if (had) (next?.querySelector("button") ?? find("pictures")).focus();
    this.settle();
  }

  clear() {
    this.#cards.clear();
    this.#list.replaceChildren();
    this.settle();
  }

  /** Show what is asked for, or say that there is nothing. */
  settle() {
    let visible = 0;
    for (const card of this.#cards.values()) {
      card.item.hidden = !matches(card.task, this.#shown);
      if (!card.item.hidden) visible++;
    }
    find("filter").hidden = this.#cards.size === 0;
    find("empty").hidden = visible > 0;
    find("empty").textContent = this.#cards.size
      ? "Nothing of this kind."
      : "Your pictures will be here. Say what you want to see, and press Generate.";
  }

  #tick() {
    for (const card of this.#cards.values()) card.tick();
  }
}

class Card {
  #actions;
  #drawn = "";
  #parts = {};

  constructor(task, fields, actions) {
    this.task = task;
    this.fields = fields;
    this.#actions = actions;
    this.item = el("li", { class: "card", "data-id": task.id });
    this.#draw();
  }

  update(task) {
    this.task = { ...this.task, ...task };
    this.fields ??= fieldsOf(this.task);
    this.#draw();
  }

  note(text) {
    this.notice = text;
    this.#draw();
  }

  tick() {
    const { task } = this;
    const since = isFinal(task) ? ago(task.created) : duration(Date.now() / 1000 - task.created);
    if (this.#parts.time.textContent !== since) this.#parts.time.textContent = since;
  }

  #draw() {
    const { task } = this;
    const pictures = task.status === "completed" ? task.data : [];
    const drawn = JSON.stringify([
      isFinal(task),
      pictures.map(pictureAddress),
      task.error,
      task.cancelled,
      task.cancellation_status,
      task.expires_at,
      this.notice,
      Boolean(this.fields),
    ]);
    if (drawn !== this.#drawn) {
      this.#drawn = drawn;
      const action = this.item.contains(document.activeElement)
        ? document.activeElement.dataset.action
        : null;
      this.#rebuild();
      if (action !== null)
        (this.item.querySelector(`[data-action="${action}"]`) ?? this.item.querySelector("button"))?.focus();
    }
    this.#progress();
    this.tick();
  }

  #rebuild() {
    const { task } = this;
    const id = `prompt-${task.id}`;
    this.#parts = { time: el("span", { class: "time" }) };
    const prompt = promptOf(task, this.fields);
    this.item.dataset.status = task.status;
    this.item.replaceChildren(
      el(
        "article",
        { "aria-labelledby": id },
        this.#frame(prompt),
        el(
          "div",
          { class: "caption" },
          el("p", { class: "prompt", id, title: prompt }, prompt || "A task submitted elsewhere"),
          el("p", { class: "meta" }, this.#facts(), " · ", this.#parts.time),
          this.#notes(),
          this.#buttons(),
        ),
      ),
    );
  }

  #frame(prompt) {
    const { task } = this;
    if (task.status === "completed") return this.#pictures(prompt);
    const frame = el("div", { class: "frame" });
    if (task.status === "failed") {
      const { title, text, billed } = failure(task);
      frame.classList.add(task.cancelled ? "cancelled" : "failed");
      frame.append(
        icon(task.cancelled ? "cancel" : "warning"),
        el("p", { class: "title" }, title),
        text && el("p", { class: "reason" }, text),
        billed && el("p", { class: "billed" }, billed),
      );
      return frame;
    }
    this.#parts.doing = el("p", { class: "doing" });
    this.#parts.bar = el("progress", { max: 100, "aria-label": "Progress" });
    frame.classList.add("developing");
    frame.append(this.#parts.doing, this.#parts.bar);
    return frame;
  }

  #pictures(prompt) {
    const { task } = this;
    const count = task.data.length;
    const pictures = task.data.map((image, index) => {
      const name = count > 1 ? `Picture ${index + 1} of ${count}: ${prompt}` : prompt;
      if (!pictureAddress(image)) return el("p", { class: "lost" }, image.error ?? "Lost");
      const picture = el("img", {
        src: thumbnail(image, 256),
        srcset: `${thumbnail(image, 256)} 256w, ${thumbnail(image, 512)} 512w`,
        sizes: count > 1 ? "160px" : "320px",
        alt: name,
        loading: "lazy",
        decoding: "async",
        width: image.width,
        height: image.height,
      });
      picture.addEventListener("error", () =>
        picture.parentElement?.replaceWith(el("p", { class: "lost" }, "No longer stored")),
      );
      const open = () => this.#actions.open(task.id, index);
      const properties = { type: "button", class: "picture", "data-action": `open-${index}`, onclick: open };
      return el("button", { ...properties, "aria-haspopup": "dialog" }, picture);
    });
    return el("div", { class: count > 1 ? "frame pictures several" : "frame pictures" }, ...pictures);
  }

  #facts() {
    const { task } = this;
    const facts = [task.model];
    if (task.size) facts.push(size(task.size));
    if (typeof task.usage?.cost_usd === "number")
      facts.push(`${task.usage.cost_estimated ? "about " : ""}${money(task.usage.cost_usd)}`);
    if (task.completed_at && task.started) facts.push(`took ${duration(task.completed_at - task.started)}`);
    if (task.sandbox) facts.push("sandbox");
    return facts.join(" · ");
  }

  #notes() {
    const { task } = this;
    const notes = [...(task.warnings ?? [])];
    const lost = missing(task);
    return el(
      "div",
      { class: "notes" },
      this.notice ? el("p", { class: "notice", role: "alert" }, this.notice) : null,
      lost ? el("p", { class: "notice" }, lost) : null,
      notes.length
        ? el(
            "details",
            {},
            el("summary", {}, plural(notes.length, "note")),
            el("ul", {}, ...notes.map((note) => el("li", {}, note))),
          )
        : null,
    );
  }

  #buttons() {
    const { task, fields } = this;
    const on = (name) => () => this.#actions[name](task.id);
    const first = task.status === "completed" ? task.data.find(pictureAddress) : null;
    return el(
      "div",
      { class: "actions" },
      first &&
        el(
          "a",
          {
            class: "icon",
            href: download(first),
            download: fileName(task, 0),
            "aria-label": task.data.length > 1 ? "Download the first picture" : "Download",
            title: "Download",
            "data-action": "download",
          },
          icon("download"),
        ),
      fields && iconButton("code", "Show this request as code", on("code")),
      fields && iconButton("edit", "Use these settings again", on("edit")),
      isFinal(task) && fields && iconButton("retry", "Generate again with the same settings", on("retry")),
      isFinal(task)
        ? iconButton("remove", "Remove from this list", on("remove"))
        : iconButton("cancel", "Cancel", on("cancel"), {
            disabled: task.cancellation_status === "requested",
          }),
    );
  }

  #progress() {
    const { doing: text, bar } = this.#parts;
    if (!text) return;
    const now = doing(this.task);
    if (text.textContent !== now) text.textContent = now;
    this.item.dataset.status = this.task.status;
    if (this.task.progress) bar.value = this.task.progress;
  }
}

export function fileName(task, index) {
  const kind = /\.(png|jpeg|webp)\?/.exec(task.data[index].url ?? "")?.[1] ?? "png";
  return `${task.id}-${index}.${kind}`;
}
