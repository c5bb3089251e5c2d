// How the run stands now: one sentence on what it waits for, the figures that matter, alerts.

import { Board } from "../lib/board.js";
import { h, put, renew, scroller } from "../lib/dom.js";
import { fact, factList } from "../lib/facts.js";
import { clock, duration, number, plain, utc } from "../lib/format.js";
import { explained } from "../lib/glossary.js";
import { showResult } from "../lib/result_card.js";
import { status } from "../lib/status.js";
import { oneLine, safeText } from "../lib/text.js";
import { levelLabel, stateLabel } from "../lib/labels.js";

const ARROWS = { lower: "lower is better", higher: "higher is better" };

export function render(root, live, params) {
  const current = h("div", {}),
    figures = h("dl", { class: "figures" }),
    alerts = h("section", { "aria-label": "Alerts" }),
    parts = h("section", { class: "card" });
  const cards = h("div", { class: "cards" }),
    result = h("section", { class: "card", "aria-label": "Result", hidden: true });
  const board = new Board(live, params);
  root.append(
    alerts,
    h("section", { class: "card" }, current),
    result,
    figures,
    h("p", { class: "note" }, "Means over the newest samples, with 95 % intervals; below, the first samples and the evaluation."),
    h("h2", {}, "Over time"),
    board.bar,
    cards,
    parts,
  );
  let shownCurves = "";

  const show = () => {
    const overview = live.overview;
    if (!overview) return void put(current, status("loading", "Loading …"));
    showNow(current, overview);
    showResult(result, live.run, overview.result);
    showFigures(figures, overview);
    showAlerts(alerts, overview.alerts);
    showParts(parts, overview);
    const curves = overview.figures.map((figure) => figure.curve).join();
    if (curves !== shownCurves) {
      shownCurves = curves;
      for (const { plot } of board.cards.splice(0)) plot.close();
      put(cards);
      for (const spec of specs(overview)) board.add(cards, spec);
      board.load();
    }
  };
  live.addEventListener("overview", show);
  show();
  return {
    tick: () => board.tick(),
    reset: () => board.load(),
    change: (next) => board.change(next),
    close: () => {
      live.removeEventListener("overview", show);
      board.close();
    },
  };
}

function specs(overview) {
  return [
    ...overview.figures.map(({ name, curve, unit }) => ({ id: name, figure: curve, unit })),
    { id: "trajectories", figure: "system.trajectories_per_s" },
    { id: "tokens", figure: "system.tokens_per_s" },
  ];
}

function showNow(host, overview) {
  const { bottleneck, step, steps, rates } = overview;
  const active = ["starting", "running", "judging", "empty", "stale"].includes(overview.state);
  const bar = steps && active
    ? h("progress", { max: steps, value: Math.min(step ?? 0, steps), "aria-label": "Learner steps done" })
    : null;
  const left = overview.left_s === null ? "unknown yet" : duration(overview.left_s);
  const facts = [
    ["step", steps ? `${plain(step)} of ${plain(steps)}` : plain(step)],
    active && ["time left", left],
    ["time elapsed", duration(overview.elapsed_s)],
    ...(active ? speeds(rates) : []),
  ].filter(Boolean);
  const [mark, words, kind] = stateLabel(overview.state);
  renew(
    host,
    h(
      "p",
      { class: `lead ${kind}` },
      h("span", { "aria-hidden": "true" }, `${mark} `),
      safeText(overview.sentence ?? words, 400),
    ),
    bottleneck && h("p", {}, h("b", {}, safeText(bottleneck.sentence, 400))),
    bottleneck && h("p", { class: "note" }, safeText(bottleneck.change, 400)),
    overview.waits.map((wait) => h("p", { class: "note" }, "◐ ", safeText(wait, 300))),
    bar,
    factList(facts),
    h("p", { class: "note", title: utc(overview.updated_at) }, `Newest reading: ${clock(overview.updated_at)}.`),
  );
}

/** A run that has ended has no speed. */
function speeds(rates) {
  return [
    fact("system.trajectories_per_s", rates?.trajectories_per_s),
    fact("system.tokens_per_s", rates?.tokens_per_s),
    ["learner steps", number(rates?.steps_per_s, "1/s")],
  ];
}

function showFigures(host, overview) {
  const figure = (one) => {
    const text = (value) => (one.unit === "share" ? number(value, "share") : plain(value, 3));
    const value = one.value === null ? "unknown yet" : number(Number(one.value.toPrecision(3)), one.unit);
    const facts = [
      one.low !== null && `[${text(one.low)}, ${text(one.high)}], ${plain(one.samples)} samples`,
      one.before !== null && `first ${text(one.before)}`,
      one.evaluated && `evaluation ${evaluated(one)}`,
      ARROWS[one.better],
    ];
    return h(
      "div",
      { class: "card figure" },
      h("dt", {}, explained(oneLine(one.title, 40))),
      h("dd", { class: "big" }, value),
      facts.filter(Boolean).map((fact) => h("dd", { class: "small" }, fact)),
    );
  };
  put(host, overview.figures.map(figure));
}

function evaluated({ evaluated: { before, after }, unit }) {
  const text = (value) => (unit === "share" ? number(value, "share") : plain(value, 3));
  return [before, after].map(({ value }) => (value === null ? "n/a" : text(value))).join(" → ");
}

function showAlerts(host, alerts) {
  const alert = (one) => {
    const [mark, words, kind] = levelLabel(one.level);
    return h(
      "div",
      { class: `alert ${kind}` },
      h(
        "h3",
        {},
        h("span", { "aria-hidden": "true" }, mark),
        h("span", { class: "aside" }, `${words}: `),
        safeText(one.what, 400),
      ),
      one.cause && h("p", {}, "Cause: ", safeText(one.cause, 600)),
      one.remedy && h("p", {}, "Remedy: ", safeText(one.remedy, 600)),
      h("p", { class: "note" }, `Since ${clock(one.since)}.`),
    );
  };
  const key = JSON.stringify(alerts);
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  put(host, alerts.map(alert));
}

function showParts(host, overview) {
  const row = (part) => {
    const [mark, words, kind] = stateLabel(part.state);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, oneLine(part.name, 40)),
      h("td", { class: kind }, h("span", { "aria-hidden": "true" }, `${mark} `), words),
      h("td", { class: "words" }, safeText(part.detail ?? "", 200)),
    );
  };
  const quiet = overview.alerts.length ? null : h("p", { class: "note" }, "✓ No alerts.");
  const heads = h(
    "thead",
    {},
    h(
      "tr",
      {},
      ["part", "state", "now"].map((text) => h("th", { scope: "col" }, text)),
    ),
  );
  const rows = overview.components.map(row);
  renew(
    host,
    h("h2", {}, "Parts"),
    rows.length
      ? scroller("Parts of the run", h("table", { class: "full" }, heads, h("tbody", {}, rows)))
      : status("empty", "No part of the run has reported yet."),
    quiet,
  );
}
