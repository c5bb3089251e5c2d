// The buffer view: fill, rates in and out, histograms of the content, rejected and quarantined trajectories.

import { histogram } from "../lib/bins.js";
import { Board } from "../lib/board.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { fact, factList } from "../lib/facts.js";
import { clock, number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { emptyStatus, status } from "../lib/status.js";
import { table } from "../lib/table.js";
import { oneLine, safeText } from "../lib/text.js";
import { composite } from "../lib/composite.js";

const SPECS = [
  { id: "fill", figure: "buffer.fill" },
  {
    id: "rates",
    title: "In and out",
    note: "Trajectories per second that arrive, are new, are duplicates, are evicted or expire, and rows drawn.",
    figures: [
      "buffer.insert_rate",
      "buffer.sample_rate",
      "buffer.duplicate_rate",
      "buffer.evict_rate",
      "buffer.expired_rate",
      "buffer.arrival_rate",
    ],
  },
  {
    id: "per_insert",
    figure: "buffer.draws_per_insert",
    levels: ({ limits }) =>
      limits.samples_per_insert ? [{ value: limits.samples_per_insert, label: "target", include: true }] : [],
  },
  { id: "ess", figure: "buffer.priority_ess" },
  { id: "age", figure: "buffer.mean_age_s" },
  { id: "fresh", figure: "buffer.fresh_waiting" },
  { id: "unique", figure: "buffer.unique_ratio" },
  {
    id: "refused",
    title: "Rejected and quarantined",
    figures: ["buffer.refused.REASON", "buffer.quarantined"],
    note: "Totals by reason.",
    none: "no rejections",
  },
];

const HISTOGRAMS = [
  [
    "priority_histogram",
    {
      title: "Priorities",
      unit: "trajectories",
      log: true,
      note: "Replay draws each trajectory in proportion to its priority.",
      xTitle: "priority",
    },
  ],
  ["reward_histogram", { title: "log R in the buffer", unit: "trajectories", log: true, xTitle: "log R, nats" }],
  [
    "staleness_histogram",
    {
      title: "Staleness of draws",
      unit: "trajectories",
      log: true,
      note: "Versions between the policy that generated a string and the newest policy, at the time of the draw.",
      xTitle: "versions behind",
      whole: true,
    },
  ],
];

export function render(root, live, params) {
  const board = new Board(live, params);
  const facts = h("section", { class: "card wide" }),
    state = h("div", {}),
    shapes = h("div", { class: "cards" }),
    lists = h("div", { class: "cards pair" }),
    cards = h("div", { class: "cards" });
  const plots = HISTOGRAMS.map(([name, spec]) => [name, spec, new Plot(spec)]);
  shapes.append(...plots.map(([, , plot]) => plot.element));
  root.append(
    state,
    facts,
    h("h2", {}, "Content now"),
    shapes,
    h("h2", {}, "Over time"),
    board.bar,
    cards,
    h("h2", {}, "Rejected and quarantined"),
    lists,
  );
  for (const spec of SPECS) board.add(cards, spec);
  facts.hidden = true;

  const panel = new Panel(
    state,
    () => ["buffer", { run: live.run }],
    (response) => {
      put(
        state,
        response.error && status("stale", response.error, "The page shows the last reading."),
        !response.now && emptyStatus(live.overview, "no buffer readings"),
      );
      facts.hidden = !response.now;
      if (response.now) showFacts(facts, response);
      for (const [name, spec, plot] of plots) {
        const model = histogram(response[name] ?? [], spec);
        if (model) plot.set(model);
        else plot.show(emptyStatus(live.overview, "no trajectories"));
      }
      showLists(lists, response);
    },
  );
  return composite([panel, board], {
    close: () => {
      for (const [, , plot] of plots) plot.close();
    },
  });
}

function showFacts(host, { now, rates, pace, source, at, error }) {
  const facts = [
    fact("buffer.size", now.size, `${plain(now.size)} of ${plain(now.capacity)}`),
    fact("buffer.fresh_waiting", now.fresh_waiting),
    fact("buffer.prompts", now.prompts),
    fact("buffer.arrivals", now.arrivals),
    fact("buffer.duplicates", now.duplicates),
    fact("buffer.evicted", now.evicted),
    fact("buffer.drawn", now.drawn),
    fact("buffer.draws_per_insert", now.draws_per_insert),
    fact("buffer.insert_rate", rates?.insert_rate),
    fact("buffer.sample_rate", rates?.sample_rate),
    fact("buffer.priority_ess", now.priority_ess, `${number(now.priority_ess)} (${number(now.ess_share, "share")})`),
    fact("buffer.mean_age_s", now.mean_age_s),
    fact("buffer.oldest_age_s", now.oldest_age_s),
    fact("buffer.quarantined", now.quarantined),
  ];
  const read = error
    ? `The last reading, from ${clock(at)}.`
    : source === "redis"
      ? `Read from Redis at ${clock(at)}.`
      : `Recorded by the run at ${clock(at)}.`;
  const fill = h("meter", { min: 0, max: 1, value: Math.min(1, now.fill), "aria-label": "Fill of the buffer" });
  renew(
    host,
    fill,
    factList(facts),
    pace && h("p", {}, safeText(pace.sentence, 400)),
    h("p", { class: "note" }, read),
  );
}

function showLists(host, { refused, quarantine }) {
  const reasons = Object.entries(refused ?? {}).filter(([, n]) => n > 0);
  const rejected = reasons.length
    ? table(
        ["reason", "trajectories"],
        reasons.map(([reason, n]) => [safeText(reason, 120), plain(n)]),
      )
    : status("empty", "No trajectory was rejected.");
  const quarantined = quarantine?.length
    ? table(
        ["when", "reason", "id"],
        quarantine.map((one) => [clock(one.at), safeText(one.reason, 300), oneLine(one.id, 12)]),
        "",
        [false, false, false],
      )
    : status("empty", "The quarantine is empty.");
  renew(
    host,
    h("section", { class: "card" }, h("h3", {}, "Rejected, by reason"), rejected),
    h("section", { class: "card" }, h("h3", {}, "Quarantine, newest first"), scroller("Quarantine", quarantined)),
  );
}
