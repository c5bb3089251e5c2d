// The learner view: loss, gradient, learning rate, time of a step.

import { Board } from "../lib/board.js";
import { h } from "../lib/dom.js";

const one = (id, title, unit, name, more = {}) => ({ id, title, unit, curves: [{ name, label: title }], ...more });

const SPECS = [
  one("loss", "Loss", "nats²", "learner.loss", { log: true, logFirst: true }),
  one("grad", "Gradient norm", "1", "learner.grad_norm", {
    log: true,
    note: "Larger gradients are clipped to the line.",
    levels: ({ limits }) =>
      limits.max_grad_norm ? [{ value: limits.max_grad_norm, label: "clipped above", include: true }] : [],
  }),
  {
    id: "split",
    title: "Time of a step",
    unit: "s",
    log: true,
    lead: true,
    note: "The whole step and its parts: waiting for data, computing, publishing the adapter.",
    curves: [
      { name: "learner.step_s", label: "whole step" },
      { name: "learner.work_s", label: "computing" },
      { name: "learner.wait_s", label: "waiting" },
      { name: "learner.publish_s", label: "publishing" },
    ],
  },
  one("busy", "Utilisation", "share", "learner.utilisation", {
    note: "Share of its time in which the learner does not wait for data.",
  }),
  one("nodes", "Positions computed", "tokens/s", "learner.nodes_per_s"),
  one("rate", "Learning rate", "1", "learner.learning_rate", { log: true }),
  one("temperature", "Reward temperature", "1", "learner.reward_temperature", {
    note: "The target is R^(1/T); at T = 1 it is the posterior.",
  }),
  one("skipped", "Skipped steps", "steps", "learner.skipped_steps", {
    note: "Steps whose loss or gradient was not finite; their batches are in quarantine.",
  }),
  {
    id: "rows",
    title: "Rows of a batch",
    unit: "trajectories",
    curves: [
      { name: "learner.fresh", label: "fresh" },
      { name: "learner.on_policy", label: "on-policy" },
    ],
  },
  {
    id: "staleness",
    title: "Staleness of a batch",
    unit: "versions",
    curves: [
      { name: "learner.staleness_mean", label: "mean" },
      { name: "learner.staleness_max", label: "largest" },
    ],
  },
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
