// The result of a run: base model, trained policy and target side by side, the verdict, and the plot that shows it.

import { address } from "./api.js";
import { h, put, scroller } from "./dom.js";
import { plain } from "./format.js";
import { table } from "./table.js";
import { oneLine, safeText } from "./text.js";

/** Fill `host` with the `result` of /api/overview; hide it before the first evaluation. */
export function showResult(host, run, result) {
  const key = JSON.stringify([run, result]);
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  host.hidden = !result;
  if (!result) return void put(host);
  const rows = result.rows.map((row) => [
    safeText(row.title, 60),
    cell(row.before),
    h("b", {}, cell(row.after)),
    row.target === null ? "" : plain(row.target),
  ]);
  const { after, before } = result.verdicts;
  put(
    host,
    h("h2", {}, "Result"),
    after && h("p", { class: "lead" }, h("b", {}, "Trained: "), safeText(after, 600), "."),
    before && h("p", { class: "note" }, "Base model: ", safeText(before, 600), "."),
    h(
      "div",
      { class: "result" },
      scroller("Result", table(["figure", "base", "trained", "target"], rows)),
      result.plot && picture(run, result),
    ),
    h("p", { class: "note" }, origin(result)),
  );
}

/** A value with its interval, or with the side that a biased estimate is on. */
export function cell({ value, low, high, side }) {
  if (value === null) return "n/a";
  const ends = low === null || high === null ? "" : ` [${plain(low, 3)}, ${plain(high, 3)}]`;
  return `${side ? `${side} ` : ""}${plain(value, 3)}${ends}`;
}

function picture(run, { plot }) {
  const words =
    plot === "histogram"
      ? "Histogram of the outcomes: base model above, trained policy below"
      : "log q against log R: base model left, trained policy right";
  return h("img", { src: address("result.png", { run }), alt: words, loading: "lazy" });
}

function origin({ source, split, steps, samples, temperature }) {
  const facts = [
    `From ${source}`,
    steps !== null && `after step ${plain(steps)}`,
    split !== "train" && `split ${oneLine(split, 40)}`,
    samples !== null && `${plain(samples)} samples`,
    temperature !== null && `reward temperature ${plain(temperature, 3)}`,
  ];
  return `${facts.filter(Boolean).join(", ")}. Brackets are 95 % intervals; n/a: not defined for these samples.`;
}
