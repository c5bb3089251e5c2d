// One sample in a list: its tokens and what is known of it.

import { h } from "./dom.js";
import { number, plain } from "./format.js";
import { link } from "./state.js";
import { plainly } from "./text.js";
import { tokens } from "./tokens.js";

/** An element for one sample. */
export function sampleRow(sample, mode, run, told) {
  return h(
    "article",
    { class: "sample" },
    tokens(sample, mode, told),
    h(
      "p",
      { class: "facts-line" },
      facts(sample).map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))),
      h("a", { href: link("samples", { run, id: sample.id }), "aria-label": `Open sample ${sample.id}` }, "open"),
    ),
  );
}

/** What is known of a sample as a whole, [name, text]. */
export function facts(sample) {
  const labels = Object.entries(sample.labels ?? {}).map(([name, value]) => [plainly(name, 30), plain(value)]);
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
    ["prompt", plainly(sample.prompt_id, 40)],
    ["behaviour", plainly(sample.behaviour ?? "–", 40)],
    ...drawn,
    ...labels,
  ];
}
