// The posterior view: log q against log R, bounds of log Z, and the estimates u of log Z by prefix.

import { Board } from "../lib/board.js";
import { h, put, renew } from "../lib/dom.js";
import { number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { prefixModel, scatterModel } from "../lib/posterior_plots.js";
import { GLOSSARY, explained, glossary } from "../lib/glossary.js";
import { promptSelect } from "../lib/prompt_select.js";
import { change } from "../lib/state.js";
import { emptyStatus, status } from "../lib/status.js";
import { composite } from "../lib/composite.js";

const STEPS = [5, 20, 100, 500];
const exact = ({ limits }) =>
  limits.log_z_exact === null || limits.log_z_exact === undefined
    ? []
    : [{ value: limits.log_z_exact, label: "exact log Z", include: true }];
const one = (id, title, unit, name, more = {}) => ({ id, title, unit, curves: [{ name, label: title }], ...more });
const optimum = (value) => () => [{ value, label: "optimum", include: true }];

const SPECS = [
  {
    id: "log_z",
    title: "log Z, all prompts",
    unit: "nats",
    note: `log Z: ${GLOSSARY["log Z"]}. The lower bound is the mean of log R / T − log q over on-policy samples; the upper curve averages importance weights. They meet at the posterior.`,
    curves: [
      { name: "learner.log_z_mean", label: "by importance weights" },
      { name: "learner.log_z_lower", label: "lower bound" },
      { name: "learner.log_z", label: "of the objective" },
    ],
    levels: exact,
  },
  one("var_u", "Var(u)", "nats²", "learner.var_u", { log: true, logFirst: true, note: `u: ${GLOSSARY.u}, where Var(u) is 0.` }),
  one("kl_estimate", "KL(q ‖ p), estimate", "nats", "learner.kl_estimate", {
    log: true,
    note: "The gap between the two bounds of log Z.",
  }),
  one("ess", "Effective sample size", "share", "learner.ess", {
    note: "Of the importance weights R^(1/T) / q; 100 % at the posterior.",
    levels: optimum(1),
  }),
  one("slope", "Slope of log q on log R", "1", "learner.slope", { levels: optimum(1) }),
  one("correlation", "Correlation of log q and log R", "1", "learner.correlation"),
  one("tv", "Total variation", "share", "learner.total_variation", {
    log: true,
    sparse: true,
    note: "Exact; computed at some steps, and only if the task can list its strings.",
    none: "no exact distances (they need a task that lists its strings)",
  }),
  one("kl", "KL, exact", "nats", "learner.kl", {
    log: true,
    sparse: true,
    none: "no exact distances (they need a task that lists its strings)",
  }),
  {
    id: "prompts_low",
    title: "log Z, lower bound of each prompt",
    unit: "nats",
    match: /^prompt\..*\.log_z_lower$/,
    label: promptOf,
    levels: exact,
  },
  {
    id: "prompts_mean",
    title: "log Z by importance weights, each prompt",
    unit: "nats",
    match: /^prompt\..*\.log_z_mean$/,
    label: promptOf,
    levels: exact,
  },
];

function promptOf(entry) {
  return entry.name.replace(/^prompt\.(.*)\.log_z_\w+$/, "$1");
}

export function render(root, live, params) {
  const board = new Board(live, params);
  let { prompt, steps } = params;
  const select = promptSelect(live.run, prompt);
  const window_ = h(
    "select",
    { onchange: () => change({ steps: window_.value }) },
    STEPS.map((n) => h("option", { value: n }, `newest ${n} recorded steps`)),
  );
  window_.value = steps ?? "20";
  const facts = h("section", { class: "card wide" }),
    state = h("div", {}),
    shapes = h("div", { class: "cards pair" }),
    cards = h("div", { class: "cards" });
  const scatter = new Plot({
    title: "log q against log R",
    unit: "nats",
    height: 300,
    note: "At the posterior the points lie on a line of slope 1: log q = log R / T − log Z.",
  });
  const prefixes = new Plot({
    title: "u by position in the string",
    unit: "nats",
    height: 300,
    note: `u: ${GLOSSARY.u}. u_i = log R(z_1:i ⊤) / T − log q(⊤ | z_1:i) − log q(z_1:i).`,
  });
  shapes.append(scatter.element, prefixes.element);
  root.append(
    h("div", { class: "filters" }, select.element, h("label", {}, "Samples of", window_)),
    glossary(),
    state,
    facts,
    shapes,
    h("h2", {}, "Over time"),
    board.bar,
    cards,
  );
  for (const spec of SPECS) board.add(cards, spec);
  facts.hidden = true;

  const panel = new Panel(
    state,
    () => ["posterior", { run: live.run, prompt, steps }],
    (response) => {
      facts.hidden = false;
      showFacts(facts, response);
      const points = scatterModel(response);
      if (points) scatter.set(points);
      else scatter.show(emptyStatus(live.overview, "no recorded samples"));
      const lines = prefixModel(response);
      if (lines) prefixes.set(lines);
      else prefixes.show(emptyStatus(live.overview, "no recorded samples"));
    },
    4000,
  );
  return composite([panel, board], {
    change: (next) => {
      if (next.prompt === prompt && next.steps === steps) return;
      ({ prompt, steps } = next);
      panel.load();
    },
    close: () => {
      scatter.close();
      prefixes.close();
    },
  });
}

function showFacts(
  host,
  {
    fit,
    log_z_bounds: bounds,
    ess,
    kl_estimate: kl,
    total_variation: tv,
    from_step: from,
    to_step: to,
    explanation,
    temperature,
  },
) {
  if (!fit && !bounds)
    return void put(host, status("empty", "Too few on-policy samples are recorded for a fit."));
  const facts = [
    ["slope", number(fit?.slope)],
    ["correlation", number(fit?.correlation)],
    ["log Z, lower bound", number(bounds?.lower, "nats")],
    ["log Z, by weights", number(bounds?.mean, "nats")],
    [
      "log Z, exact",
      bounds?.exact === null || bounds?.exact === undefined ? "unknown" : number(bounds.exact, "nats"),
    ],
    ["KL(q ‖ p), estimate", number(kl, "nats")],
    ["ESS", number(ess, "share")],
    ["total variation", tv === null || tv === undefined ? "unknown" : number(tv, "share")],
    ["reward temperature", number(temperature)],
  ];
  const where = fit ? `From ${plain(fit.n)} on-policy samples, steps ${plain(from)} to ${plain(to)}.` : "";
  renew(
    host,
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, explained(name)), h("dd", {}, value))),
    ),
    h("p", { class: "note" }, [where, explanation].filter(Boolean).join(" ")),
  );
}
