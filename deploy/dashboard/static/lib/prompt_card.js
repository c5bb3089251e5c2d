// The prompt of the samples shown below it.

import { h } from "./dom.js";
import { safeText } from "./text.js";

/** A card with the text of the prompt and further content. */
export function promptCard(text, ...more) {
  const attributes = { class: "prompt-text", tabindex: 0, role: "region", "aria-label": "Text of the prompt" };
  return h("section", { class: "card" }, h("h2", {}, "Prompt"), h("div", attributes, safeText(text)), ...more);
}
