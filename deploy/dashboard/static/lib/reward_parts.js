// Parts of the rewards view: log R along the string, best strings, terms, workers.

import { h, renew, scroller } from "./dom.js";
import { describe } from "./figures.js";
import { duration, number, plain } from "./format.js";
import { link } from "./state.js";
import { status } from "./status.js";
import { table } from "./table.js";
import { oneLine, safeText } from "./text.js";

/** The plot model of log R by prefix position, with its terms if there are several. */
export function prefixModel(per) {
  if (!per?.position?.length) return null;
  const terms = Object.entries(per.terms ?? {});
  const more = terms.length > 1 ? terms : [];
  return {
    x: per.position,
    ys: [per.q90, per.mean, per.q10, ...more.map(([, values]) => values)],
    series: [
      { label: "90 %", kind: "line", n: 0, dash: [2, 3], width: 1 },
      { label: "mean", kind: "line", n: 0, dash: [], width: 2.4 },
      { label: "10 %", kind: "line", n: 0, dash: [2, 3], width: 1 },
      ...more.map(([name], n) => ({ label: oneLine(name, 40), kind: "line", n: n + 1 })),
    ],
    bands: [{ upper: 0, lower: 2, n: 0, opacity: 0.16 }],
    marks: per.position.filter((_, i) => per.mean[i] === null),
    xTitle: "prefix length, tokens",
    xText: (value) => (Number.isInteger(value) ? plain(value) : ""),
    now: "",
    remark: `From ${plain(per.from_samples)} recorded samples; fewer of them reach the positions on the right.`,
  };
}

/** Best strings, terms, distinct strings and reward workers. */
export function showLists(host, response, run) {
  const top = response.top ?? [],
    distinct = response.distinct,
    workers = response.workers ?? [];
  const best = top.map((one) => [
    h("a", { href: link("samples", { run, id: one.id }) }, safeText(one.text || "(empty string)", 90)),
    number(one.log_reward),
    number(one.log_q),
    plain(one.times),
    plain(one.step),
  ]);
  const terms = (response.terms ?? []).map((term) => [
    safeText(term.name, 60),
    number(term.mean),
    term.note ? "not in log R" : number(term.share, "share"),
  ]);
  const rows = workers.map((one) => [
    oneLine(one.name, 40),
    plain(one.strings),
    number(one.cache_hits, "share"),
    duration(one.string_s),
    duration(one.function_s),
    duration(one.slowest_s),
    plain(one.failed),
    one.last_failure ? safeText(one.last_failure, 200) : "none",
  ]);
  renew(
    host,
    h(
      "section",
      { class: "card" },
      h("h3", {}, "Best strings recorded"),
      best.length
        ? scroller("Best strings", table(["string", "log R", "log q", "times", "step"], best))
        : status("empty", "No sample has been recorded yet."),
    ),
    h(
      "section",
      { class: "card" },
      h("h3", {}, "Terms"),
      terms.length
        ? scroller("Terms", table(["term", "mean, nats", "share of variance"], terms))
        : status("empty", "No term has been recorded yet."),
      h("h3", {}, "Distinct strings"),
      distinct
        ? h(
            "p",
            {},
            `${plain(distinct.strings)} distinct strings among ${plain(distinct.of_samples)} arrivals; ${plain(distinct.modes)} modes: distinct recorded strings within ${plain(distinct.within_nats)} nats of the best log R of their prompt.`,
          )
        : status("empty", "Unknown before the first snapshot."),
    ),
    h(
      "section",
      { class: "card wide" },
      h("h3", {}, "Reward workers"),
      rows.length
        ? scroller(
            "Reward workers",
            table(
              [
                "worker",
                describe("reward.NAME.strings").title,
                describe("reward.NAME.cache_hits").title,
                "time per string",
                describe("reward.NAME.function_s").title,
                describe("reward.NAME.slowest_s").title,
                describe("reward.NAME.failed").title,
                "last error",
              ],
              rows,
            ),
          )
        : status("empty", "No reward worker has reported."),
    ),
  );
}
