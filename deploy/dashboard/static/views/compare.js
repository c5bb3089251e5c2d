// Several runs side by side: their curves in one plot, what differs in their configuration and in their results.

import { align, last } from "../lib/align.js";
import { get } from "../lib/api.js";
import { h, put, scroller } from "../lib/dom.js";
import { duration, number, plain } from "../lib/format.js";
import { Plot } from "../lib/plot.js";
import { texts } from "../lib/plot_words.js";
import { change } from "../lib/state.js";
import { failure, status } from "../lib/status.js";
import { table } from "../lib/table.js";
import { plainly, shown } from "../lib/text.js";
import { state as words } from "../lib/words.js";

const MOST_RUNS = 8;
const FIRST = [
  "learner.loss",
  "learner.var_u",
  "learner.log_reward",
  "learner.diversity",
  "learner.kl_estimate",
  "system.trajectories_per_s",
];
const MOST_CURVES = 12;

export function render(root, live, params) {
  let now = params,
    asked = 0,
    plots = [];
  const choice = h("fieldset", { class: "card" }),
    bar = h("div", { class: "toolbar" }),
    state = h("div", {}),
    cards = h("div", { class: "cards" }),
    tables = h("div", {});
  root.append(choice, state, bar, cards, tables);

  async function load() {
    const turn = (asked += 1);
    put(state, status("loading", "Loading …"));
    try {
      const { runs } = await get("runs");
      const chosen = choose(runs, now.runs, live.run);
      showChoice(choice, runs, chosen);
      if (chosen.length < 2)
        return show(
          turn,
          null,
          status(
            "empty",
            runs.length < 2 ? "Only one run is known here." : "Choose two runs or more.",
            "tributary dashboard --run DIR --run DIR names several; those that lie beside the first are found by themselves.",
          ),
        );
      const answer = await get("compare", { runs: chosen.join(",") });
      const names = namesOf(answer.curves, now.curves);
      const x = now.x === "time" ? "time" : "step";
      const curves = names.length
        ? await Promise.all(chosen.map((run) => get("curves", { run, names: names.join(","), x })))
        : [];
      return show(turn, { answer, names, curves, x });
    } catch (error) {
      return show(turn, null, failure(error));
    }
  }

  function show(turn, found, said = null) {
    if (turn !== asked) return;
    put(state, said);
    for (const plot of plots) plot.close();
    plots = [];
    put(cards);
    put(bar);
    put(tables);
    if (!found) return;
    put(bar, axisButtons(found.x), curvePicker(found.answer.curves, found.names));
    for (const name of found.names) plots.push(overlay(cards, name, found));
    if (!found.names.length) put(state, status("empty", "No curve is in two of these runs."));
    put(tables, differences(found.answer));
  }

  load();
  return {
    reset: load,
    change: (next) => {
      const before = JSON.stringify([now.runs, now.curves, now.x]);
      now = next;
      if (JSON.stringify([now.runs, now.curves, now.x]) !== before) load();
    },
    close: () => {
      asked += 1;
      for (const plot of plots) plot.close();
    },
  };
}

/** The runs that the address names, or the open one and its neighbours. */
function choose(runs, text, open) {
  const known = new Set(runs.map((run) => run.id));
  if (text !== undefined)
    return text
      .split(",")
      .filter((id) => known.has(id))
      .slice(0, MOST_RUNS);
  return [open, ...runs.map((run) => run.id).filter((id) => id !== open)].filter((id) => known.has(id)).slice(0, 3);
}

function namesOf(all, text) {
  const wanted = text ? text.split(",") : FIRST;
  return wanted.filter((name) => all.includes(name)).slice(0, MOST_CURVES);
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
          .slice(0, MOST_RUNS)
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
        ` ${plainly(run.name, 40)} `,
        h(
          "span",
          { class: "note" },
          `${words(run.state)[1]}, step ${plain(run.step)} of ${plain(run.steps)}, ${plainly(run.task ?? "", 30)}`,
        ),
      ),
    );
  put(host, h("legend", {}, `Runs (2 to ${MOST_RUNS})`), h("ul", {}, runs.map(box)));
}

function axisButtons(x) {
  const button = (value, text) =>
    h(
      "button",
      { type: "button", class: "quiet", "aria-pressed": String(x === value), onclick: () => change({ x: value }) },
      text,
    );
  return h(
    "span",
    { class: "group", role: "group", "aria-label": "Horizontal axis" },
    button("step", "by step"),
    button("time", "by time"),
  );
}

function curvePicker(all, names) {
  const rest = all.filter((name) => !names.includes(name));
  const select = h(
    "select",
    { onchange: () => change({ curves: [...names, select.value].join(",") }) },
    h("option", { value: "" }, "add a curve …"),
    rest.map((name) => h("option", { value: name }, plainly(name, 60))),
  );
  const whole = h("button", { type: "button", class: "quiet", onclick: () => change({ curves: "" }) }, "first choice");
  return [h("label", {}, h("span", { class: "aside" }, "Add a curve"), select), whole];
}

function overlay(host, name, { answer, curves, x }) {
  const there = answer.runs
    .map((run, n) => ({ run, n, curve: curves[n].curves[name] }))
    .filter(({ curve }) => curve?.x.length);
  const { title = name, unit = "1" } = there[0]?.curve ?? {};
  const plot = new Plot(
    { id: name, title: plainly(title, 60), unit, log: true },
    { sync: "compare", logY: unit === "nats²" },
  );
  host.append(plot.element);
  if (!there.length) {
    plot.show(status("empty", "None of these runs has points of it."));
    return plot;
  }
  const { x: xs, ys } = align(there.map(({ curve }) => curve));
  plot.set({
    x: xs,
    ys,
    series: there.map(({ run, n }) => ({ label: plainly(run.name, 40), kind: "line", n })),
    marks: there.flatMap(({ curve }) => curve.x.filter((_, i) => curve.y[i] === null)),
    xTitle: x,
    xText: x === "time" ? duration : plain,
    yText: texts(unit),
    values: there.map(({ curve }) => texts(unit)(curve.last ?? last(curve.y))),
    now: there.length === 1 ? number(there[0].curve.last, unit) : "",
  });
  return plot;
}

function differences({ runs, config, same_fields: same, summary }) {
  const names = runs.map((run) => plainly(run.name, 40));
  const value = (one) =>
    one === null
      ? h("span", { class: "note" }, "not there")
      : shown(typeof one === "string" ? one : JSON.stringify(one), 120);
  const fields = config.map((row) => [shown(row.field, 80), ...row.values.map(value)]);
  const figures = summary.map((row) => [
    shown(row.figure, 80),
    ...row.values.map((one) => (typeof one === "number" ? plain(one) : value(one))),
  ]);
  const part = (heading, column, rows, none, caption) =>
    h(
      "section",
      { class: "card" },
      h("h2", {}, heading),
      rows.length ? scroller(heading, table([column, ...names], rows, caption)) : status("empty", none),
    );
  return h(
    "div",
    { class: "columns" },
    part(
      "Configuration",
      "field",
      fields,
      "Their configurations are the same.",
      `${plain(same)} fields are the same in all.`,
    ),
    part("Results", "figure", figures, "None of them has a summary yet."),
  );
}
