// Tables, and the numbers of a plot as a table.

import { h } from "./dom.js";
import { plain } from "./format.js";

const MAX_ROWS = 200;

/** The points of a plot model as a table: the newest MAX_ROWS, newest first. */
export function numbers(columns, model, title) {
  const from = Math.max(0, model.x.length - MAX_ROWS);
  const rows = [];
  for (let i = model.x.length - 1; i >= from; i -= 1) {
    rows.push([
      (model.xText ?? plain)(model.x[i]),
      ...model.ys.map((y) => (y[i] === undefined ? "" : y[i] === null ? "not finite" : plain(y[i], 6))),
    ]);
  }
  const caption = from ? `${title}: the newest ${MAX_ROWS} of ${plain(model.x.length)} points; the CSV has all.` : title;
  return table(columns, rows, caption);
}

/** A table of texts or elements. `numeric`: right-aligned columns; by default all but the first. */
export function table(columns, rows, caption, numeric = columns.map((_, n) => n > 0)) {
  const kind = (n) => ({ class: numeric[n] ? "number" : null });
  const head = h(
    "tr",
    {},
    columns.map((column, n) => h("th", { scope: "col", ...kind(n) }, column)),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell, n) => (n ? h("td", kind(n), cell) : h("th", { scope: "row", ...kind(n) }, cell))),
    ),
  );
  return h("table", {}, caption && h("caption", {}, caption), h("thead", {}, head), h("tbody", {}, body));
}
