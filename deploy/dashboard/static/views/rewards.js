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

const dotted = { dash: [2, 3], width: 1 },
  dashed = { dash: [7, 4], width: 1.2 };

const SPECS = [
  {
    id: "fan",
    title: "log R of fresh on-policy strings",
    wide: true,
    note: `log R: ${GLOSSARY["log R"]}. Quantiles of each recorded step; the middle half is shaded.`,
    figures: [
      { name: "learner.log_reward_q95", label: "95 %", n: 0, ...dotted },
      { name: "learner.log_reward_q75", label: "75 %", n: 0, ...dashed },
      { name: "learner.log_reward_q50", label: "median", n: 0, dash: [], width: 2.4 },
      { name: "learner.log_reward_q25", label: "25 %", n: 0, ...dashed },
      { name: "learner.log_reward_q05", label: "5 %", n: 0, ...dotted },
    ],
    band: { upper: "learner.log_reward_q75", lower: "learner.log_reward_q25" },
  },
  { id: "mean", figure: "learner.log_reward" },
  { id: "terms", title: "Mean of each term", figure: "learner.terms.NAME" },
  { id: "labels", title: "Labels of the task", figure: "learner.labels.NAME", none: "no labels of this task" },
  { id: "diversity", title: "Diversity", figures: ["learner.diversity", "learner.diversity_good"] },
  { id: "length", figure: "learner.length" },
  { id: "ends", title: "How completions end", figures: ["learner.stopped", "learner.cut"] },
  { id: "entropy", figure: "learner.entropy" },
  { id: "cache", figure: "reward.NAME.cache_hits" },
  { id: "speed", figure: "reward.NAME.strings_per_s" },
  { id: "slowest", figure: "reward.NAME.slowest_s" },
  { id: "function", figure: "reward.NAME.function_s" },
];

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
