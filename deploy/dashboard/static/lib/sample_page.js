// One sample: its prompt, its tokens, plots and a table of its prefixes, and other samples of the same string.

import { h, put, scroller } from "./dom.js";
import { clock, number, plain } from "./format.js";
import { explained, GLOSSARY } from "./glossary.js";
import { Plot } from "./plot.js";
import { promptCard } from "./prompt_card.js";
import { facts } from "./sample_row.js";
import { link } from "./state.js";
import { table } from "./table.js";
import { oneLine, safeText } from "./text.js";
import { colourKey, tokens } from "./tokens.js";

/** Fill `host`; returns a function that closes the plots. */
export function showOne(host, sample, mode, run, onToken) {
  const hasPrefixes = sample.u.length > 0;
  const plots = hasPrefixes
    ? [
        plotOf(
          "u by prefix",
          "nats",
          sample.u,
          "u_i",
          `u: ${GLOSSARY.u}, so the line is flat there.`,
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
      hasPrefixes && colourKey(mode),
      tokens(sample, mode, onToken),
      h(
        "p",
        { class: "facts-line" },
        facts(sample).map(([name, value]) => h("span", {}, explained(name), " ", h("b", {}, value))),
        h("span", {}, "recorded ", h("b", {}, clock(sample.at))),
      ),
    ),
    h(
      "div",
      { class: "cards" },
      plots.map((plot) => plot.element),
    ),
    hasPrefixes &&
      h(
        "section",
        { class: "card" },
        h("h2", {}, "Prefix by prefix"),
        scroller("Prefix by prefix", prefixTable(sample)),
      ),
    h(
      "section",
      { class: "card" },
      h("h2", {}, "Other samples of this string"),
      scroller("Other samples of this string", elsewhere(sample.same_string ?? [], run)),
    ),
  );
  return () => plots.forEach((plot) => plot.close());
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
      ...more.map(([name], n) => ({ label: oneLine(name, 40), kind: "line", n: n + 1 })),
    ],
    values: [text(sample.log_reward_prefix), ...more.map(([, values]) => text(values))],
    now: number(sample.log_reward, "nats"),
  });
  return plot;
}

function positions(values) {
  return {
    x: values.map((_, i) => i),
    xTitle: "prefix length, tokens",
    xText: (value) => (Number.isInteger(value) ? plain(value) : ""),
  };
}

function prefixTable(sample) {
  const terms = Object.keys(sample.terms);
  const rows = sample.log_reward_prefix.map((reward, i) => [
    plain(i),
    i === 0 ? h("span", { class: "note" }, "(empty prefix)") : safeText(sample.pieces[i - 1], 60),
    i === 0 ? "–" : sample.is_action[i - 1] === false ? "tool" : plain(sample.log_pf[i - 1]),
    plain(sample.log_pterm[i]),
    plain(reward),
    ...terms.map((name) => plain(sample.terms[name][i])),
    sample.u[i] === null ? "undefined" : plain(sample.u[i]),
  ]);
  const columns = [
    "tokens",
    "last token",
    "log q(token)",
    "log q(⊤)",
    "log R",
    ...terms.map((name) => oneLine(name, 30)),
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
  if (!list.length) return h("p", { class: "note" }, "It was recorded once only.");
  const rows = list.map((one) => [
    h("a", { href: link("samples", { run, id: one.id }) }, `step ${plain(one.step)}`),
    plain(one.policy_version),
    oneLine(one.behaviour ?? "", 40),
    plain(one.log_q),
    plain(one.log_reward),
  ]);
  return table(["recorded at", "version", "behaviour", "log q", "log R"], rows, "", [false, true, false, true, true]);
}
