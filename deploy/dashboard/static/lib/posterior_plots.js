// The two plots of the posterior view: log q against log R, and u by position.

import { plain } from "./format.js";
import { oneLine } from "./text.js";

/** The plot model of log q against log R / T: on-policy samples as dots, others as rings, and the line of slope 1. */
export function scatterModel({ scatter, fit }) {
  const total = scatter?.log_reward?.length ?? 0;
  const order = [...Array(total).keys()]
    .filter((i) => scatter.log_reward[i] !== null && scatter.log_q[i] !== null)
    .sort((a, b) => scatter.log_reward[a] - scatter.log_reward[b]);
  if (!order.length) return null;
  const x = order.map((i) => scatter.log_reward[i]);
  const pick = (onPolicy) => order.map((i) => (scatter.on_policy[i] === onPolicy ? scatter.log_q[i] : undefined));
  const ys = [pick(true), pick(false)];
  const series = [
    { label: "on-policy", kind: "dots", n: 0 },
    { label: "other behaviours", kind: "rings", n: 1 },
  ];
  if (fit?.log_z !== null && fit?.log_z !== undefined) {
    ys.push(x.map((value) => value - fit.log_z));
    series.push({ label: "slope 1 (posterior)", kind: "line", token: "--level", dash: [5, 4] });
  }
  return { x, ys, series, xTitle: "log R / T, nats", now: fit ? fitText(fit) : "" };
}

/** The line through these points; it is not defined where all rewards are equal, or all but one. */
function fitText({ slope, n }) {
  return `slope of these ${plain(n)} samples ${slope === null ? "n/a" : plain(slope, 3)}`;
}

/** The plot model of u by prefix position: single strings, their mean, and the middle 80 %. */
export function prefixModel({ u, log_z_bounds: bounds }) {
  if (!u?.position?.length) return null;
  const lines = u.lines ?? [];
  const padded = (values) => u.position.map((_, i) => (i < values.length ? (values[i] ?? undefined) : undefined));
  return {
    x: u.position,
    ys: [u.q90, u.mean, u.q10, ...lines.map((line) => padded(line.u))],
    series: [
      { label: "90 %", kind: "line", n: 0, dash: [2, 3], width: 1 },
      { label: "mean", kind: "line", n: 0, dash: [], width: 2.6 },
      { label: "10 %", kind: "line", n: 0, dash: [2, 3], width: 1 },
      ...lines.map((line) => ({
        label: `sample ${oneLine(line.id)}`,
        kind: "line",
        n: 6,
        opacity: 0.35,
        dash: [],
        width: 1,
        quiet: true,
      })),
    ],
    bands: [{ upper: 0, lower: 2, n: 0, opacity: 0.14 }],
    levels:
      bounds?.exact === null || bounds?.exact === undefined
        ? []
        : [{ value: bounds.exact, label: "exact log Z", include: true }],
    xTitle: "prefix length, tokens",
    xText: (value) => (Number.isInteger(value) ? plain(value) : ""),
    remark: lines.length ? `Thin lines: ${lines.length} single strings.` : "",
  };
}
