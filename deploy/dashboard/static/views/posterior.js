// The posterior view: log q against log R, estimates of log Z, and the estimates u of log Z by prefix.

import { Board } from "../lib/board.js";
import { newestText } from "../lib/curve_model.js";
import { h, put, renew } from "../lib/dom.js";
import { fact, factList } from "../lib/facts.js";
import { number, plain } from "../lib/format.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { prefixModel, scatterModel } from "../lib/posterior_plots.js";
import { GLOSSARY, glossary } from "../lib/glossary.js";
import { promptSelect } from "../lib/prompt_select.js";
import { change } from "../lib/state.js";
import { emptyStatus, status } from "../lib/status.js";
import { composite } from "../lib/composite.js";

const STEPS = [5, 20, 100, 500];
const exact = ({ limits }) =>
  limits.log_z_exact === null || limits.log_z_exact === undefined
    ? []
    : [{ value: limits.log_z_exact, label: "exact log Z", include: true }];
const unlisted = "no exact distances (they need a task that lists its strings)";

const SPECS = [
  {
    id: "log_z",
    title: "log Z, all prompts",
    note: `log Z: ${GLOSSARY["log Z"]}. The lower and the mean estimate meet at the posterior, and where the policy never draws the rest of it.`,
    figures: ["learner.log_z_mean", "learner.log_z_lower", { name: "learner.log_z", label: "of the objective" }],
    levels: exact,
  },
  { id: "missing", figure: "learner.missing_mass" },
  { id: "var_u", figure: "learner.var_u" },
  { id: "kl_estimate", figure: "learner.kl_estimate" },
  { id: "ess", figure: "learner.ess" },
  { id: "slope", figure: "learner.slope" },
  { id: "correlation", figure: "learner.correlation" },
  { id: "tv", figure: "learner.total_variation", none: unlisted },
  { id: "kl", figure: "learner.kl", none: unlisted },
  { id: "prompts_low", title: "log Z, lower estimate of each prompt", figure: "prompt.ID.log_z_lower", levels: exact },
  { id: "prompts_mean", title: "log Z, mean estimate of each prompt", figure: "prompt.ID.log_z_mean", levels: exact },
];

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
    slope,
    correlation,
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
    fact("learner.slope", slope.last, newestText({ name: "learner.slope", ...slope }, (value) => plain(value))),
    fact("learner.correlation", correlation.last, newestText({ name: "learner.correlation", ...correlation }, (value) => plain(value))),
    fact("learner.log_z_lower", bounds?.lower),
    fact("learner.log_z_mean", bounds?.mean),
    [
      "log Z, exact",
      bounds?.exact === null || bounds?.exact === undefined ? "unknown" : number(bounds.exact, "nats"),
    ],
    fact("learner.kl_estimate", kl),
    fact("learner.ess", ess),
    fact("learner.total_variation", tv, tv === null || tv === undefined ? "unknown" : undefined),
    fact("learner.reward_temperature", temperature),
  ];
  const where = fit ? `From ${plain(fit.n)} on-policy samples, steps ${plain(from)} to ${plain(to)}.` : "";
  renew(
    host,
    factList(facts),
    h("p", { class: "note" }, [where, explanation].filter(Boolean).join(" ")),
  );
}
