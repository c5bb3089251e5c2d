// One sample in a list: its tokens and facts.

import { h } from "./dom.js";
import { number, plain } from "./format.js";
import { explained } from "./glossary.js";
import { link } from "./state.js";
import { oneLine, safeText } from "./text.js";
import { tokens } from "./tokens.js";

/** An element for one sample, under the text and the fields of its prompt where `prompt` is given. */
export function sampleRow(sample, mode, run, onToken, prompt = null) {
  return h(
    "article",
    { class: "sample" },
    prompt && promptLine(prompt),
    tokens(sample, mode, onToken),
    h(
      "p",
      { class: "facts-line" },
      facts(sample).map(([name, value]) => h("span", {}, explained(name), " ", h("b", {}, value))),
      h("a", { href: link("samples", { run, id: sample.id }), "aria-label": `Open sample ${sample.id}` }, "open"),
    ),
  );
}

/** A prompt in one paragraph: its text, then its fields such as the answer. */
export function promptLine({ id, text, fields }) {
  const shown = Object.entries(fields ?? {}).map(([name, value]) =>
    h("span", {}, ` ${oneLine(name, 30)} `, h("b", {}, oneLine(String(value), 200))),
  );
  return h("p", { class: "prompt-line" }, safeText(text || id, 300), shown);
}

/** The facts of a sample as [name, text] pairs. */
export function facts(sample) {
  const labels = Object.entries(sample.labels ?? {}).map(([name, value]) => [oneLine(name, 30), plain(value)]);
  const terms = Object.entries(sample.terms_last ?? {}).map(([name, value]) => [
    `term ${oneLine(name, 30)}`,
    number(value),
  ]);
  const drawn =
    sample.phase === "train"
      ? [
          ["step", plain(sample.step)],
          [
            "version",
            `${plain(sample.policy_version)}${sample.staleness ? ` (${plain(sample.staleness)} behind)` : ""}`,
          ],
          ["", sample.fresh ? "fresh" : "replayed"],
        ]
      : [["drawn", sample.phase === "before" ? "before training" : "after training"]];
  return [
    ["log R", number(sample.log_reward)],
    ...terms,
    ["log q", number(sample.log_q)],
    ...(sample.u_last === null || sample.u_last === undefined ? [] : [["u", number(sample.u_last)]]),
    ["prompt", oneLine(sample.prompt_id, 40)],
    ["behaviour", oneLine(sample.behaviour ?? "–", 40)],
    ...drawn,
    ...labels,
  ];
}
