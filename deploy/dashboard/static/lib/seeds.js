// Runs that differ in their seed alone as one curve: their mean, in a band from the lowest to the highest of them.

import { h } from "./dom.js";
import { change } from "./state.js";

/** Lists of run numbers: the runs of a list have the same configuration but for the seed. `config`: of /api/compare. */
export function seedGroups(config, runs) {
  const fields = config.filter(({ field }) => field !== "seed");
  const seeds = config.find(({ field }) => field === "seed")?.values ?? [];
  const groups = new Map();
  for (let n = 0; n < runs; n += 1) {
    const key = JSON.stringify(fields.map(({ values }) => values[n] ?? null));
    groups.set(key, [...(groups.get(key) ?? []), n]);
  }
  const differ = (group) => group.every((n) => Number.isInteger(seeds[n])) && new Set(group.map((n) => seeds[n])).size === group.length;
  return [...groups.values()].flatMap((group) => (differ(group) ? [group] : group.map((n) => [n])));
}

/** A button that draws runs of several seeds as one line, or apart. */
export function seedButton(together) {
  const onclick = () => change({ seeds: together ? "apart" : "" });
  return h("button", { type: "button", class: "quiet", "aria-pressed": String(together), onclick }, "seeds as one line");
}

/** The curves {mean, low, high} of curves [{x, y}], at each x within the range of all of them; null if there is none. */
export function spread(curves) {
  const lines = curves.map(finite).filter(({ x }) => x.length);
  const from = Math.max(...lines.map(({ x }) => x[0])),
    to = Math.min(...lines.map(({ x }) => x.at(-1)));
  const xs = [...new Set(lines.flatMap(({ x }) => x))].filter((x) => x >= from && x <= to).sort((a, b) => a - b);
  if (!xs.length) return null;
  const values = lines.map((line) => interpolated(line, xs));
  const each = (one) => ({ x: xs, y: xs.map((_, i) => one(values.map((y) => y[i]))) });
  return {
    mean: each((y) => y.reduce((sum, value) => sum + value, 0) / y.length),
    low: each((y) => Math.min(...y)),
    high: each((y) => Math.max(...y)),
  };
}

function finite({ x, y }) {
  const kept = x.map((_, i) => i).filter((i) => Number.isFinite(y[i]));
  return { x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}

/** The values of a line at sorted `xs` within its range. */
function interpolated({ x, y }, xs) {
  let i = 0;
  return xs.map((at) => {
    while (i < x.length - 1 && x[i + 1] <= at) i += 1;
    if (x[i] === at || i === x.length - 1) return y[i];
    return y[i] + ((at - x[i]) / (x[i + 1] - x[i])) * (y[i + 1] - y[i]);
  });
}
