// The rewards view: distribution of log R, its terms, its course along a string, and the best strings.

import { histogram } from "../lib/bins.js";
import { Board } from "../lib/board.js";
import { h } from "../lib/dom.js";
import { Panel } from "../lib/panel.js";
import { Plot } from "../lib/plot.js";
import { GLOSSARY } from "../lib/glossary.js";
import { promptSelect } from "../lib/prompt_select.js";
import { prefixModel, showLists } from "../lib/reward_parts.js";
import { emptyStatus } from "../lib/status.js";
import { composite } from "../lib/composite.js";

const fan = (name, label, more) => ({ name: `learner.log_reward_${name}`, label, n: 0, ...more });
const dotted = { dash: [2, 3], width: 1 },
  dashed = { dash: [7, 4], width: 1.2 };

const SPECS = [
  {
    id: "fan",
    title: "log R of fresh on-policy strings",
    unit: "nats",
    wide: true,
    note: `log R: ${GLOSSARY["log R"]}. Quantiles of each recorded step; the middle half is shaded.`,
    curves: [
      fan("q95", "95 %", dotted),
      fan("q75", "75 %", dashed),
      fan("q50", "median", { dash: [], width: 2.4 }),
      fan("q25", "25 %", dashed),
      fan("q05", "5 %", dotted),
    ],
    band: { upper: "learner.log_reward_q75", lower: "learner.log_reward_q25" },
  },
  { id: "mean", title: "Mean log R", unit: "nats", curves: [{ name: "learner.log_reward", label: "mean" }] },
  {
    id: "terms",
    title: "Mean of each term",
    unit: "nats",
    match: /^learner\.terms\./,
    label: (entry) => entry.title,
    note: "Unweighted. Terms that begin with _ are for information and not part of log R.",
  },
  {
    id: "labels",
    title: "Labels of the task",
    unit: "1",
    match: /^learner\.labels\./,
    label: (entry) => entry.title,
    none: "no labels of this task",
  },
  {
    id: "diversity",
    title: "Diversity",
    unit: "share",
    note: "Share of distinct strings among the fresh on-policy rows of a step.",
    curves: [{ name: "learner.diversity", label: "distinct" }],
  },
  {
    id: "cache",
    title: "Scores from the cache",
    unit: "share",
    match: /^reward\..*\.cache_hits$/,
    label: worker,
  },
  { id: "speed", title: "Strings scored", unit: "1/s", match: /^reward\..*\.strings_per_s$/, label: worker },
  {
    id: "slowest",
    title: "Slowest call of the reward function",
    unit: "s",
    log: true,
    match: /^reward\..*\.slowest_s$/,
    label: worker,
  },
  {
    id: "function",
    title: "Mean call of the reward function",
    unit: "s",
    log: true,
    match: /^reward\..*\.function_s$/,
    label: worker,
  },
];

function worker(entry) {
  return entry.name.replace(/^reward\.(.*)\.\w+$/, "$1");
}

export function render(root, live, params) {
  const board = new Board(live, params);
  const select = promptSelect(live.run, params.prompt);
  const state = h("div", {}),
    shapes = h("div", { class: "cards pair" }),
    lists = h("div", { class: "cards pair" }),
    cards = h("div", { class: "cards" });
  const distribution = new Plot({ title: "log R now", unit: "trajectories", log: true });
  const course = new Plot({
    title: "log R along the string",
    unit: "nats",
    note: "Mean log R of stopping after each prefix. The middle 80 % is shaded.",
  });
  shapes.append(distribution.element, course.element);
  root.append(
    h("div", { class: "filters" }, select.element),
    state,
    shapes,
    lists,
    h("h2", {}, "Over time"),
    board.bar,
    cards,
  );
  for (const spec of SPECS) board.add(cards, spec);
  let prompt = params.prompt;

  const panel = new Panel(
    state,
    () => ["rewards", { run: live.run, prompt }],
    (response) => {
      const bars = histogram(response.histogram?.bins ?? [], { xTitle: "log R, nats", n: 0 });
      if (bars)
        distribution.set({
          ...bars,
          remark: response.histogram.of === "buffer" ? "All trajectories in the buffer." : "Recorded samples.",
        });
      else distribution.show(emptyStatus(live.overview, "no scored strings"));
      const model = prefixModel(response.per_prefix);
      if (model) course.set(model);
      else course.show(emptyStatus(live.overview, "no recorded samples"));
      showLists(lists, response, live.run);
    },
    4000,
  );
  return composite([panel, board], {
    change: (next) => {
      if (next.prompt !== prompt) {
        prompt = next.prompt;
        panel.load();
      }
    },
    close: () => {
      distribution.close();
      course.close();
    },
  });
}
