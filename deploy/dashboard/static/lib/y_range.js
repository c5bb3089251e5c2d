// The range of the vertical axis of one plot, which the reader may set: both ends, or none.

import { h } from "./dom.js";

export class YRange {
  /** `changed()` is called when the range changes. */
  constructor(title, changed) {
    const end = (name) =>
      h("input", { type: "number", step: "any", placeholder: name, "aria-label": `${title}: y axis ${name}`, onchange: changed });
    this.ends = [end("from"), end("to")];
    this.element = h("details", { class: "y-range" }, h("summary", { "aria-label": `${title}: range of the y axis` }, "y range"), this.ends);
  }

  /** [from, to]; null for an end that is not set. */
  get value() {
    return this.ends.map((end) => (end.value === "" || !Number.isFinite(end.valueAsNumber) ? null : end.valueAsNumber));
  }
}
