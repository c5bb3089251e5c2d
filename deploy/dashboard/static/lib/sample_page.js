// One sample by itself: its prompt, its tokens, a plot and a table of its prefixes, and where else the same string was noted.

import { h, put, scroller } from "./dom.js";
import { clock, number, plain } from "./format.js";
import { Plot } from "./plot.js";
import { promptCard } from "./prompt_card.js";
import { facts } from "./sample_row.js";
import { link } from "./state.js";
import { table } from "./table.js";
import { plainly, shown } from "./text.js";
import { scale, tokens } from "./tokens.js";

/** Fill `host`; gives a function that ends what was begun. */
export function showOne(host, sample, mode, run, told) {
  const known = sample.u.length > 0;
  const along = known
    ? [
        plotOf(
          "u by prefix",
          "nats",
          sample.u,
          "u_i",
          "Each is an estimate of log Z; at the posterior the line is flat.",
        ),
        rewardPlot(sample),
      ]
    : [];
  put(
    host,
    promptCard(sample.prompt?.text ?? sample.prompt_id),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Response"),
      known && scale(mode),
      tokens(sample, mode, told),
      h(
        "p",
        { class: "facts-line" },
        facts(sample).map(([name, value]) => h("span", {}, `${name} `, h("b", {}, value))),
        h("span", {}, "noted ", h("b", {}, clock(sample.at))),
      ),
    ),
    h(
      "div",
      { class: "cards" },
      along.map((plot) => plot.element),
    ),
    known &&
      h(
        "section",
        { class: "card" },
        h("h2", {}, "Prefix by prefix"),
        scroller("Prefix by prefix", prefixTable(sample)),
      ),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "The same string elsewhere"),
      scroller("The same string elsewhere", elsewhere(sample.same_string ?? [], run)),
    ),
  );
  return () => along.forEach((plot) => plot.close());
}

function plotOf(title, unit, values, label, note) {
  const plot = new Plot({ title, unit, note });
  plot.set({
    ...positions(values),
    ys: [values.map((value) => value ?? undefined)],
    series: [{ label, kind: "line", n: 0, dash: [] }],
    now: number(values.at(-1), unit),
  });
  return plot;
}

function rewardPlot(sample) {
  const terms = Object.entries(sample.terms),
    more = terms.length > 1 ? terms : [];
  const plot = new Plot({ title: "log R of stopping after each prefix", unit: "nats" });
  const text = (values) => number(values.at(-1));
  plot.set({
    ...positions(sample.log_reward_prefix),
    ys: [sample.log_reward_prefix, ...more.map(([, values]) => values)],
    series: [
      { label: "log R", kind: "line", n: 0, dash: [], width: 2.2 },
      ...more.map(([name], n) => ({ label: plainly(name, 40), kind: "line", n: n + 1 })),
    ],
    values: [text(sample.log_reward_prefix), ...more.map(([, values]) => text(values))],
    now: number(sample.log_reward, "nats"),
  });
  return plot;
}

function positions(values) {
  return {
    x: values.map((_, i) => i),
    xTitle: "tokens",
    xText: (value) => (Number.isInteger(value) ? plain(value) : ""),
  };
}

function prefixTable(sample) {
  const terms = Object.keys(sample.terms);
  const rows = sample.log_reward_prefix.map((reward, i) => [
    plain(i),
    i === 0 ? h("span", { class: "note" }, "(nothing yet)") : shown(sample.pieces[i - 1], 60),
    i === 0 ? "–" : sample.is_action[i - 1] === false ? "tool" : plain(sample.log_pf[i - 1]),
    plain(sample.log_pterm[i]),
    plain(reward),
    ...terms.map((name) => plain(sample.terms[name][i])),
    sample.u[i] === null ? "not defined" : plain(sample.u[i]),
  ]);
  const columns = [
    "tokens",
    "last token",
    "log q of it",
    "log q(stop)",
    "log R",
    ...terms.map((name) => plainly(name, 30)),
    "u",
  ];
  return table(
    columns,
    rows,
    "All in nats.",
    columns.map((_, n) => n !== 1),
  );
}

function elsewhere(list, run) {
  if (!list.length) return h("p", { class: "note" }, "It was noted this once.");
  const rows = list.map((one) => [
    h("a", { href: link("samples", { run, id: one.id }) }, `step ${plain(one.step)}`),
    plain(one.policy_version),
    plainly(one.behaviour ?? "", 40),
    plain(one.log_q),
    plain(one.log_reward),
  ]);
  return table(["noted at", "version", "behaviour", "log q", "log R"], rows, "", [false, true, false, true, true]);
}
