// The learner view: loss, gradient, learning rate, time of a step.

import { Board } from "../lib/board.js";
import { h } from "../lib/dom.js";

const SPECS = [
  { id: "loss", figure: "learner.loss" },
  {
    id: "grad",
    figure: "learner.grad_norm",
    levels: ({ limits }) =>
      limits.max_grad_norm ? [{ value: limits.max_grad_norm, label: "clipped above", include: true }] : [],
  },
  {
    id: "split",
    title: "Time of a step",
    lead: true,
    note: "The whole step and its parts.",
    figures: ["learner.step_s", "learner.work_s", "learner.wait_s", "learner.publish_s"],
  },
  { id: "busy", figure: "learner.utilisation" },
  { id: "nodes", figure: "learner.nodes_per_s" },
  { id: "rate", figure: "learner.learning_rate" },
  { id: "temperature", figure: "learner.reward_temperature" },
  { id: "beta", figure: "learner.beta" },
  { id: "skipped", figure: "learner.skipped_steps" },
  { id: "rows", title: "Rows of a batch", figures: ["learner.fresh", "learner.on_policy"] },
  { id: "staleness", title: "Staleness of a batch", figures: ["learner.staleness_mean", "learner.staleness_max"] },
];

export function render(root, live, params) {
  const board = new Board(live, params);
  const cards = h("div", { class: "cards" });
  root.append(board.bar, cards);
  for (const spec of SPECS) board.add(cards, spec);
  board.load();
  return {
    tick: () => board.tick(),
    reset: () => board.load(),
    change: (next) => board.change(next),
    close: () => board.close(),
  };
}
