// The compare view: curves of several runs in one plot, runs of several seeds as one line with a band, and the
// differences of their configurations and results.

import { align } from "../lib/align.js";
import { get } from "../lib/api.js";
import { AXES, axisButtons, axisOf, smoothed, smoothingOf, smoothingSelect } from "../lib/axes.js";
import { newestText } from "../lib/curve_model.js";
import { compareTables } from "../lib/compare_tables.js";
import { h, put } from "../lib/dom.js";
import { aimLevels, describe, heading } from "../lib/figures.js";
import { number, plain } from "../lib/format.js";
import { Plot } from "../lib/plot.js";
import { valueText } from "../lib/plot_text.js";
import { seedButton, seedGroups, spread } from "../lib/seeds.js";
import { change } from "../lib/state.js";
import { errorStatus, status } from "../lib/status.js";
import { oneLine } from "../lib/text.js";
import { stateLabel } from "../lib/labels.js";

const MAX_RUNS = 8;
const DEFAULT_CURVES = [
  "learner.loss",
  "learner.var_u",
  "learner.log_reward",
  "learner.diversity",
  "learner.kl_estimate",
  "system.trajectories_per_s",
];
const MAX_CURVES = 12;
const EDGES = ["high", "low"]; // of a band, drawn behind its mean

export function render(root, live, params) {
  let current = params,
    turn = 0,
    plots = [];
  const choice = h("fieldset", { class: "card" }),
    bar = h("div", { class: "toolbar" }),
    state = h("div", {}),
    cards = h("div", { class: "cards" }),
    tables = h("div", {});
  root.append(choice, state, tables, bar, cards);

  async function load() {
    const thisTurn = (turn += 1);
    put(state, status("loading", "Loading …"));
    try {
      const { runs } = await get("runs");
      const chosen = choose(runs, current.runs, live.run);
      showChoice(choice, runs, chosen);
      if (chosen.length < 2)
        return show(
          thisTurn,
          null,
          status(
            "empty",
            runs.length < 2 ? "There is only one run." : "Choose at least two runs.",
            "Open several with tributary dashboard --run DIR --run DIR; runs next to the first one are found automatically.",
          ),
        );
      const response = await get("compare", { runs: chosen.join(",") });
      const names = namesOf(response.curves, current.curves);
      const x = axisOf(current);
      const curves = names.length
        ? await Promise.all(chosen.map((run) => get("curves", { run, names: names.join(","), x })))
        : [];
      const groups = seedGroups(response.config, chosen.length);
      return show(thisTurn, { response, names, curves, x, smoothing: smoothingOf(current), groups, together: current.seeds !== "apart" });
    } catch (error) {
      return show(thisTurn, null, errorStatus(error));
    }
  }

  function show(ofTurn, comparison, message = null) {
    if (ofTurn !== turn) return;
    put(state, message);
    for (const plot of plots) plot.close();
    plots = [];
    put(cards);
    put(bar);
    put(tables);
    if (!comparison) return;
    const seeds = comparison.groups.some((group) => group.length > 1) ? seedButton(comparison.together) : null;
    put(
      bar,
      axisButtons(comparison.x),
      smoothingSelect(comparison.smoothing),
      seeds,
      curvePicker(comparison.response.curves, comparison.names),
    );
    for (const name of comparison.names) plots.push(overlay(cards, name, comparison));
    if (!comparison.names.length) put(state, status("empty", "No two of these runs have a curve in common."));
    put(tables, compareTables(comparison.response, current.sort));
  }

  load();
  return {
    reset: load,
    change: (next) => {
      const read = ({ runs, curves, x, smooth, seeds, sort }) => JSON.stringify([runs, curves, x, smooth, seeds, sort]);
      const before = read(current);
      current = next;
      if (read(current) !== before) load();
    },
    close: () => {
      turn += 1;
      for (const plot of plots) plot.close();
    },
  };
}

/** The runs that the address names, or the open run and the next two. */
function choose(runs, text, open) {
  const ids = new Set(runs.map((run) => run.id));
  if (text !== undefined)
    return text
      .split(",")
      .filter((id) => ids.has(id))
      .slice(0, MAX_RUNS);
  return [open, ...runs.map((run) => run.id).filter((id) => id !== open)].filter((id) => ids.has(id)).slice(0, 3);
}

function namesOf(all, text) {
  const names = text ? text.split(",") : DEFAULT_CURVES;
  return names.filter((name) => all.includes(name)).slice(0, MAX_CURVES);
}

function showChoice(host, runs, chosen) {
  const picked = new Set(chosen);
  const toggle = (id, on) => {
    if (on) picked.add(id);
    else picked.delete(id);
    change({
      runs:
        runs
          .map((run) => run.id)
          .filter((one) => picked.has(one))
          .slice(0, MAX_RUNS)
          .join(",") || "none",
    });
  };
  const box = (run) =>
    h(
      "li",
      {},
      h(
        "label",
        {},
        h("input", {
          type: "checkbox",
          checked: picked.has(run.id),
          onchange: (event) => toggle(run.id, event.target.checked),
        }),
        ` ${oneLine(run.name, 40)} `,
        h(
          "span",
          { class: "note" },
          `${stateLabel(run.state)[1]}, step ${plain(run.step)} of ${plain(run.steps)}, ${oneLine(run.task ?? "", 30)}`,
        ),
      ),
    );
  put(host, h("legend", {}, `Runs (2 to ${MAX_RUNS})`), h("ul", {}, runs.map(box)));
}

function curvePicker(all, names) {
  const unused = all.filter((name) => !names.includes(name));
  const select = h(
    "select",
    { onchange: () => change({ curves: [...names, select.value].join(",") }) },
    h("option", { value: "" }, "add a curve …"),
    unused.map((name) => h("option", { value: name }, oneLine(name, 60))),
  );
  const reset = h("button", { type: "button", class: "quiet", onclick: () => change({ curves: "" }) }, "default curves");
  return [h("label", {}, h("span", { class: "aside" }, "Add a curve"), select), reset];
}

function overlay(host, name, { response, curves, x, smoothing, groups, together }) {
  const members = (together ? groups : response.runs.map((_, n) => [n]))
    .map((group) => group.map((n) => ({ run: response.runs[n], n, curve: curves[n].curves[name] })))
    .map((group) => group.filter(({ curve }) => curve?.x.length))
    .filter((group) => group.length);
  const { unit, log, meaning } = describe(name);
  const plot = new Plot({ id: name, title: heading(name), unit, note: meaning, log: true }, { sync: "compare", logY: log });
  host.append(plot.element);
  if (!members.length) {
    plot.show(status("empty", "None of these runs has points of this curve."));
    return plot;
  }
  const lines = members.flatMap((group) => linesOf(group, name, valueText(unit)));
  const { x: xs, ys } = align(lines.map(({ curve }) => curve));
  const model = {
    x: xs,
    ys,
    series: lines.map(({ series }, k) => (series.role ? { ...series, of: k - EDGES.indexOf(series.role) - 1 } : series)),
    bands: lines.flatMap(({ series }, k) =>
      series.role === "high" ? [{ upper: k, lower: k + 1, n: series.n, opacity: 0.16 }] : [],
    ),
    marks: members.flat().flatMap(({ curve }) => curve.x.filter((_, i) => curve.y[i] === null)),
    levels: aimLevels(name),
    xTitle: AXES[x].title,
    xText: AXES[x].value,
    yText: valueText(unit),
    values: lines.map(({ value }) => value),
    now: lines.length === 1 ? newestText({ name, ...lines[0].curve }, (value) => number(value, unit)) : "",
  };
  plot.set(smoothed(model, smoothing));
  return plot;
}

/** What is drawn of a group of runs: the curve of a run, or the mean of several, the highest and the lowest of them. */
function linesOf(group, name, text) {
  const [{ run, n }] = group;
  const all = group.length > 1 ? spread(group.map((one) => one.curve)) : null;
  if (!all)
    return group.map((one) => ({
      curve: one.curve,
      series: { label: oneLine(one.run.name, 40), kind: "line", n: one.n },
      value: newestText({ name, ...one.curve }, text),
    }));
  const label = `${oneLine(run.name, 40)}, mean of ${group.length} seeds`;
  const edge = (role) => ({
    curve: all[role],
    series: { label: `${label}, ${role}`, kind: "line", n, quiet: true, opacity: 0.25, role },
    value: "",
  });
  return [{ curve: all.mean, series: { label, kind: "line", n }, value: text(all.mean.y.at(-1)) }, ...EDGES.map(edge)];
}
