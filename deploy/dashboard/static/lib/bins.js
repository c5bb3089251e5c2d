// Histograms: converts bins of the API to a plot model.

import { plain } from "./format.js";

/** A plot model of bars from [{low, high, n}], or null if all bins are empty. */
export function histogram(bins, { xTitle, label = "trajectories", n = 0, logX = false, whole = false }) {
  const kept = bins.filter((bin) => bin.n > 0 && (!logX || bin.low > 0));
  if (!kept.length) return null;
  const total = kept.reduce((sum, bin) => sum + bin.n, 0);
  const low = kept.map((bin) => bin.low),
    high = kept.map((bin) => bin.high);
  return {
    x: [...low, high.at(-1)],
    ys: [[...kept.map((bin) => bin.n), undefined]],
    series: [{ label, kind: "bars", n, dash: [] }],
    bins: { low, high },
    logX,
    xTitle,
    xText: whole ? (value) => (Number.isInteger(value) ? plain(value) : "") : plain,
    now: `${plain(total)} in total`,
  };
}
