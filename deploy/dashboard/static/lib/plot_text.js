// Texts of a plot: unit, values under the cursor, remarks on values that are not drawn, label for screen readers.

import { plain } from "./format.js";
import { oneLine } from "./text.js";

/** The unit for a heading. */
export function unitText(unit) {
  if (unit === "share") return "%";
  return unit === "1" || !unit ? "no unit" : oneLine(unit);
}

/** A function that formats values of a unit, for axes and legends. */
export function valueText(unit) {
  return (value, significant = 4) => (unit === "share" ? `${plain(100 * value, 3)} %` : plain(value, significant));
}

/** Values under the cursor: {texts: one per series, position: short text, spoken: all of it for screen readers}. */
export function readAt({ series, ys, x, xTitle, xText = plain, yText = plain }, idxs, idx) {
  const text = (value) => (value === undefined ? "" : value === null ? "not finite" : yText(value));
  const texts = ys.map((y, n) => text(y[idxs[n]]));
  const where = `${xTitle} ${xText(x[idx])}`.trim();
  const shown = series.filter((one) => !one.quiet).length;
  const position = shown === 1 ? `${texts[0]} at ${where}` : `at ${where}`;
  const each = shown > 1 ? series.map((one, n) => !one.quiet && texts[n] && `${one.label} ${texts[n]}`) : [];
  return { texts, position, spoken: [position, ...each].filter(Boolean).join(", ") };
}

/** Remarks on values that the drawing omits or marks. */
export function remarks({ ys, marks = [], remark }, logY) {
  const nonPositive = (value) => Number.isFinite(value) && value <= 0;
  const omitted = logY ? ys.reduce((sum, y) => sum + y.filter(nonPositive).length, 0) : 0;
  const count = marks.length === 1 ? "one value is" : `${plain(marks.length)} values are`;
  const sentences = [
    remark,
    marks.length && `✕ ${count} not finite, shown as a gap with a mark.`,
    omitted && `${plain(omitted)} values ≤ 0 can't be shown on a log axis.`,
  ];
  return sentences.filter(Boolean).join(" ");
}

/** The texts of the event marks that stand within `reach` of x, the newest first. */
export function eventsAt({ events = [] }, x, reach) {
  return events.filter((event) => Math.abs(event.x - x) <= reach).map((event) => oneLine(event.text, 300));
}

/** The label of the drawing for screen readers. */
export function ariaLabel({ title, unit }, { series, now }) {
  const names = series.slice(0, 8).map((one) => one.label);
  const curves = series.length === 1 ? "" : `${series.length} curves: ${names.join(", ")}. `;
  const newest = now ? `Now ${now}. ` : "";
  return `${title}, ${unitText(unit)}. ${curves}${newest}Arrow keys read it point by point; the table has the numbers.`;
}
