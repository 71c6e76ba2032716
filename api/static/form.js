// The request: fields that follow what the chosen model can do.

import { el, find, icon } from "./dom.js";
import { memory } from "./memory.js";
import { duration, money, plural, size as sizeInWords } from "./words.js";

const OTHER = "other";
const MOST_SEED = 2 ** 32 - 1;
const characters = (text) => [...text].length; // as the server counts them

/** One of several values; the browser makes such a group work with the arrow keys. */
function chip(name, value, label, checked, picture) {
  const input = el("input", { type: "radio", name, value, checked });
  return el("label", { class: "chip" }, input, el("span", {}, picture, label));
}

function shape(text) {
  const [width, height] = text.split("x").map(Number);
  const longest = Math.max(width, height);
  const box = el("i", { class: "shape", "aria-hidden": "true" });
  box.style.setProperty("width", `${(14 * width) / longest}px`);
  box.style.setProperty("height", `${(14 * height) / longest}px`);
  return box;
}

export class Form {
  #models = new Map();
  #form = find("request");
  #wanted; // what was asked for before the models were there

  /** `submit(fields)` is called when all that can be checked here is right. */
  constructor(submit, showCode) {
    const form = this.#form;
    find("dice").append(icon("dice"));
    find("form-code").append(icon("code"));
    find("dice").addEventListener("click", () => {
      find("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
      this.#changed();
    });
    find("form-code").addEventListener("click", () => showCode(this.fields()));
    form.querySelector(".keys").textContent = /Mac|iP(hone|ad)/.test(navigator.userAgent)
      ? "⌘ Enter"
      : "Ctrl Enter";
    form.addEventListener("input", (event) => {
      if (event.target.name === "model") this.#follow({ ...this.fields(), model: undefined });
      this.#changed();
      this.clear();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.clear();
      if (this.#check()) submit(this.fields());
    });
    // Opened here and not by the browser, which would tell of it later: the list would jump.
    find("picker").firstElementChild.addEventListener("click", (event) => {
      event.preventDefault();
      find("picker").open = !find("picker").open;
      const chosen = form.querySelector('input[name="model"]:checked')?.parentElement;
      const list = find("models");
      if (chosen) list.scrollTop = chosen.offsetTop - list.offsetTop - list.clientHeight / 3;
    });
    // The pointer chooses and is done; the arrow keys go through the list.
    find("models").addEventListener("click", (event) => {
      if (event.detail && event.target.closest("label")) find("picker").open = false;
    });
    find("models").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      find("picker").open = false;
      find("picker").querySelector("summary").focus();
    });
  }

  /** Offer `models`, in their order; those with a recommendation first. */
  offer(models) {
    this.#models = new Map(models.map((model) => [model.id, model]));
    const groups = [
      ["Recommended", models.filter((model) => model.image.recommendation)],
      ["Others", models.filter((model) => !model.image.recommendation)],
    ];
    find("models").replaceChildren(
      ...groups
        .filter(([, members]) => members.length)
        .map(([title, members]) =>
          el("fieldset", {}, el("legend", {}, title), ...members.map((model) => this.#choice(model))),
        ),
    );
    this.fill(this.#wanted ?? memory.draft);
  }

  #choice({ id, image }) {
    const rate = image.recommendation?.success_rate_24h;
    const facts = [
      money(image.price_per_image_usd),
      `about ${duration(image.typical_seconds)}`,
      typeof rate === "number" ? `${Math.round(rate * 100)} % success` : null,
      image.available ? null : "no provider configured",
    ].filter(Boolean);
    const input = el("input", { type: "radio", name: "model", value: id, disabled: !image.available });
    return el(
      "label",
      { class: "model" },
      input,
      el(
        "span",
        {},
        el("b", {}, id),
        el("small", { class: "facts" }, facts.join(" · ")),
        el("small", { class: "strength" }, image.description),
      ),
    );
  }

  /** Put `fields` of an earlier request into the form. */
  fill(fields) {
    if (!this.#models.size) return void (this.#wanted = fields);
    const first = [...this.#models.values()].find((model) => model.image.available)?.id;
    const known = this.#models.get(fields.model)?.image.available ? fields.model : first;
    for (const input of this.#form.querySelectorAll('input[name="model"]'))
      input.checked = input.value === known;
    if (fields.prompt !== undefined) find("prompt").value = fields.prompt;
    find("negative_prompt").value = fields.negative_prompt ?? "";
    find("seed").value = fields.seed ?? "";
    find("background").value = fields.background ?? "";
    this.#follow(fields);
    this.#changed();
  }

  #value = (name) => this.#form.querySelector(`input[name="${name}"]:checked`)?.value;

  get model() {
    return this.#models.get(this.#value("model"));
  }

  /** Show the fields that the model has, and keep what was chosen where it can be had. */
  #follow(wanted = this.fields()) {
    const model = this.model;
    if (!model) return void (find("chosen").textContent = "No model is available");
    const { image } = model;
    find("chosen").replaceChildren(
      el("b", {}, model.id),
      el("small", {}, `${money(image.price_per_image_usd)} · about ${duration(image.typical_seconds)}`),
      el("small", { class: "strength" }, image.description),
    );
    const takes = (name) => image.parameters.includes(name);
    const group = (name, holder, values, chosen, label = (value) => value, picture = () => null) => {
      find(`${name}-field`).hidden = values.length < 2;
      const checked = values.includes(chosen) ? chosen : values[0];
      find(holder).replaceChildren(
        ...values.map((value) => chip(name, value, label(value), value === checked, picture(value))),
      );
    };

    const listed = image.sizes.includes(wanted.size);
    const other = !listed && wanted.size && wanted.size !== "auto" && wanted.model === model.id;
    const sizes = [...image.sizes].sort((a, b) => (b === image.default_size) - (a === image.default_size));
    const chosen = other ? OTHER : listed ? wanted.size : image.default_size;
    const label = (value) => (value === OTHER ? "other…" : sizeInWords(value));
    group("size", "sizes", [...sizes, OTHER], chosen, label, (v) => (v === OTHER ? null : shape(v)));
    if (other) find("custom-size").value = wanted.size;

    const counts = Array.from({ length: image.max_n }, (_, index) => String(index + 1));
    group("n", "ns", counts, String(Math.min(wanted.n ?? 1, image.max_n)));
    group("style", "styles", takes("style") ? image.styles : [], wanted.style);
    group("quality", "qualities", takes("quality") ? image.qualities : [], wanted.quality);

    const formats = takes("output_format") ? image.output_formats : [];
    find("output_format").replaceChildren(
      ...["", ...formats].map((value) => el("option", { value }, value || "any")),
    );
    find("output_format").value = formats.includes(wanted.output_format) ? wanted.output_format : "";
    find("output_format-field").hidden = !formats.length;
    for (const name of ["negative_prompt", "seed", "background"])
      find(`${name}-field`).hidden = !takes(name);
    find("more").hidden = !["negative_prompt", "seed", "background", "output_format"].some(
      (name) => !find(`${name}-field`).hidden,
    );
  }

  /** The request as the API wants it. */
  fields() {
    const shown = (name) => (find(`${name}-field`).hidden ? "" : find(name).value.trim());
    const size = this.#value("size");
    const seed = shown("seed");
    const fields = {
      model: this.#value("model"),
      prompt: find("prompt").value,
      n: Number(this.#value("n") ?? 1),
      size: size === OTHER ? find("custom-size").value.trim() : size,
      quality: find("quality-field").hidden ? "" : this.#value("quality"),
      style: find("style-field").hidden ? "" : this.#value("style"),
      negative_prompt: shown("negative_prompt"),
      seed: /^\d+$/.test(seed) ? Number(seed) : seed,
      output_format: shown("output_format"),
      background: shown("background"),
    };
    return Object.fromEntries(
      Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined),
    );
  }

  #changed() {
    const other = this.#value("size") === OTHER;
    if (other && find("custom-size").hidden) {
      find("custom-size").hidden = false;
      find("custom-size").focus();
    }
    find("custom-size").hidden = !other;
    const fields = this.fields();
    const image = this.model?.image;
    const most = image?.max_prompt_characters ?? Infinity;
    const length = characters(fields.prompt ?? "");
    const count = find("count");
    count.textContent = Number.isFinite(most) ? `${length.toLocaleString("en")} / ${most.toLocaleString("en")}` : "";
    count.classList.toggle("over", length > most);
    const price = image?.price_per_image_usd;
    find("cost").textContent =
      typeof price === "number"
        ? `${money(price * fields.n)} for ${plural(fields.n, "picture")}`
        : "";
    memory.draft = fields;
  }

  #check() {
    const { prompt = "", seed } = this.fields();
    const most = this.model?.image.max_prompt_characters ?? Infinity;
    if (!prompt.trim()) this.blame("prompt", "Say what should be in the picture.");
    else if (characters(prompt) > most)
      this.blame("prompt", `${characters(prompt) - most} characters too many for this model.`);
    else if (seed !== undefined && !(Number.isInteger(seed) && seed <= MOST_SEED))
      this.blame("seed", `A seed is a number from 0 to ${MOST_SEED}.`);
    else return true;
    return false;
  }

  /** Whether a value for this field can be put in by the page. */
  has = (name) => ["model", "size", "quality", "style", "output_format"].includes(name);

  /** Say beside a field what is wrong with it, and go to the first such. False: no such field. */
  blame(name, text) {
    const problem = find(`${name}-problem`);
    if (!problem) return false;
    problem.textContent = text;
    problem.hidden = false;
    if (find("more").contains(problem)) find("more").open = true;
    const field = { size: find("custom-size"), model: find("picker").firstElementChild }[name] ?? find(name);
    if (!this.#form.querySelector("[aria-invalid]")) field.focus();
    field.setAttribute("aria-invalid", "true");
    return true;
  }

  clear() {
    find("trouble").hidden = true;
    for (const problem of this.#form.querySelectorAll(".problem")) problem.hidden = true;
    for (const field of this.#form.querySelectorAll("[aria-invalid]"))
      field.removeAttribute("aria-invalid");
  }

  /** Take a value that the server proposed for a field. */
  apply(name, value) {
    this.fill({ ...this.fields(), [name]: value });
    this.clear();
    find("generate").focus();
  }

  busy(busy) {
    find("generate").disabled = busy;
    find("generate").textContent = busy ? "Sending…" : "Generate";
  }
}
