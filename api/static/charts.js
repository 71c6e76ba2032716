// Curves of the last hour, drawn from the numbers.

import { el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 110;
const SPAN = 3600; // seconds
const GAP = 70; // seconds without a point: nobody looked, and no line is drawn

const shape = (tag, attributes) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

/** A number that is at least `value` and easy to read. */
function roundUp(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((most) => most >= value);
}

export class Chart {
  #points = [];
  #figure;
  #series;
  #title;
  #said;
  #legend = el("div", { class: "legend" });
  #svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #most = el("span", { class: "most", "aria-hidden": "true" });

  /** `series`: one or two of `{name, of}`; `said` makes text of a value, or of null. */
  constructor(figure, title, series, said) {
    this.#figure = figure;
    this.#title = title;
    this.#series = series;
    this.#said = said;
    figure.replaceChildren(
      el("figcaption", {}, el("b", {}, title), this.#legend),
      el("div", { class: "plot" }, this.#svg, this.#most),
      el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "an hour ago"), el("span", {}, "now")),
    );
    this.#svg.addEventListener("pointermove", (event) => this.#point(event));
    this.#svg.addEventListener("pointerleave", () => this.draw(this.#points));
  }

  draw(points) {
    this.#points = points;
    const now = points.at(-1)?.at ?? 0;
    const x = (point) => WIDTH * (1 - (now - point.at) / SPAN);
    const values = points.flatMap((point) => this.#series.map(({ of }) => of(point) ?? 0));
    const most = roundUp(Math.max(0, ...values));
    const y = (value) => HEIGHT - 2 - (HEIGHT - 8) * (value / most);
    const paths = this.#series.map(({ of }, at) => {
      let line = "";
      let last = null;
      for (const point of points) {
        const value = of(point);
        if (value !== null) {
          const place = `${x(point).toFixed(1)} ${y(value).toFixed(1)}`;
          // A point that has no neighbour is a dot.
          line += last !== null && point.at - last < GAP ? `L${place}` : `M${place}l0 0`;
          last = point.at;
        }
      }
      return shape("path", { d: line, class: at ? "second" : "first" });
    });
    this.#svg.replaceChildren(...paths);
    this.#most.textContent = points.length ? this.#said(most) : "nothing was taken down yet";
    this.#tell(points.at(-1));
    const highest = this.#series.map(({ name, of }) => {
      const known = points.map(of).filter((value) => value !== null);
      return known.length ? `${name} now ${this.#said(of(points.at(-1)))}, at most ${this.#said(Math.max(...known))}` : `${name} unknown`;
    });
    this.#svg.setAttribute("aria-label", `${this.#title}, the last hour: ${highest.join("; ")}.`);
  }

  #tell(point, when = "") {
    this.#legend.replaceChildren(
      ...this.#series.map(({ name, of }, at) =>
        el("span", { class: at ? "second" : "first" }, `${name} ${point ? this.#said(of(point)) : "–"}`),
      ),
      when,
    );
  }

  #point(event) {
    if (!this.#points.length) return;
    const { left, width } = this.#svg.getBoundingClientRect();
    const wanted = this.#points.at(-1).at - SPAN * (1 - (event.clientX - left) / width);
    const near = this.#points.reduce((one, other) =>
      Math.abs(other.at - wanted) < Math.abs(one.at - wanted) ? other : one,
    );
    this.#svg.querySelector("line")?.remove();
    const x = WIDTH * (1 - (this.#points.at(-1).at - near.at) / SPAN);
    this.#svg.append(shape("line", { x1: x, x2: x, y1: 0, y2: HEIGHT }));
    const at = new Date(near.at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    this.#tell(near, `at ${at}`);
  }
}
