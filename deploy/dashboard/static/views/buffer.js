// The replay buffer: how full, what goes in and out, what it is made of, what was refused.

import { histogram } from "../lib/bins.js";
import { Board } from "../lib/board.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { clock, duration, number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { nothingYet, status } from "../lib/status.js";
import { table } from "../lib/table.js";
import { plainly, shown } from "../lib/text.js";
import { together } from "../lib/together.js";

const rate = (name) => `buffer.${name}_rate`;

const SPECS = [
  { id: "fill", title: "Fill", unit: "share", curves: [{ name: "buffer.fill", label: "fill" }] },
  {
    id: "rates",
    title: "In and out",
    unit: "1/s",
    log: true,
    note: "Trajectories a second that arrive, go in, are duplicates, are drawn, pushed out, or too old.",
    curves: [
      { name: rate("insert"), label: "inserted" },
      { name: rate("sample"), label: "drawn" },
      { name: rate("duplicate"), label: "duplicates" },
      { name: rate("evict"), label: "pushed out" },
      { name: rate("expired"), label: "too old" },
      { name: rate("arrival"), label: "arrived" },
    ],
  },
  {
    id: "per_insert",
    title: "Samples per insert",
    unit: "1",
    note: "How often each arrival was drawn since the run began, against what the recipe asks for.",
    curves: [{ name: "buffer.draws_per_insert", label: "draws per arrival" }],
    levels: ({ limits }) =>
      limits.samples_per_insert ? [{ value: limits.samples_per_insert, label: "asked for", include: true }] : [],
  },
  {
    id: "ess",
    title: "Effective number of priorities",
    unit: "trajectories",
    log: true,
    note: "As if so many trajectories were drawn evenly.",
    curves: [{ name: "buffer.priority_ess", label: "ESS" }],
  },
  { id: "age", title: "Mean age", unit: "s", curves: [{ name: "buffer.mean_age_s", label: "mean age" }] },
  {
    id: "fresh",
    title: "Fresh ones waiting",
    unit: "trajectories",
    curves: [{ name: "buffer.fresh_waiting", label: "waiting to be drawn once" }],
  },
  {
    id: "unique",
    title: "Different strings among arrivals",
    unit: "share",
    curves: [{ name: "buffer.unique_ratio", label: "unique" }],
  },
  {
    id: "refused",
    title: "Refused",
    unit: "trajectories",
    match: /^buffer\.(refused\.|quarantined$)/,
    label: (entry) => entry.title,
    note: "In all, by reason.",
    none: "no refusals",
  },
];

const HISTOGRAMS = [
  [
    "priority_histogram",
    {
      title: "Priorities",
      unit: "trajectories",
      log: true,
      note: "What replay draws in proportion to.",
      xTitle: "priority",
    },
  ],
  ["reward_histogram", { title: "log R in the buffer", unit: "trajectories", log: true, xTitle: "log R, nats" }],
  [
    "staleness_histogram",
    {
      title: "Staleness of what is drawn",
      unit: "trajectories",
      log: true,
      note: "Versions between the policy that wrote a string and the newest, when it was drawn.",
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
    h("h2", {}, "What is in it now"),
    shapes,
    h("h2", {}, "Over time"),
    board.bar,
    cards,
    h("h2", {}, "Refused and set aside"),
    lists,
  );
  for (const spec of SPECS) board.add(cards, spec);
  facts.hidden = true;

  const panel = new Panel(
    state,
    () => ["buffer", { run: live.run }],
    (answer) => {
      put(
        state,
        answer.error && status("stale", answer.error, "Shown is the last reading."),
        !answer.now && nothingYet(live.overview, "no readings of the buffer"),
      );
      facts.hidden = !answer.now;
      if (answer.now) showFacts(facts, answer);
      for (const [name, spec, plot] of plots) {
        const model = histogram(answer[name] ?? [], spec);
        if (model) plot.set(model);
        else plot.show(nothingYet(live.overview, "no trajectories to count"));
      }
      showLists(lists, answer);
    },
  );
  return together([panel, board], {
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
    ["pushed out", plain(now.evicted)],
    ["drawn", plain(now.drawn)],
    ["samples per insert", number(now.draws_per_insert)],
    ["inserted", number(rates?.insert_rate, "1/s")],
    ["drawn", number(rates?.sample_rate, "1/s")],
    ["ESS of priorities", `${number(now.priority_ess)} (${number(now.ess_share, "share")})`],
    ["mean age", duration(age?.mean_s)],
    ["oldest", duration(age?.oldest_s)],
    ["set aside", plain(now.quarantined)],
  ];
  const read = error
    ? `The last reading, of ${clock(at)}.`
    : source === "redis"
      ? `Read from Redis at ${clock(at)}.`
      : `As the run wrote it at ${clock(at)}.`;
  const fill = h("meter", { min: 0, max: 1, value: Math.min(1, now.fill), "aria-label": "Fill of the buffer" });
  renew(
    host,
    fill,
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
    pace && h("p", {}, shown(pace.sentence, 400)),
    h("p", { class: "note" }, read),
  );
}

function showLists(host, { refused, quarantine }) {
  const reasons = Object.entries(refused ?? {}).filter(([, n]) => n > 0);
  const some = reasons.length
    ? table(
        ["reason", "trajectories"],
        reasons.map(([reason, n]) => [shown(reason, 120), plain(n)]),
      )
    : status("empty", "Nothing was refused.");
  const aside = quarantine?.length
    ? table(
        ["when", "reason", "id"],
        quarantine.map((one) => [clock(one.at), shown(one.reason, 300), plainly(one.id, 12)]),
        "",
        [false, false, false],
      )
    : status("empty", "Nothing is in quarantine.");
  renew(
    host,
    h("section", { class: "card" }, h("h3", {}, "Refused by reason"), some),
    h("section", { class: "card" }, h("h3", {}, "Quarantine, newest first"), scroller("Quarantine", aside)),
  );
}
