// The tables of the compare view: differences of the configurations, and results of base and trained models side by side.

import { h, scroller } from "./dom.js";
import { plain } from "./format.js";
import { change } from "./state.js";
import { status } from "./status.js";
import { table } from "./table.js";
import { oneLine, safeText } from "./text.js";

/** Both tables of a response of /api/compare, runs in the order of `sort`: a figure after training, "-" for lowest first. */
export function compareTables({ runs, config, same_fields: same, summary }, sort) {
  const results = pairs(summary);
  const order = orderOf(results, sort, runs.length);
  const names = order.map((n) => oneLine(runs[n].name, 40));
  const fields = config.map((row) => [broken(row.field), ...order.map((n) => value(row.values[n]))]);
  const figures = results.map(({ name, before, after }) => [
    broken(name),
    ...order.flatMap((n) => [figure(before[n]), h("b", {}, figure(after[n]))]),
  ]);
  const sides = names.flatMap((name) => [`${name}, base`, `${name}, trained`]);
  const caption = `${plain(same)} fields are the same in all runs.`;
  return [
    part("Results", ["figure", ...sides], figures, "None of these runs has a summary yet.", null, sortSelect(results, sort)),
    part("Configuration", ["field", ...names], fields, "The configurations are the same.", caption),
  ];
}

/** The figures of a summary, each with its values before and after training: [{name, before, after}]. */
function pairs(summary) {
  const byName = new Map();
  for (const { figure, values } of summary) {
    const [side, name] = [figure.slice(0, figure.indexOf(".")), figure.slice(figure.indexOf(".") + 1)];
    const none = values.map(() => null);
    if (!byName.has(name)) byName.set(name, { name, before: none, after: none });
    byName.get(name)[side === "before" ? "before" : "after"] = values;
  }
  return [...byName.values()];
}

/** The numbers of the runs in order; runs without the figure come last. */
function orderOf(results, sort = "", n = 0) {
  const order = [...Array(n).keys()];
  const lowestFirst = sort.startsWith("-");
  const row = results.find(({ name }) => name === sort.replace(/^-/, ""));
  if (!row) return order;
  const key = (k) => (Number.isFinite(row.after[k]) ? (lowestFirst ? row.after[k] : -row.after[k]) : Infinity);
  return order.sort((a, b) => (key(a) === key(b) ? a - b : key(a) - key(b)));
}

function sortSelect(results, sort = "") {
  const option = (value, text) => h("option", { value }, text);
  const select = h(
    "select",
    { onchange: () => change({ sort: select.value }) },
    option("", "as chosen"),
    results.map(({ name }) => [
      option(name, `${oneLine(name, 60)}, highest first`),
      option(`-${name}`, `${oneLine(name, 60)}, lowest first`),
    ]),
  );
  select.value = sort;
  return h("label", { class: "inline" }, "Sort runs by ", select);
}

function part(heading, columns, rows, none, caption, control = null) {
  const body = rows.length ? [control, scroller(heading, table(columns, rows, caption))] : [status("empty", none)];
  return h("section", { class: "card compared" }, h("h2", {}, heading), body);
}

/** A dotted name that breaks after dots and underscores only. */
function broken(name) {
  const words = oneLine(name, 80).split(/(?<=[._])/);
  return h("span", { class: "whole-words" }, words.flatMap((word) => [word, h("wbr")]));
}

function figure(one) {
  return typeof one === "number" ? plain(one) : "n/a";
}

function value(one) {
  if (one === null) return h("span", { class: "note" }, "not set");
  return safeText(typeof one === "string" ? one : JSON.stringify(one), 120);
}
