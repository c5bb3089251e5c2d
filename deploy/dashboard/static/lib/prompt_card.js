// The prompt of what is shown below it.

import { h } from "./dom.js";
import { shown } from "./text.js";

/** A card with the prompt's text, and more below it. */
export function promptCard(text, ...more) {
  const attributes = { class: "prompt-text", tabindex: 0, role: "region", "aria-label": "Text of the prompt" };
  return h("section", { class: "card" }, h("h2", {}, "Prompt"), h("div", attributes, shown(text)), ...more);
}
