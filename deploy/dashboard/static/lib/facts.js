// A list of facts: names with values.

import { h } from "./dom.js";
import { describe } from "./figures.js";
import { duration, number, plain } from "./format.js";

/** [title, value] of a registered figure, for `factList`; its meaning is a tooltip. `text` replaces the value's text. */
export function fact(name, value, text = undefined) {
  const { title, unit, meaning } = describe(name);
  return [h("span", { class: "term", title: meaning }, title), text ?? valueOf(value, unit === title ? "" : unit)];
}

/** The element that lists [name, value] pairs. */
export function factList(facts) {
  return h(
    "dl",
    { class: "facts" },
    facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function valueOf(value, unit) {
  if (unit === "s") return duration(value);
  return unit ? number(value, unit) : plain(value);
}
