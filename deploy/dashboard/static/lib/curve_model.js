// The plot model of curves of one run: lines, gaps, levels and event marks.

import { align } from "./align.js";
import { AXES } from "./axes.js";
import { aimLevels } from "./figures.js";
import { number, plain } from "./format.js";
import { valueText } from "./plot_text.js";
import { oneLine } from "./text.js";

const FEWEST = 5; // points of a curve that counts as constant

/** The model of `spec` from its loaded curves [{name, label, n, x, y, last, ...}]; null if none has a point. */
export function curveModel(spec, loaded, { x: axis, events, overview }) {
  const curves = loaded
    .filter((curve) => curve.x?.length)
    .map(drawable)
    .filter((curve) => curve.x.length);
  if (!curves.length) return null;
  const { x, ys } = align(curves);
  const text = valueText(spec.unit);
  const at = (name) => curves.findIndex((curve) => curve.name === name);
  const band =
    spec.band && at(spec.band.upper) >= 0 && at(spec.band.lower) >= 0
      ? [{ upper: at(spec.band.upper), lower: at(spec.band.lower), n: spec.band.n ?? 0, opacity: 0.16 }]
      : [];
  const line = ({ label, n, dash, width, opacity }) => ({
    label: oneLine(label, 60),
    kind: "line",
    n,
    dash: curves.length === 1 ? [] : dash,
    width,
    opacity,
  });
  return {
    x,
    ys,
    series: curves.map(line),
    bands: band,
    levels: [...(spec.figure ? aimLevels(spec.figure) : []), ...(overview ? (spec.levels?.(overview) ?? []) : [])],
    marks: [...new Set(curves.flatMap((curve) => curve.gaps))],
    events,
    xTitle: AXES[axis].title,
    xText: AXES[axis].value,
    yText: text,
    values: curves.map((curve) => newestText(curve, text)),
    now:
      curves.length === 1 || spec.lead ? newestText(curves[0], (value) => number(value, spec.unit)) : "",
    remark: curves.some((curve) => curve.decimated) ? "Decimated: each interval shows its extreme values." : "",
  };
}

/** The newest value of a curve, or how often it has one if it has none at present. */
export function newestText({ name, last, finite, of }, text) {
  if (last !== null) return text(last);
  const unit = /^(learner|prompt)\./.test(name) ? "steps" : "readings";
  return `n/a (${plain(finite)} of ${plain(of)} ${unit})`;
}

/** The value of curves that never change, as {name: value} text; null if one of them does, or is too short to tell. */
export function constantText(spec, loaded) {
  const curves = loaded.filter((curve) => curve.y?.length);
  const isConstant = ({ y }) => y.length >= FEWEST && y.every((value) => value !== null && value === y[0]);
  if (!curves.length || !curves.every(isConstant)) return null;
  const text = valueText(spec.unit);
  const value = (curve) => text(curve.y[0]);
  if (curves.length === 1) return `${spec.title} ${value(curves[0])}`;
  return `${spec.title}: ${curves.map((curve) => `${oneLine(curve.label, 40)} ${value(curve)}`).join(", ")}`;
}

/**
 * The curve with the points that a line is drawn through, and `gaps`: the x of values that are not finite. A curve
 * that is computed at some steps only (`sparse`) has no gaps. In a decimated curve a single null is narrower than a
 * pixel: it is marked, but the line is not broken.
 */
function drawable(curve) {
  const { x, y, decimated, sparse } = curve;
  const isolated = (i) => y[i - 1] !== null && y[i + 1] !== null;
  const kept = x.map((_, i) => i).filter((i) => y[i] !== null || !(sparse || (decimated && isolated(i))));
  const gaps = sparse ? [] : x.filter((_, i) => y[i] === null);
  return { ...curve, gaps, x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}
