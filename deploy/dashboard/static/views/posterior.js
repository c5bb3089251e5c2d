// How near the policy is to the posterior: log q against log R, bounds of log Z, and whether all prefixes agree on it.

import { Board } from "../lib/board.js";
import { h, put, renew } from "../lib/dom.js";
import { number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { cloud, flatness } from "../lib/posterior_plots.js";
import { promptSelect } from "../lib/prompt_select.js";
import { change } from "../lib/state.js";
import { nothingYet, status } from "../lib/status.js";
import { together } from "../lib/together.js";

const STEPS = [5, 20, 100, 500];
const exact = ({ limits }) =>
  limits.log_z_exact === null || limits.log_z_exact === undefined
    ? []
    : [{ value: limits.log_z_exact, label: "exact log Z", include: true }];
const one = (id, title, unit, name, more = {}) => ({ id, title, unit, curves: [{ name, label: title }], ...more });
const perfect = (value) => () => [{ value, label: "perfect", include: true }];

const SPECS = [
  {
    id: "log_z",
    title: "log Z, all prompts",
    unit: "nats",
    note: "The lower bound is mean log R − log q over own samples; the upper curve averages weights. They meet at the posterior.",
    curves: [
      { name: "learner.log_z_mean", label: "by importance weights" },
      { name: "learner.log_z_lower", label: "lower bound" },
      { name: "learner.log_z", label: "of the objective" },
    ],
    levels: exact,
  },
  one("var_u", "Var(u)", "nats²", "learner.var_u", { log: true, logFirst: true, note: "0 at the posterior." }),
  one("kl_estimate", "KL(q ‖ p), estimate", "nats", "learner.kl_estimate", {
    log: true,
    note: "The gap between the two bounds of log Z.",
  }),
  one("ess", "Effective sample size", "share", "learner.ess", {
    note: "Of importance weights R / q: 100 % at the posterior.",
    levels: perfect(1),
  }),
  one("slope", "Slope of log q on log R", "1", "learner.slope", { levels: perfect(1) }),
  one("correlation", "Correlation of log q and log R", "1", "learner.correlation"),
  one("tv", "Total variation", "share", "learner.total_variation", {
    log: true,
    sparse: true,
    note: "Exact, worked out now and then; only where the task lists its strings.",
    none: "no exact distances: the task does not list its strings, so there are none",
  }),
  one("kl", "KL, exact", "nats", "learner.kl", {
    log: true,
    sparse: true,
    none: "no exact distances: the task does not list its strings, so there are none",
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
    STEPS.map((n) => h("option", { value: n }, `newest ${n} noted steps`)),
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
    note: "u_i = log R(z_1:i ⊤) − log q(⊤ | z_1:i) − log q(z_1:i). Each is an estimate of log Z: all lines should lie on one another, flat.",
  });
  shapes.append(scatter.element, prefixes.element);
  root.append(
    h("div", { class: "filters" }, select.element, h("label", {}, "Samples of", window_)),
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
    (answer) => {
      facts.hidden = false;
      showFacts(facts, answer);
      const points = cloud(answer);
      if (points) scatter.set(points);
      else scatter.show(nothingYet(live.overview, "no noted samples"));
      const lines = flatness(answer);
      if (lines) prefixes.set(lines);
      else prefixes.show(nothingYet(live.overview, "no noted samples"));
    },
    4000,
  );
  return together([panel, board], {
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
    return void put(host, status("empty", "Too few on-policy samples are noted to say how near the posterior is."));
  const facts = [
    ["slope", number(fit?.slope)],
    ["correlation", number(fit?.correlation)],
    ["log Z, lower bound", number(bounds?.lower, "nats")],
    ["log Z, by weights", number(bounds?.mean, "nats")],
    [
      "log Z, exact",
      bounds?.exact === null || bounds?.exact === undefined ? "not known" : number(bounds.exact, "nats"),
    ],
    ["KL(q ‖ p), estimate", number(kl, "nats")],
    ["ESS", number(ess, "share")],
    ["total variation", tv === null || tv === undefined ? "not known" : number(tv, "share")],
    ["reward temperature", number(temperature)],
  ];
  const where = fit ? `Of ${plain(fit.n)} on-policy samples, steps ${plain(from)} to ${plain(to)}.` : "";
  renew(
    host,
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
    h("p", { class: "note" }, [where, explanation].filter(Boolean).join(" ")),
  );
}
