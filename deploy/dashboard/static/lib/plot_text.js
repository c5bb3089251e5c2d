// What a plot says in words: its unit, the values under the cursor, and what is not drawn.

import { plain } from "./format.js";
import { plainly } from "./text.js";

/** A unit in words for a heading. */
export function unitText(unit) {
  if (unit === "share") return "%";
  return unit === "1" || !unit ? "no unit" : plainly(unit);
}

/** The text of a value in a unit, for axes and legends. */
export function texts(unit) {
  return (value, significant = 4) => (unit === "share" ? `${plain(100 * value, 3)} %` : plain(value, significant));
}

/** Values under the cursor: {said: one text a series, spot: where and what in short, heard: all of it}. */
export function readAt({ series, ys, x, xTitle, xText = plain, yText = plain }, idxs, idx) {
  const text = (value) => (value === undefined ? "" : value === null ? "not finite" : yText(value));
  const said = ys.map((y, n) => text(y[idxs[n]]));
  const where = `${xTitle} ${xText(x[idx])}`.trim();
  const spot = series.length === 1 ? `${said[0]} at ${where}` : `at ${where}`;
  const each = series.length > 1 ? series.map((one, n) => said[n] && `${one.label} ${said[n]}`) : [];
  return { said, spot, heard: [spot, ...each].filter(Boolean).join(", ") };
}

/** What the drawing leaves out or marks. */
export function remarks({ ys, marks = [], moments = [], remark }, logY) {
  const low = (value) => Number.isFinite(value) && value <= 0;
  const below = logY ? ys.reduce((sum, y) => sum + y.filter(low).length, 0) : 0;
  const gone = marks.length === 1 ? "one value is" : `${plain(marks.length)} values are`;
  const said = [
    remark,
    marks.length && `✕ ${gone} not finite: a gap with a mark.`,
    below && `${plain(below)} values ≤ 0 have no place on a log axis.`,
    moments.length && "▼ an event, see Events.",
  ];
  return said.filter(Boolean).join(" ");
}

/** What a screen reader hears of the drawing. */
export function spokenTitle({ title, unit }, { series, now }) {
  const names = series.slice(0, 8).map((one) => one.label);
  const curves = series.length === 1 ? "" : `${series.length} curves: ${names.join(", ")}. `;
  const newest = now ? `Now ${now}. ` : "";
  return `${title}, ${unitText(unit)}. ${curves}${newest}Arrow keys read it point by point; the table has all numbers.`;
}
