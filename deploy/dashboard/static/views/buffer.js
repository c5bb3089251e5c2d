// The buffer view: fill, rates in and out, histograms of the content, rejected and quarantined trajectories.

import { histogram } from "../lib/bins.js";
import { Board } from "../lib/board.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { clock, duration, number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { emptyStatus, status } from "../lib/status.js";
import { table } from "../lib/table.js";
import { oneLine, safeText } from "../lib/text.js";
import { composite } from "../lib/composite.js";

const rate = (name) => `buffer.${name}_rate`;

const SPECS = [
  { id: "fill", title: "Fill", unit: "share", curves: [{ name: "buffer.fill", label: "fill" }] },
  {
    id: "rates",
    title: "In and out",
    unit: "1/s",
    log: true,
    note: "Trajectories per second that arrive, are inserted, are duplicates, are drawn, are evicted, or expire.",
    curves: [
      { name: rate("insert"), label: "inserted" },
      { name: rate("sample"), label: "drawn" },
      { name: rate("duplicate"), label: "duplicates" },
      { name: rate("evict"), label: "evicted" },
      { name: rate("expired"), label: "expired" },
      { name: rate("arrival"), label: "arrived" },
    ],
  },
  {
    id: "per_insert",
    title: "Samples per insert",
    unit: "1",
    note: "Mean number of draws per arrival since the run started, and the target of the recipe.",
    curves: [{ name: "buffer.draws_per_insert", label: "draws per arrival" }],
    levels: ({ limits }) =>
      limits.samples_per_insert ? [{ value: limits.samples_per_insert, label: "target", include: true }] : [],
  },
  {
    id: "ess",
    title: "Effective sample size of priorities",
    unit: "trajectories",
    log: true,
    note: "Replay is as diverse as uniform draws from this many trajectories.",
    curves: [{ name: "buffer.priority_ess", label: "ESS" }],
  },
  { id: "age", title: "Mean age", unit: "s", curves: [{ name: "buffer.mean_age_s", label: "mean age" }] },
  {
    id: "fresh",
    title: "Fresh trajectories waiting",
    unit: "trajectories",
    curves: [{ name: "buffer.fresh_waiting", label: "waiting for their first draw" }],
  },
  {
    id: "unique",
    title: "Distinct strings among arrivals",
    unit: "share",
    curves: [{ name: "buffer.unique_ratio", label: "unique" }],
  },
  {
    id: "refused",
    title: "Rejected",
    unit: "trajectories",
    match: /^buffer\.(refused\.|quarantined$)/,
    label: (entry) => entry.title,
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

function showFacts(host, { now, rates, pace, source, at, age, error }) {
  const facts = [
    ["trajectories", `${plain(now.size)} of ${plain(now.capacity)}`],
    ["fresh, not drawn yet", plain(now.fresh_waiting)],
    ["prompts", plain(now.prompts)],
    ["arrived", plain(now.arrivals)],
    ["duplicates", plain(now.duplicates)],
    ["evicted", plain(now.evicted)],
    ["drawn", plain(now.drawn)],
    ["samples per insert", number(now.draws_per_insert)],
    ["insert rate", number(rates?.insert_rate, "1/s")],
    ["draw rate", number(rates?.sample_rate, "1/s")],
    ["ESS of priorities", `${number(now.priority_ess)} (${number(now.ess_share, "share")})`],
    ["mean age", duration(age?.mean_s)],
    ["oldest", duration(age?.oldest_s)],
    ["quarantined", plain(now.quarantined)],
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
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
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
