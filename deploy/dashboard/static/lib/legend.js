// The legend of a plot: one button per curve with its line style and value; a click hides the curve and those `of` it.

import { h, put, setText, svg } from "./dom.js";
import { ink } from "./palette.js";

export class Legend {
  /** `toggled(n, show)` is called when curve n is hidden or shown. */
  constructor(toggled) {
    this.toggled = toggled;
    this.hidden = new Set();
    this.values = [];
    this.element = h("ul", { class: "legend" });
  }

  /** `same`: only values changed. A plot of a single curve has no legend; `quiet` curves have no entry. */
  draw(model, same) {
    if (!same) {
      this.values = model.series.map(() => h("span", { class: "value" }));
      const entries = model.series.map((one, n) => (one.quiet ? null : this.entry(one, n, model.series)));
      put(this.element, model.series.length > 1 ? entries : []);
    }
    this.setValues(model.values ?? []);
  }

  setValues(texts) {
    this.values.forEach((value, n) => setText(value, texts?.[n] ?? ""));
  }

  /** Whether curve n is hidden, by its own button or that of the curve that it belongs to. */
  hides(one, n) {
    return this.hidden.has(one.of ?? n);
  }

  entry(one, n, series) {
    const button = h(
      "button",
      { type: "button", class: "entry", "aria-pressed": String(!this.hidden.has(n)) },
      swatch(one),
      h("span", { class: "name" }, one.label),
      this.values[n],
    );
    button.addEventListener("click", () => {
      if (!this.hidden.delete(n)) this.hidden.add(n);
      button.setAttribute("aria-pressed", String(!this.hidden.has(n)));
      for (const [k, other] of series.entries()) {
        if ((other.of ?? k) !== n) continue;
        other.hidden = this.hidden.has(n);
        this.toggled(k, !other.hidden);
      }
    });
    return h("li", {}, button);
  }
}

function swatch(one) {
  const { colour, dash } = ink(one);
  const ring = one.kind === "rings";
  const drawing =
    one.kind === "dots" || ring
      ? svg("circle", { cx: 12, cy: 6, r: 3.5, fill: ring ? "none" : colour, stroke: colour, "stroke-width": 1.4 })
      : svg("line", {
          x1: 1,
          y1: 6,
          x2: 23,
          y2: 6,
          stroke: colour,
          "stroke-width": 2.4,
          "stroke-dasharray": dash.join(" ") || null,
        });
  return svg("svg", { width: 24, height: 12, "aria-hidden": "true" }, drawing);
}
