// One sample in a list: its tokens and facts.

import { h } from "./dom.js";
import { number, plain } from "./format.js";
import { explained } from "./glossary.js";
import { link } from "./state.js";
import { oneLine } from "./text.js";
import { tokens } from "./tokens.js";

/** An element for one sample. */
export function sampleRow(sample, mode, run, onToken) {
  return h(
    "article",
    { class: "sample" },
    tokens(sample, mode, onToken),
    h(
      "p",
      { class: "facts-line" },
      facts(sample).map(([name, value]) => h("span", {}, explained(name), " ", h("b", {}, value))),
      h("a", { href: link("samples", { run, id: sample.id }), "aria-label": `Open sample ${sample.id}` }, "open"),
    ),
  );
}

/** The facts of a sample as [name, text] pairs. */
export function facts(sample) {
  const labels = Object.entries(sample.labels ?? {}).map(([name, value]) => [oneLine(name, 30), plain(value)]);
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
    ["log q", number(sample.log_q)],
    ...(sample.u_last === null || sample.u_last === undefined ? [] : [["u", number(sample.u_last)]]),
    ["prompt", oneLine(sample.prompt_id, 40)],
    ["behaviour", oneLine(sample.behaviour ?? "–", 40)],
    ...drawn,
    ...labels,
  ];
}
