// Parts of the rewards view: log R along the string, best strings, terms, workers.

import { h, renew, scroller } from "./dom.js";
import { duration, number, plain } from "./format.js";
import { link } from "./state.js";
import { status } from "./status.js";
import { table } from "./table.js";
import { plainly, shown } from "./text.js";

/** The curve of log R over prefixes, with its terms where there are several. */
export function prefixes(per) {
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
      ...more.map(([name], n) => ({ label: plainly(name, 40), kind: "line", n: n + 1 })),
    ],
    bands: [{ upper: 0, lower: 2, n: 0, opacity: 0.16 }],
    marks: per.position.filter((_, i) => per.mean[i] === null),
    xTitle: "tokens",
    xText: (value) => (Number.isInteger(value) ? plain(value) : ""),
    now: "",
    remark: `Of ${plain(per.from_samples)} noted samples; fewer are long enough further right.`,
  };
}

/** Best strings, terms, different strings and workers. */
export function showLists(host, answer, run) {
  const top = answer.top ?? [],
    distinct = answer.distinct,
    workers = answer.workers ?? [];
  const best = top.map((one) => [
    h("a", { href: link("samples", { run, id: one.id }) }, shown(one.text || "(empty string)", 90)),
    number(one.log_reward),
    number(one.log_q),
    plain(one.times),
    plain(one.step),
  ]);
  const terms = (answer.terms ?? []).map((term) => [
    shown(term.name, 60),
    number(term.mean),
    term.note ? "note only" : number(term.share, "share"),
  ]);
  const rows = workers.map((one) => [
    plainly(one.name, 40),
    plain(one.strings),
    number(one.cache_hits, "share"),
    duration(one.string_s),
    duration(one.function_s),
    duration(one.slowest_s),
    plain(one.failed),
    one.last_failure ? shown(one.last_failure, 200) : "–",
  ]);
  renew(
    host,
    h(
      "section",
      { class: "card" },
      h("h3", {}, "Best strings noted"),
      best.length
        ? scroller("Best strings", table(["string", "log R", "log q", "times", "step"], best))
        : status("empty", "No sample has been noted yet."),
    ),
    h(
      "section",
      { class: "card" },
      h("h3", {}, "Terms"),
      terms.length
        ? scroller("Terms", table(["term", "mean, nats", "share of the spread"], terms))
        : status("empty", "No term has been noted yet."),
      h("h3", {}, "Different strings"),
      distinct
        ? h(
            "p",
            {},
            `${plain(distinct.strings)} different strings among ${plain(distinct.of_samples)}; ${plain(distinct.modes)} modes: different noted strings within ${plain(distinct.within_nats)} nats of the best of their prompt.`,
          )
        : status("empty", "Not known yet."),
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
                "strings",
                "from the cache",
                "time a string",
                "mean call",
                "slowest call",
                "failed",
                "last failure",
              ],
              rows,
            ),
          )
        : status("empty", "No reward worker has reported."),
    ),
  );
}
