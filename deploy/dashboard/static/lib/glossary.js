// Terms explained where a reader first meets them. deploy/dashboard/views/glossary.py has the same words for the report and the plots.

import { h } from "./dom.js";

export const GLOSSARY = {
  "log R": "the log of the reward of a string, in nats; the target is proportional to R^(1/T), with temperature T",
  "log Z": "the log of the sum of R^(1/T) over all strings, which normalises the target",
  u: "the estimate of log Z that a prefix makes; all agree at the optimum",
  "⊤": "the stop sign: the action that ends a string",
};

/** The text with its first term of the glossary explained by a tooltip. */
export function explained(text) {
  const term = Object.keys(GLOSSARY).find((name) => new RegExp(`(^|\\P{L})${name}(\\P{L}|$)`, "u").test(text));
  return term ? h("span", { class: "term", title: `${term}: ${GLOSSARY[term]}` }, text) : text;
}

/** All terms, one line each. */
export function glossary() {
  const line = ([term, meaning]) => h("div", {}, h("dt", {}, term), h("dd", {}, meaning));
  return h("dl", { class: "glossary" }, Object.entries(GLOSSARY).map(line));
}
